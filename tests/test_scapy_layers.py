"""scapy's layers as a witness: they say of sound messages what we say, build them, and answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from context_examples import VALUES
from node_helpers import MN, lab, recorded_contexts, until
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw, fuzz
from scapy.supersocket import SimpleSocket
from scapy.utils import wrpcap
from spoiled import generated, spoiled_contexts, spoiled_messages
from witnesses import scapy_packets
from witnesses.normal_form import Normal, ours

from contexts.base import encode
from cxtp.adapters.capture import ip_packets
from cxtp.conformance.records import RecordReader
from cxtp.scapy_layers import (
    CTAA,
    CTAR,
    CTC,
    CTD,
    CTDR,
    CXTP,
    PCTD,
    CTReq,
    CXTPBlock,
    CXTPRequested,
    CXTPStatus,
    ExperimentalMobility,
    ExperimentalMobilityV6,
    context_of,
    read_context,
    whole_contexts,
)
from cxtp.scapy_layers.contexts import CONTEXTS, PARAMETERS, VENDOR, VENDORS, parameter_class
from cxtp.store.records import SessionState
from cxtp.token import compute_token
from cxtp.transports.endpoint import Router
from cxtp.wire import parse


def refuses_a_context(found: Normal) -> bool:
    return "refused" in str(found.get("contexts")) or any("status" in c for c in found.get("contexts", []))


def test_the_same_fields() -> None:
    """As scapy's own means dissect them, vendors' values too; read strictly: test_wireshark.py."""
    compared = 0
    for octets in generated(500):
        found = ours(octets)
        assert found is not None
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
    for (request, answer), (carry, _) in product(pairs, CARRIERS.values()):
        there, back = carry("a", "b", request), carry("b", "a", answer)
        assert back.answers(there)
        assert back.hashret() == there.hashret()
        assert not answer.answers(answer)
        another = answer.copy()
        another.mn_address = "192.0.2.8"
        assert not another.answers(request)
        if carry is not over_sctp:  # whose own layer looks at the ports alone
            assert not there.answers(back)
            assert not carry("b", "a", another).answers(there)


def over_udp(source: str, destination: str, message: Packet) -> Packet:
    packet = IP(src=HOSTS[source], dst=HOSTS[destination]) / UDP(sport=5091, dport=5091) / message
    return IP(bytes(packet))


def over_sctp(source: str, destination: str, message: Packet) -> Packet:
    chunk = SCTPChunkData(tsn=1, stream_id=0, stream_seq=0, proto_id=0x43585450, unordered=1, beginning=1, ending=1,
                          data=message)  # fmt: skip
    packet = IP(src=HOSTS[source], dst=HOSTS[destination]) / SCTP(sport=5091, dport=5091, tag=7) / chunk
    return IP(bytes(packet))


def over_icmp(source: str, destination: str, message: Packet) -> Packet:
    return IP(bytes(IP(src=HOSTS[source], dst=HOSTS[destination], ttl=255) / ExperimentalMobility() / message))


def over_icmpv6(source: str, destination: str, message: Packet) -> Packet:
    ends = {"src": HOSTS[source + "6"], "dst": HOSTS[destination + "6"]}
    return IPv6(bytes(IPv6(**ends, hlim=255) / ExperimentalMobilityV6() / message))


HOSTS = {"a": "192.0.2.1", "b": "192.0.2.2", "a6": "2001:db8::1", "b6": "2001:db8::2"}
CARRIERS = {
    "UDP": (over_udp, lambda packet: packet[UDP].payload),
    "SCTP": (over_sctp, lambda packet: packet[SCTPChunkData].data),
    "ICMP": (over_icmp, lambda packet: packet[ExperimentalMobility].payload),
    "ICMPv6": (over_icmpv6, lambda packet: packet[ExperimentalMobilityV6].payload),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_it_is_found_in_what_carries_it(name: str, tmp_path: Path) -> None:
    """Built by scapy, found by scapy, by our own readers and by tshark's checksums."""
    carry, inner = CARRIERS[name]
    message = CTAR(mn_address="192.0.2.77", access_router_address="192.0.2.1", sequence_number=5)
    packet = carry("a", "b", message)
    assert type(inner(packet)) is CTAR
    assert bytes(inner(packet)) == bytes(message)
    wrpcap(str(tmp_path / "one.pcap"), [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet])
    reader = RecordReader()
    (record,) = (record for one in ip_packets(tmp_path / "one.pcap") for record in reader.put(one))
    assert record.octets == bytes(message)
    assert record.carriage.icmp is None or record.carriage.icmp.checksum_good
    assert (record.carriage.icmp is not None) == name.startswith("ICMP")


