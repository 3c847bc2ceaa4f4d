"""scapy's layers as a witness: they say of sound messages what we say, build them, and answer."""

from __future__ import annotations

from context_examples import VALUES
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, fuzz
from test_wireshark import generated
from witnesses import scapy_packets
from witnesses.normal_form import ours

from contexts.base import encode
from cxtp.scapy_layers import CTAA, CTAR, CTC, CTD, CTDR, CXTP, PCTD, CTReq, CXTPBlock, CXTPRequested, context_of
from cxtp.scapy_layers.contexts import CONTEXTS
from cxtp.wire import parse


def test_the_same_fields() -> None:
    compared = 0
    for octets in generated(500):
        found = ours(octets)
        assert found is not None
        if "refused" in str(found.get("contexts")) or any("status" in c for c in found.get("contexts", [])):
            continue
        assert scapy_packets.normal(octets) == scapy_packets.without_vendor_values(found), octets.hex()
        compared += 1
    assert compared > 900


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
