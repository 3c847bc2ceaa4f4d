"""The judge on captures of others: whatever wraps the packets, the verdicts are the same; what is broken is said."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

import pytest
from conformance_pairs import FULL
from conformance_traces import ICMP, NOBODYS, SCTP, Said, ct_req, ctd, ctdr, judge
from helpers import KEY
from mutators import MUTATORS
from scapy.layers.inet import ICMP as ICMP_
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.sctp import SCTP as SCTP_
from scapy.layers.sctp import SCTPChunkAbort, SCTPChunkInit, SCTPChunkInitAck, crc32c
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap, wrpcap

from cxtp.adapters.capture import CaptureError, PcapngWriter, PcapWriter
from cxtp.adapters.capture.transport import sctp_checksum
from cxtp.cli import main
from cxtp.conformance.judge import judge_capture
from cxtp.conformance.records import Record
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Report, Verdict
from cxtp.dissect import Transport
from cxtp.wire import IcmpMessage, build, build_icmp

MAC_1, MAC_2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
ETHER, PROVIDER = Ether(src=MAC_1, dst=MAC_2), Ether(src=MAC_1, dst=MAC_2, type=0x88A8)
A4, B4 = "198.51.100.1", "198.51.100.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
REQUEST, DATA, REPLY = build(ct_req(null=True)), build(ctd()), build(ctdr())
# nAR -> pAR: CT-Req (null token); pAR -> nAR: CTD in place of a PCTD; nAR -> pAR: CTDR
STORY = ((B4, A4, REQUEST), (A4, B4, DATA), (B4, A4, REPLY))
BROKEN = {"2.5.6-null-answer", "3.1-sctp"}


def failed(report: Report) -> set[str]:
    return {result.rule.id for result in report.failed()}


def times(packets: Iterable[Packet]) -> list[Packet]:
    found = list(packets)
    for number, packet in enumerate(found):
        packet.time = 1000 + number / 100
    return found


def datagrams() -> list[Packet]:
    return [IP(src=s, dst=d) / UDP(sport=5091, dport=5091) / Raw(octets) for s, d, octets in STORY]


LINKS: dict[str, Callable[[Packet], Packet]] = {
    "Ethernet": lambda packet: ETHER / packet,
    "a VLAN": lambda packet: ETHER / Dot1Q(vlan=7) / packet,
    "a VLAN in a provider's": lambda packet: PROVIDER / Dot1AD(vlan=3) / Dot1Q(vlan=7) / packet,
    "raw IP": lambda packet: packet,
    "Linux cooked": lambda packet: CookedLinux() / packet,
    "Linux cooked 2": lambda packet: CookedLinuxV2(proto=0x0800) / packet,
    "BSD loopback": lambda packet: Loopback(type=2) / packet,
}
LINK_TYPES = {"raw IP": 101, "Linux cooked": 113, "Linux cooked 2": 276, "BSD loopback": 0}


@pytest.mark.parametrize("link", LINKS)
def test_link_layers(tmp_path: Path, link: str) -> None:
    path = tmp_path / "link.pcap"
    wrpcap(str(path), times(LINKS[link](packet) for packet in datagrams()), linktype=LINK_TYPES.get(link, 1))
    report = judge_capture(path)
    assert (report.packets, report.messages, failed(report)) == (3, 3, BROKEN)


def test_a_link_type_that_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wireless.pcap"
    wrpcap(str(path), times(datagrams()), linktype=127)
    assert main(["conform", str(path)]) == 0
    said = capsys.readouterr().out
    assert "not looked into: 3 link type 127" in said
    assert "verdict: not exercised" in said


def pcapng(*blocks: tuple[int, bytes]) -> bytes:
    """Blocks of a pcapng file (draft-ietf-opsawg-pcapng, 3.1), by hand."""
    found = b""
    for kind, body in blocks:
        body += bytes(-len(body) % 4)
        found += struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))
    return found


def test_interfaces_of_different_kinds_in_one_file(tmp_path: Path) -> None:
    """Ethernet in microseconds, raw IP in nanoseconds, and a new section whose interfaces count from 0 again."""
    section = (0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    ethernet = (1, struct.pack("<HHI", 1, 0, 0))
    nanoseconds = struct.pack("<HHB3x", 9, 1, 9) + bytes(4)
    raw = (1, struct.pack("<HHI", 101, 0, 262_144) + nanoseconds)

    def packet(interface: int, time: int, octets: bytes) -> tuple[int, bytes]:
        head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(octets), len(octets))
        return 6, head + octets

    request, data, reply = datagrams()
    path = tmp_path / "two.pcapng"
    path.write_bytes(
        pcapng(
            section, ethernet, raw, packet(1, 1000_000_000_000, bytes(request)),
            packet(0, 1000_010_000, bytes(ETHER / data)),
            section, raw, packet(0, 1000_020_000_000, bytes(reply)),
        )
    )  # fmt: skip
    seen: list[Record] = []
    report = judge_capture(path, watch=seen.append)
    assert [round(item.time, 3) for item in seen] == [1000.0, 1000.01, 1000.02]
    assert failed(report) == BROKEN


def in_pieces(number: int, source: str, destination: str, octets: bytes) -> list[Packet]:
    """IPv6 fragments of 400 octets (RFC 8200, 4.5)."""
    whole = bytes((IPv6(src=source, dst=destination) / UDP(sport=5091, dport=5091) / Raw(octets))[UDP])
    return [
        IPv6(src=source, dst=destination)
        / IPv6ExtHdrFragment(id=number, nh=17, offset=start // 8, m=start + 400 < len(whole))
        / Raw(whole[start : start + 400])
        for start in range(0, len(whole), 400)
    ]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_fragments(tmp_path: Path, version: int, backwards: bool) -> None:
    """In any order."""
    ends = {A4: A6, B4: B6}
    if version == 4:
        packets = [packet for whole in datagrams() for packet in fragment(whole, 400)]
    else:
        packets = [p for n, (s, d, octets) in enumerate(STORY) for p in in_pieces(n, ends[s], ends[d], octets)]
    path = tmp_path / "fragments.pcap"
    order = packets[::-1] if backwards else packets
    wrpcap(str(path), times(ETHER / packet for packet in order))
    report = judge_capture(path)
    assert (len(packets) > 4, report.packets, report.messages) == (True, len(packets), 3)
    if not backwards:  # else the reply comes first
        assert failed(report) == BROKEN


def test_segments_in_any_order(tmp_path: Path) -> None:
    """TCP: cut anywhere, repeated, overlapping, the last one first; messages come out in their order."""
    stream = REQUEST + build(ct_req(null=True, sequence_number=9)) + REPLY
    cuts = [(0, 3), (3, 30), (30, 31), (20, 40), (31, len(stream) - 5), (len(stream) - 5, len(stream))]

    def segment(start: int, end: int) -> Packet:
        return IP(src=B4, dst=A4) / TCP(sport=40_000, dport=5091, seq=1001 + start, flags="A") / Raw(stream[start:end])

    opening = IP(src=B4, dst=A4) / TCP(sport=40_000, dport=5091, seq=1000, flags="S")
    rng = random.Random(5)
    for _ in range(20):
        rng.shuffle(cuts)
        path = tmp_path / "tcp.pcap"
        wrpcap(str(path), times(ETHER / packet for packet in [opening, *(segment(*cut) for cut in [*cuts, cuts[0]])]))
        seen: list[Record] = []
        judge_capture(path, watch=seen.append)
        assert [item.octets for item in seen] == [REQUEST, build(ct_req(null=True, sequence_number=9)), REPLY]
        assert {item.transport for item in seen} == {Transport.TCP}


def test_what_tcp_lacks_is_said(tmp_path: Path) -> None:
    """A hole in the stream, and TLS, which nobody can look into."""
    path = tmp_path / "tcp.pcap"
    octets = (
        IP(src=B4, dst=A4) / TCP(sport=40_000, dport=5091, seq=1, flags="A") / Raw(REQUEST[:10]),
        IP(src=B4, dst=A4) / TCP(sport=40_000, dport=5091, seq=500, flags="A") / Raw(REPLY),
        IP(src=B4, dst=A4) / TCP(sport=40_001, dport=5091, seq=1, flags="A") / Raw(b"\x16\x03\x03\x00\x10" + bytes(16)),
    )
    wrpcap(str(path), times(ETHER / packet for packet in octets))
    report = judge_capture(path)
    assert report.messages == 1
    assert report.unread["octets of TLS"] == 21
    assert any("missing" in reason for reason in report.unread)


def test_a_packet_that_the_capture_cut(tmp_path: Path) -> None:
    path = tmp_path / "short.pcap"
    with PcapWriter(path) as writer:
        for source, destination, octets in STORY:
            writer.write_udp(1000, ip_address(source), 5091, ip_address(destination), 5091, octets)
    whole = path.read_bytes()
    size = struct.unpack("<I", whole[24 + 8 : 24 + 12])[0]
    shorter = whole[:32] + struct.pack("<I", 40) + whole[36 : 40 + 40] + whole[40 + size :]
    path.write_bytes(shorter)
    report = judge_capture(path)
    assert report.messages == 2
    assert report.unread == {"cut by the capture's snap length": 1}


@pytest.mark.parametrize("writer", [PcapWriter, PcapngWriter])
def test_a_file_that_breaks_off(
    tmp_path: Path, writer: type[PcapWriter], capsys: pytest.CaptureFixture[str]
) -> None:
    """At every octet: a CaptureError that names the packet, never another error; the command exits with 3."""
    path = tmp_path / "whole"
    with writer(path) as made:
        for source, destination, octets in STORY:
            made.write_udp(1000, ip_address(source), 5091, ip_address(destination), 5091, octets)
    whole = path.read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(whole) - 15, len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CaptureError) as broken:
            judge_capture(cut)
        assert broken.value.packet > 0
    assert main(["conform", str(cut)]) == 3
    assert "packet 3" in capsys.readouterr().err
    assert main(["ladder", str(cut)]) == 3


def test_checksums_of_sctp(tmp_path: Path) -> None:
    """A packet that was spoiled on the way, and sent again; scapy's CRC32c is the witness."""
    path = tmp_path / "sctp.pcap"
    with PcapWriter(path) as writer:
        for time, octets in ((100, build(ctd(NOBODYS))), (101, build(ctd(NOBODYS, transfer=2)))):
            writer.write_sctp(time, ip_address(A4), 5091, ip_address(B4), 5091, octets)
        writer.write_sctp(102, ip_address(B4), 5091, ip_address(A4), 5091, REPLY)
    packets = rdpcap(str(path))
    good = [packet for packet in packets if b"CXTP" in bytes(packet[IP].payload)]  # not what makes the association
    assert len(good) == 3
    for packet in packets:
        octets = bytes(packet[IP].payload)
        assert sctp_checksum(octets) == octets[8:12] == struct.pack("!I", crc32c(octets[:8] + bytes(4) + octets[12:]))
    octets = bytearray(bytes(good[1]))
    octets[-5] ^= 1
    again = good[1].copy()
    again.time += 0.5
    wrpcap(str(path), [good[0], with_time(Ether(bytes(octets)), good[1].time), again, good[2]])
    seen: list[Record] = []
    report = judge_capture(path, watch=seen.append)
    assert [item.carriage.checksum_good for item in seen] == [True, False, True, True]
    assert report.of("3.1-bad-checksum").verdict is Verdict.INCONCLUSIVE
    assert report.of("3.1-bad-checksum").doubts[0].packets == (2, 3)
    wrpcap(str(path), [with_time(Ether(bytes(octets)), good[1].time)])
    seen.clear()
    judge_capture(path, watch=seen.append)
    assert [item.carriage.checksum_good for item in seen] == [None], "the sender's network card may fill them all in"