def test_other_icmp_is_scapys_as_before() -> None:
    echo = IP(bytes(IP(src="192.0.2.1", dst="192.0.2.2") / ICMP(id=3, seq=4) / b"ping"))
    assert (echo[ICMP].id, echo[ICMP].seq, echo[Raw].load) == (3, 4, b"ping")
    reply = IP(bytes(IP(src="192.0.2.2", dst="192.0.2.1") / ICMP(type=0, id=3, seq=4) / b"ping"))
    assert reply.answers(echo)
    card = bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=1)) + bytes((41, 0, 0, 0, 0, 0, 0, 0))
    assert ExperimentalMobility not in IP(card)  # subtype 0 is another protocol's (RFC 4066)
    echo6 = IPv6(bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(data=b"ping")))
    assert echo6[ICMPv6EchoRequest].data == b"ping"


def test_sr_with_a_real_node(tmp_path: Path) -> None:
    """scapy, at router b's address, asks node a over a real socket: CT-Req, CTD, CTDR; then the session is b's."""
    key, contexts = bytes(range(20)), recorded_contexts()
    asked: dict[str, Packet | None] = {}

    async def main() -> None:
        async with lab(tmp_path, "udp", start=()) as made:
            node = await made.start("a", mobile_node_keys={MN: key})
            await node.sessions.load(MN, contexts)
            await asyncio.to_thread(talk, made.routers["a"], made.routers["b"])
            await until(lambda: made.states() == {"a": SessionState.RELEASED})

    def talk(a: Router, b: Router) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.bind((str(b.address), b.port))
            plain.connect((str(a.address), a.port))
            wire = SimpleSocket(plain, CXTP)
            request = CTReq(mn_address=str(MN), sequence_number=7, token=compute_token(key, MN, 7, ()))
            data = asked["data"] = wire.sr1(request, timeout=10, verbose=False)
            assert data is not None
            identifier = context_of(data.cdb)[0].transfer_id.to_bytes(4, "big")
            receipt = [CXTPStatus(fpt=0xFF03, status=octet) for octet in identifier]
            wire.send(CTDR(mn_address=str(MN), success=1, record=receipt))

    asyncio.run(main())
    data = asked["data"]
    assert isinstance(data, CTD)
    read = [read_context(*item) for item in whole_contexts(data.cdb)]
    assert [type(item).__name__ for item in read] == ["CXTPManifest", "CXTPIkeSa", "CXTPIpsecSa"]


def test_fuzz() -> None:
    """Messages and their parts, parameters and vendors' values; each time other octets, all of which scapy shows."""
    messages = (CTAR, CTAA, CTD, PCTD, CTDR, CTC, CTReq)
    for cls in (*messages, CXTPBlock, CXTPRequested, *PARAMETERS.values(), *VENDORS.values(), *CONTEXTS.values()):
        made = {bytes(fuzz(cls())) for _ in range(8)}
        assert len(made) > 1, cls
    block = fuzz(CXTPBlock(data=bytes(fuzz(PARAMETERS[0xFF01, 0, 5]()))))
    for cls in messages:
        packet = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5091, dport=5091) / fuzz(cls(version=1))
        if cls in (CTD, PCTD):
            packet[cls].cdb = [block]
        octets = bytes(packet)
        assert bytes(IP(octets)) == octets
