"""scapy's layers as a witness: they say of sound messages what we say, build them, and answer."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from context_examples import VALUES
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, fuzz
from spoiled import generated, spoiled_contexts, spoiled_messages
from witnesses import scapy_packets
from witnesses.normal_form import Normal, ours

from contexts.base import encode
from cxtp.scapy_layers import CTAA, CTAR, CTC, CTD, CTDR, CXTP, PCTD, CTReq, CXTPBlock, CXTPRequested, context_of
from cxtp.scapy_layers.contexts import CONTEXTS, VENDOR, parameter_class
from cxtp.wire import parse


def refuses_a_context(found: Normal) -> bool:
    return "refused" in str(found.get("contexts")) or any("status" in c for c in found.get("contexts", []))


def test_the_same_fields() -> None:
    """Read strictly and dissected by scapy's own means; vendors' values too."""
    compared = 0
    for octets in generated(500):
        found = ours(octets)
        assert found is not None
        assert scapy_packets.normal(octets) == found, octets.hex()
        if not refuses_a_context(found):
            assert scapy_packets.dissected(octets) == found, octets.hex()
            compared += 1
    assert compared > 900


def test_the_same_verdict_on_spoiled_messages() -> None:
    """Good or not, the status of each context in it, and field by field what is left.  tshark: test_wireshark.py."""
    verdicts: Counter[str] = Counter()
    for number, octets in enumerate([*spoiled_messages(3000), *spoiled_contexts(3000)]):
        found = ours(octets)
        assert scapy_packets.normal(octets) == found, octets.hex()
        statuses = [] if found is None else [c["status"] for c in found.get("contexts", []) if "status" in c]
        verdicts["refused" if found is None else f"status {statuses[0]}" if statuses else "good"] += 1
        if number % 10 == 0:  # whatever it is, scapy's own dissection shows something
            assert len(IP(bytes(IP() / UDP(sport=5091, dport=5091) / octets))) == 28 + len(octets)
    assert min(verdicts[kind] for kind in ("refused", "good", "status 3", "status 4", "status 11")) > 20, verdicts


@pytest.mark.parametrize(("enterprise", "number", "value", "shown"), [
    (0, 1, b"road warrior", {"text": b"road warrior"}),
    (0, 2, bytes.fromhex("0300000561406267"), None),  # Length is one octet too many
    (0, 2, bytes.fromhex("0300000461406267"), {"type": 3, "data": b"a@bg"}),
    (0, 3, bytes.fromhex("04c0000201"), {"address": ["192.0.2.1"]}),
    (0, 5, bytes.fromhex("04c000020106") + bytes(15) + b"\1", {"address": ["192.0.2.1", "::1"]}),
    (0, 4, bytes.fromhex("05c0000201"), None),
    (0, 6, b"\xff", None),
    (36906, 2, bytes(3) + b"\x05", {"bits": 5}),
    (36906, 7, b"kept", {"value": b"kept"}),
])  # fmt: skip
def test_a_vendors_value_is_a_layer(
    enterprise: int, number: int, value: bytes, shown: dict[str, object] | None
) -> None:
    octets = b"\x80\0" + struct.pack("!HIH", 6 + len(value), enterprise, number) + value
    cls = parameter_class(0xFF01, octets)
    packet = cls(octets)
    if shown is None:  # octets that nobody refuses (docs/context-formats.md, 4.4)
        assert (cls, packet.value) == (VENDOR, value)
        return
    for name, expected in shown.items():
        found = getattr(packet, name)
        assert ([item.item for item in found] if isinstance(found, list) else found) == expected
    packet.clear_cache()
    assert bytes(packet) == octets


def test_what_was_read_is_built_again() -> None:
    for octets in generated(100):
        packet = CXTP(octets)
        packet.clear_cache()
        assert bytes(packet) == octets


def test_lengths_and_presence_are_computed() -> None:
    for value in list(VALUES.values())[:2]:
        encoded = encode(value)
        context = CONTEXTS[encoded.feature_profile_type](encoded.data)
        assert context.presence == encoded.presence_vector
        context.clear_cache()
        assert bytes(context) == encoded.data
        block = CXTPBlock(fpt=encoded.feature_profile_type, presence_vector=context.presence, data=bytes(context))
        message = parse(bytes(CTD(mn_address="192.0.2.7", cdb=[block])))
        assert message.blocks[0].data.rstrip(b"\0") == encoded.data.rstrip(b"\0")  # type: ignore[union-attr]
        assert len(context_of(CXTP(bytes(CTD(mn_address="192.0.2.7", cdb=[block]))).cdb)) == 1


def test_answers() -> None:
    pairs: list[tuple[Packet, Packet]] = [
        (CTAR(mn_address="192.0.2.7"), CTAA(mn_address="192.0.2.7")),
        (CTReq(mn_address="192.0.2.7"), CTD(mn_address="192.0.2.7")),
        (CTReq(mn_address="192.0.2.7"), PCTD(mn_address="192.0.2.7")),
        (CTD(mn_address="192.0.2.7"), CTDR(mn_address="192.0.2.7")),
    ]
    for request, answer in pairs:
        there = IP(bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5091, dport=5091) / request))
        back = IP(bytes(IP(src="192.0.2.2", dst="192.0.2.1") / UDP(sport=5091, dport=5091) / answer))
        assert back.answers(there)
        assert back.hashret() == there.hashret()
        assert not there[UDP].payload.answers(back[UDP].payload)
        answer.mn_address = "192.0.2.8"
        assert not answer.answers(request)


def test_fuzz() -> None:
    for cls in (CTAR, CTAA, CTD, PCTD, CTDR, CTC, CTReq, CXTPBlock, CXTPRequested):
        assert bytes(fuzz(cls()))