def with_time(packet: Packet, time: float) -> Packet:
    packet.time = time
    return packet


def test_associations_that_are_refused(tmp_path: Path) -> None:
    """By ABORT, and by ICMP's "protocol unreachable", as a host without SCTP answers."""
    init = IP(src=A4, dst=B4) / SCTP_(sport=5091, dport=5091) / SCTPChunkInit()
    abort = IP(src=B4, dst=A4) / SCTP_(sport=5091, dport=5091) / SCTPChunkAbort()
    unreachable = IP(src=B4, dst=A4) / ICMP_(type=3, code=2) / bytes(init)[:28]
    accepted = IP(src=B4, dst=A4) / SCTP_(sport=5091, dport=5091) / SCTPChunkInitAck()
    path = tmp_path / "init.pcap"
    verdicts = {}
    for name, answer in (("abort", [abort]), ("icmp", [unreachable]), ("ack", [accepted]), ("nothing", [])):
        wrpcap(str(path), times(ETHER / packet for packet in [init, *answer]))
        verdicts[name] = judge_capture(path).of("3.1-supports-sctp").verdict.value
    assert verdicts == {"abort": "fail", "icmp": "fail", "ack": "pass", "nothing": "inconclusive"}


def test_noise_on_cxtps_port_never_stops_the_judge(tmp_path: Path) -> None:
    """Messages of a whole story, each with the fuzzers' faults, over every transport: verdicts, no error."""
    rng = random.Random(11)
    steps = [step for step in FULL.steps if isinstance(step, Said)]
    for _ in range(60):
        path = tmp_path / "noise.pcap"
        with PcapWriter(path) as writer:
            for step in steps:
                assert not isinstance(step.what, bytes)
                octets = build(step.what)
                if rng.random() < 0.5:
                    octets = rng.choice(list(MUTATORS.values()))(octets, rng)
                ends = (step.source, 5091, step.destination, 5091)
                if step.transport is ICMP:
                    packet = build_icmp(IcmpMessage(41, octets), (step.source, step.destination))
                    writer.write_icmp(step.time, step.source, step.destination, packet)
                elif step.transport is SCTP and octets:
                    writer.write_sctp(step.time, *ends, octets)
                else:
                    writer.write_udp(step.time, *ends, octets)
        report = judge_capture(path, Case(keys=[KEY]))
        assert report.messages >= 5
        assert report.of("2.2-version").verdict is not Verdict.NOT_EXERCISED
    assert failed(judge(FULL)) == set()
