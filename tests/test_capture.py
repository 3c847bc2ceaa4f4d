"""Captures, read and written; tshark and scapy are the second witnesses."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, CookedLinux, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap, wrpcapng

from cxtp.adapters.capture import (
    CaptureError,
    PcapWriter,
    icmp_messages,
    ip_packets,
    read_packets,
    sctp_data,
    tcp_streams,
    udp_datagrams,
)
from cxtp.adapters.capture import internet as internet_module
from cxtp.adapters.capture import tcp as tcp_module
from cxtp.errors import ConfigurationError, CxtpError, LocalError

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
RECORDED = sorted(TRACES.glob("*/*.pcap"))

A4, B4 = ip_address("192.0.2.1"), ip_address("192.0.2.100")
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}  # given, for scapy would ask the network for them
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8::100")


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{tool} is missing, and this is CI")
        pytest.skip(f"{tool} is not installed")
    return path


def tshark(path: Path, *fields: str, display: str = "") -> list[list[str]]:
    """tshark's own reading: one row of fields for each packet that passes the display filter."""
    command = [need("tshark"), "-r", str(path), "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]
    checks = [f"{protocol}.check_checksum:TRUE" for protocol in ("ip", "udp", "tcp")]
    for preference in (*checks, "sctp.checksum:CRC-32C", "sctp.association_index:TRUE"):
        command += ["-o", preference]
    for field in fields:
        command += ["-e", field]
    if display:
        command += ["-Y", display]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("|") for line in run.stdout.splitlines()]


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["Ethernet", "raw IP"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recordings of one link type, one after the other in one file: tshark takes its time to start."""
    wanted = {"Ethernet": 1, "raw IP": 101}[request.param]
    paths = [path for path in RECORDED if int.from_bytes(path.read_bytes()[20:24], "little") == wanted]
    assert len(paths) > 5
    merged = tmp_path_factory.mktemp("recorded") / "merged.pcap"
    command = [need("mergecap"), "-a", "-F", "pcap", "-w", str(merged), *map(str, paths)]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(read_packets(merged))) == sum(len(list(read_packets(path))) for path in paths)
    return merged


def test_udp_datagrams_as_tshark_reads_them(recorded: Path) -> None:
    path = recorded
    rows = tshark(
        path,
        "frame.number",
        "frame.time_epoch",
        "ip.src",
        "ipv6.src",
        "udp.srcport",
        "udp.dstport",
        "udp.length",
        "udp.payload",
        display="udp && !icmp && !icmpv6 && !ah",
    )
    ours = list(udp_datagrams(path))
    assert len(ours) == len(rows)
    for datagram, (number, time, source4, source6, source_port, destination_port, length, payload) in zip(
        ours, rows, strict=True
    ):
        assert datagram.index == int(number)
        assert datagram.time == pytest.approx(float(time), abs=2e-6)
        assert str(datagram.source) == (source4 or source6)
        assert (datagram.source_port, datagram.destination_port) == (int(source_port), int(destination_port))
        assert len(datagram.payload) == int(length) - 8
        if payload:  # tshark leaves the field out where a dissector took the payload
            assert datagram.payload.hex() == payload


def test_ip_packets_as_tshark_reads_them(recorded: Path) -> None:
    path = recorded
    rows = tshark(path, "frame.number", "ip.proto", "ip.len", "ip.ttl", "ipv6.plen", "ipv6.hlim", display="ip || ipv6")
    ours = {packet.index: packet for packet in ip_packets(path)}
    assert list(ours) == [int(row[0]) for row in rows]
    for number, protocol, length, ttl, payload_length, hop_limit in rows:
        packet = ours[int(number)]
        if packet.source.version == 4:
            assert (packet.protocol, len(packet.octets), packet.hop_limit) == (int(protocol), int(length), int(ttl))
        else:
            assert (len(packet.octets), packet.hop_limit) == (40 + int(payload_length), int(hop_limit))


@pytest.mark.parametrize("format_", ["pcapng", "nsecpcap", "modpcap"])
def test_other_file_formats_hold_the_same(tmp_path: Path, format_: str) -> None:
    source, target = TRACES / "v5-plain" / "outer.pcap", tmp_path / "other"
    subprocess.run([need("editcap"), "-F", format_, str(source), str(target)], check=True, capture_output=True)
    assert target.read_bytes() != source.read_bytes()
    if format_ == "modpcap":  # Alexey Kuznetsov's variant: refused, not misread
        with pytest.raises(CaptureError, match="no pcap or pcapng"):
            list(read_packets(target))
        return
    before, after = list(read_packets(source)), list(read_packets(target))
    assert [(p.index, p.link_type, p.octets) for p in before] == [(p.index, p.link_type, p.octets) for p in after]
    assert [p.time for p in after] == pytest.approx([p.time for p in before], abs=2e-6)


def test_nanoseconds_and_big_endian(tmp_path: Path) -> None:
    octets = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / b"x")
    for order in "<>":
        for magic, unit in ((0xA1B2C3D4, 1e-6), (0xA1B23C4D, 1e-9)):
            path = tmp_path / "order.pcap"
            header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 101)
            path.write_bytes(header + struct.pack(order + "IIII", 7, 250, len(octets), len(octets)) + octets)
            (packet,) = read_packets(path)
            assert packet.time == pytest.approx(7 + 250 * unit, abs=1e-12)
            assert (packet.link_type, packet.octets) == (101, octets)


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(link_type: int, snap_length: int = 0) -> bytes:
    return block(1, struct.pack("<HHI", link_type, 0, snap_length))


def enhanced(number: int, octets: bytes, claimed: int | None = None) -> bytes:
    length = len(octets) if claimed is None else claimed
    return block(6, struct.pack("<IIIII", number, 0, 1_500_000, length, length) + octets)


IP_OCTETS = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / b"abc")


def test_pcapng_sections_number_their_interfaces_anew(tmp_path: Path) -> None:
    path = tmp_path / "two-sections.pcapng"
    ethernet = bytes(Ether(**MAC))[:12] + b"\x08\x00" + IP_OCTETS
    first = SECTION + interface(101) + enhanced(0, IP_OCTETS)
    path.write_bytes(first + SECTION + interface(1) + enhanced(0, ethernet))
    assert [p.link_type for p in read_packets(path)] == [101, 1]
    assert [p.octets for p in ip_packets(path)] == [IP_OCTETS, IP_OCTETS]
    assert tshark(path, "udp.srcport") == [["1"], ["1"]]


def test_pcapng_simple_packets_and_their_snap_length(tmp_path: Path) -> None:
    path = tmp_path / "simple.pcapng"
    simple = block(3, struct.pack("<I", len(IP_OCTETS)) + IP_OCTETS)
    path.write_bytes(SECTION + interface(101) + simple)
    assert [(p.octets, p.time) for p in read_packets(path)] == [(IP_OCTETS, 0.0)]
    cut = block(3, struct.pack("<I", len(IP_OCTETS)) + IP_OCTETS[:24])
    path.write_bytes(SECTION + interface(101, 24) + cut)
    (packet,) = read_packets(path)
    assert (packet.octets, packet.original_length) == (IP_OCTETS[:24], len(IP_OCTETS))
    drops: Counter[str] = Counter()
    assert list(ip_packets(path, drops=drops)) == []
    assert drops == {"cut by the capture's snap length": 1}


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (SECTION + interface(101) + enhanced(3, IP_OCTETS), "interface that the file does not describe"),
        (SECTION + interface(101) + enhanced(0, IP_OCTETS, len(IP_OCTETS) + 40), "claims"),
        (SECTION + interface(101) + enhanced(0, IP_OCTETS, 0xFFFFFFFF), "claims"),
        (SECTION + interface(101) + block(3, struct.pack("<I", 4000) + IP_OCTETS), "claims"),
        (SECTION + interface(101) + block(6, b"\0" * 8), "too short"),
        (SECTION + struct.pack("<II", 6, 0xFFFFFFF0), "ends within"),
        (SECTION + struct.pack("<III", 6, 8, 8), "broken|too short"),
    ],
)
def test_broken_pcapng_blocks(tmp_path: Path, octets: bytes, reason: str) -> None:
    path = tmp_path / "broken.pcapng"
    path.write_bytes(octets)
    with pytest.raises(CaptureError, match=reason) as caught:
        list(read_packets(path))
    assert caught.value.packet == 1
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("format_", ["pcap", "pcapng"])
def test_files_cut_at_every_length(tmp_path: Path, format_: str) -> None:
    """Whole packets before the cut are given, then the error names the next one."""
    path = tmp_path / f"whole.{format_}"
    head = Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7") / UDP(dport=9)
    packets = [head / bytes([n] * (4 * n)) for n in range(3)]
    (wrpcap if format_ == "pcap" else wrpcapng)(str(path), packets)
    octets = path.read_bytes()
    whole = [p.octets for p in read_packets(path)]
    assert whole == [bytes(p) for p in packets]
    cut_path = tmp_path / "cut"
    ends = 0
    for length in range(len(octets)):
        cut_path.write_bytes(octets[:length])
        got: list[bytes] = []
        error = None
        try:
            got.extend(packet.octets for packet in read_packets(cut_path))
        except CaptureError as caught:
            error = caught
        if error is None:
            ends += 1
        else:
            assert str(cut_path) in str(error)
            assert error.packet in (0, len(got) + 1)
        assert got == whole[: len(got)]
    assert ends == (3 if format_ == "pcap" else 4)  # behind the header(s), and behind all packets but the last


def test_flipped_bits_of_a_file_give_packets_or_the_typed_error(tmp_path: Path) -> None:
    path, flipped = tmp_path / "whole.pcapng", tmp_path / "flipped"
    wrpcapng(str(path), [Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7") / UDP(dport=9) / b"hello"])
    octets = path.read_bytes()
    outcomes: Counter[str] = Counter()
    for bit in range(len(octets) * 8):
        changed = bytearray(octets)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(changed)
        try:
            outcomes["read"] += bool(list(udp_datagrams(flipped)) or True)
        except CxtpError:
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 0


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.pcap"):
        list(read_packets(tmp_path / "missing.pcap"))
    for content in (b"", b"abc", b"no capture at all, but long enough to be one"):
        path = tmp_path / "none"
        path.write_bytes(content)
        with pytest.raises(CaptureError, match="no pcap or pcapng"):
            list(read_packets(path))
    path.write_bytes(b"\x1f\x8b\x08\0 gz")
    with pytest.raises(CaptureError, match="gzip"):
        list(read_packets(path))


def test_a_record_longer_than_any_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.pcap"
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    path.write_bytes(header + struct.pack("<IIII", 0, 0, 0x7FFFFFFF, 0x7FFFFFFF) + bytes(100))
    with pytest.raises(CaptureError, match="more than any frame"):
        list(read_packets(path))


# --- link layers and fragments ----------------------------------------------------------------------------------

INNER4 = IP(src="192.0.2.1", dst="192.0.2.100", id=7) / UDP(sport=4510, dport=4510) / b"payload"
INNER6 = IPv6(src="2001:db8::1", dst="2001:db8::100") / UDP(sport=4510, dport=4510) / b"payload"
SLL2 = bytes.fromhex("0800000000000007000100060200000000010000")  # protocol, ifindex 7, Ethernet, to us, address


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (1, bytes(Ether(**MAC) / INNER4)),
        (1, bytes(Ether(**MAC) / INNER6)),
        (1, bytes(Ether(**MAC) / INNER4) + bytes(18)),  # padded to the shortest frame
        (1, bytes(Ether(**MAC) / Dot1Q(vlan=5) / INNER4)),
        (1, bytes(Ether(**MAC) / Dot1AD(vlan=5) / Dot1Q(vlan=6) / INNER6)),
        (113, bytes(CookedLinux(proto=0x0800) / INNER4)),
        (113, bytes(CookedLinux(proto=0x86DD) / INNER6)),
        (276, SLL2 + bytes(INNER4)),
        (276, b"\x86\xdd" + SLL2[2:] + bytes(INNER6)),
        (101, bytes(INNER4)),
        (101, bytes(INNER6)),
        (228, bytes(INNER4)),
        (229, bytes(INNER6)),
        (0, struct.pack("<I", 2) + bytes(INNER4)),
        (0, struct.pack(">I", 2) + bytes(INNER4)),
        (0, struct.pack("<I", 30) + bytes(INNER6)),
        (108, struct.pack(">I", 24) + bytes(INNER6)),
        (0, bytes(Loopback(type=2) / INNER4)),
    ],
)
def test_link_types(tmp_path: Path, link_type: int, frame: bytes) -> None:
    path = tmp_path / "link.pcap"
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)
    path.write_bytes(header + struct.pack("<IIII", 5, 0, len(frame), len(frame)) + frame)
    (datagram,) = udp_datagrams(path, 4510)
    expected = (A4, B4) if datagram.source.version == 4 else (A6, B6)
    assert (datagram.source, datagram.destination, datagram.payload) == (*expected, b"payload")
    assert tshark(path, "udp.srcport", "udp.length") == [["4510", "15"]]


def test_what_is_no_ip_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "other.pcap"
    arp = ARP(psrc="192.0.2.1", hwsrc=MAC["src"], pdst="192.0.2.7")
    frames = [Ether(**MAC) / arp, Ether(**MAC, type=100) / Raw(b"x" * 50), Ether(**MAC, type=0x0800), Raw(b"abc")]
    wrpcap(str(path), [Ether(bytes(frame)) if frame.name != "Raw" else frame for frame in frames], linktype=1)
    drops: Counter[str] = Counter()
    assert list(ip_packets(path, drops=drops)) == []
    assert drops == {"not IP": 2, "cut frame": 2}
    wrpcap(str(path), [Raw(b"abc")], linktype=147)
    drops.clear()
    assert list(ip_packets(path, drops=drops)) == []
    assert drops == {"link type 147": 1}


def fragments_of(packet: Packet, size: int) -> list[Packet]:
    if IPv6 in packet:
        return list(fragment6(packet, size))
    return list(fragment(packet, fragsize=size))


BODY = bytes(range(256)) * 20
BIG4 = IP(src="192.0.2.1", dst="192.0.2.100", id=77) / UDP(sport=9, dport=4510) / BODY
BIG6 = (
    IPv6(src="2001:db8::1", dst="2001:db8::100")
    / IPv6ExtHdrFragment(id=77)
    / UDP(sport=9, dport=4510)
    / BODY
)


@pytest.mark.parametrize("big", [BIG4, BIG6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("order", ["straight", "reversed", "doubled", "last first"])
def test_fragments_are_put_together(tmp_path: Path, big: Packet, order: str) -> None:
    path = tmp_path / "fragments.pcap"
    parts = fragments_of(big, 1280)
    assert len(parts) > 3
    arranged = {
        "straight": parts,
        "reversed": parts[::-1],
        "doubled": [part for part in parts for _ in range(2)],
        "last first": [parts[-1], *parts[:-1]],
    }[order]
    wrpcap(str(path), [Ether(**MAC) / part for part in arranged])
    drops: Counter[str] = Counter()
    (datagram,) = udp_datagrams(path, drops=drops)
    assert datagram.payload == BODY
    assert drops["repeated fragment"] + drops["fragment of a datagram that stayed incomplete"] == (
        len(parts) if order == "doubled" else 0
    )
    (packet,) = ip_packets(path)
    rebuilt = (IP if packet.source.version == 4 else IPv6)(packet.octets)
    assert bytes(rebuilt[UDP].payload) == BODY
    checksum = rebuilt.chksum if IP in rebuilt else rebuilt[UDP].chksum
    del (rebuilt if IP in rebuilt else rebuilt[UDP]).chksum
    again = type(rebuilt)(bytes(rebuilt))
    assert (again.chksum if IP in again else again[UDP].chksum) == checksum
    if order != "doubled":  # Wireshark calls repetitions an error of the network
        rows = tshark(path, "frame.number", "udp.length", display="udp.length")
        assert rows == [[str(datagram.index), str(8 + len(BODY))]]


def test_two_datagrams_interleaved_and_one_incomplete(tmp_path: Path) -> None:
    one = fragments_of(BIG4, 1000)
    other = fragments_of(IP(src="192.0.2.1", dst="192.0.2.100", id=78) / UDP(sport=8, dport=4510) / BODY[::-1], 1000)
    lost = fragments_of(IP(src="192.0.2.1", dst="192.0.2.100", id=79) / UDP(sport=8, dport=4510) / BODY, 1000)[1:]
    path = tmp_path / "interleaved.pcap"
    wrpcap(str(path), [Ether(**MAC) / p for trio in zip(one[:-1], other[:-1], lost, strict=True) for p in trio])
    drops: Counter[str] = Counter()
    assert list(udp_datagrams(path, drops=drops)) == []
    wrpcap(str(path), [Ether(**MAC) / p for p in (*one[:-1], *other, *lost, one[-1])])
    drops.clear()
    assert [d.payload for d in udp_datagrams(path, drops=drops)] == [BODY[::-1], BODY]
    assert drops == {"fragment of a datagram that stayed incomplete": len(lost)}


def test_overlapping_and_malformed_fragments_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "overlap.pcap"
    parts = fragments_of(BIG4, 1000)
    forged = parts[1].copy()
    forged.frag -= 1
    drops: Counter[str] = Counter()
    wrpcap(str(path), [Ether(**MAC) / p for p in (parts[0], forged, *parts[1:])])
    assert list(udp_datagrams(path, drops=drops)) == []
    assert drops["overlapping fragments"] == 2
    beyond = IP(src="192.0.2.1", dst="192.0.2.100", id=80, frag=8190, flags="MF", proto=17) / Raw(bytes(800))
    empty = IP(src="192.0.2.1", dst="192.0.2.100", id=81, frag=10, proto=17)
    odd = IP(src="192.0.2.1", dst="192.0.2.100", id=82, flags="MF", proto=17) / Raw(bytes(13))
    wrpcap(str(path), [Ether(**MAC) / p for p in (beyond, empty, odd)])
    drops.clear()
    assert list(udp_datagrams(path, drops=drops)) == []
    assert drops == {"fragments beyond the end of any datagram": 1, "malformed fragment": 2}


def test_fragments_are_bounded_in_number_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internet_module, "MAXIMUM_PENDING_DATAGRAMS", 4)
    path = tmp_path / "flood.pcap"
    firsts = [fragments_of(IP(src="192.0.2.1", dst="192.0.2.100", id=n) / UDP() / BODY, 1000)[0] for n in range(10)]
    wrpcap(str(path), [Ether(**MAC) / p for p in firsts])
    drops: Counter[str] = Counter()
    assert list(ip_packets(path, drops=drops)) == []
    assert drops["fragment pushed out by newer ones"] == 6
    early, *late = (Ether(**MAC) / p for p in fragments_of(BIG4, 1000))
    early.time = 1000.0
    for part in late:
        part.time = 1000.0 + internet_module.REASSEMBLY_SECONDS + 1
    wrpcap(str(path), [early, *late])
    assert list(ip_packets(path)) == []


def test_ipv6_extension_headers(tmp_path: Path) -> None:
    path = tmp_path / "extension.pcap"
    packet = IPv6(src="2001:db8::1", dst="2001:db8::100") / IPv6ExtHdrDestOpt() / UDP(sport=9, dport=4510) / b"x"
    atomic = IPv6(src="2001:db8::1", dst="2001:db8::100") / IPv6ExtHdrFragment(id=3) / UDP(sport=9, dport=7) / b"y"
    wrpcap(str(path), [Ether(**MAC) / packet, Ether(**MAC) / atomic])
    assert [d.payload for d in udp_datagrams(path)] == [b"x", b"y"]


# --- UDP, ICMP, SCTP --------------------------------------------------------------------------------------------


def test_malformed_udp_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "udp.pcap"
    wrpcap(
        str(path),
        [
            Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7", proto=17) / Raw(b"short"),
            Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7") / UDP(len=4) / b"abc",
            Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7") / UDP(len=400) / b"abc",
            Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7") / UDP(sport=5, dport=6) / b"abc",
        ],
    )
    drops: Counter[str] = Counter()
    assert [d.payload for d in udp_datagrams(path, drops=drops)] == [b"abc"]
    assert drops == {"malformed UDP header": 3}
    assert list(udp_datagrams(path, 7)) == []
    assert len(list(udp_datagrams(path, 6))) == 1


def test_icmp_of_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "icmp.pcap"
    echo4 = IP(src="192.0.2.1", dst="192.0.2.100", ttl=255) / ICMP(type=41, code=0) / b"four"
    echo6 = IPv6(src="2001:db8::1", dst="2001:db8::100", hlim=254) / ICMPv6EchoRequest(data=b"six")
    stray = IP(src="192.0.2.1", dst="192.0.2.7", proto=58) / Raw(b"ICMPv6 over IPv4 is none")
    wrpcap(str(path), [Ether(**MAC) / p for p in (echo4, echo6, stray)])
    four, six = icmp_messages(path)
    assert (four.type, four.code, four.hop_limit, four.octets) == (41, 0, 255, bytes(echo4[ICMP]))
    assert (six.type, six.hop_limit, six.octets) == (128, 254, bytes(echo6[ICMPv6EchoRequest]))


def data_chunk(tsn: int, octets: bytes, flags: str, stream: int = 0) -> SCTPChunkData:
    parts = {"beginning": "B" in flags, "ending": "E" in flags, "unordered": "U" in flags}
    return SCTPChunkData(tsn=tsn, stream_id=stream, proto_id=0x43585450, data=octets, **parts)


def test_sctp_messages_whole_bundled_fragmented_and_repeated(tmp_path: Path) -> None:
    def packet(*chunks: SCTPChunkData) -> Packet:
        result = Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.100") / SCTP(sport=5091, dport=5091, tag=9)
        for chunk in chunks:
            result /= chunk
        return result

    path = tmp_path / "sctp.pcap"
    top = 0xFFFFFFFF  # TSNs wrap
    wrpcap(
        str(path),
        [
            packet(data_chunk(top - 1, b"one", "BEU"), data_chunk(top, b"four", "BE", stream=3)),
            packet(data_chunk(1, b"mid", "U")),
            packet(data_chunk(0, b"beg", "BU")),
            packet(data_chunk(top - 1, b"one", "BEU")),  # retransmitted
            packet(data_chunk(0, b"beg", "BU"), data_chunk(2, b"end", "EU")),
            packet(data_chunk(4, b"lost its beginning", "E")),
        ],
    )
    drops: Counter[str] = Counter()
    got = [(m.index, m.stream, m.unordered, m.payload) for m in sctp_data(path, 5091, drops=drops)]
    assert got == [(1, 0, True, b"one"), (1, 3, False, b"four"), (5, 0, True, b"begmidend")]
    assert drops == {"repeated SCTP chunk": 2, "SCTP fragment of a message that stayed incomplete": 1}
    assert {m.payload_protocol_identifier for m in sctp_data(path)} == {0x43585450}
    assert list(sctp_data(path, 5092)) == []
    rows = tshark(path, "frame.number", "sctp.data_tsn_raw", display="sctp.chunk_type == 0")
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]


def test_malformed_sctp_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "sctp.pcap"
    head = IP(proto=132, src="192.0.2.1", dst="192.0.2.100")
    common = struct.pack("!HHII", 5091, 5091, 9, 0)
    bodies = [b"short", common + b"\0\3\0\2", common + b"\0\3\0\xff", common + b"\0\3\0\x10" + bytes(12)]
    wrpcap(str(path), [Ether(**MAC) / head / Raw(body) for body in bodies])
    drops: Counter[str] = Counter()
    assert list(sctp_data(path, drops=drops)) == []
    assert drops == {"malformed SCTP header": 1, "malformed SCTP chunk": 3}


# --- TCP --------------------------------------------------------------------------------------------------------


def segment(sequence: int, payload: bytes = b"", flags: str = "A", *, back: bool = False) -> Packet:
    ends = {"src": "192.0.2.100", "dst": "192.0.2.1"} if back else {"src": "192.0.2.1", "dst": "192.0.2.100"}
    ports = {"sport": 443, "dport": 40000} if back else {"sport": 40000, "dport": 443}
    packet = Ether(**MAC) / IP(**ends) / TCP(**ports, seq=sequence & 0xFFFFFFFF, ack=1, flags=flags)
    return packet / Raw(payload) if payload else packet


def streams(path: Path, drops: Counter[str] | None = None) -> dict[tuple[int, int], bytes]:
    result: dict[tuple[int, int], bytes] = {}
    for data in tcp_streams(path, 443, drops=drops):
        key = (data.connection, data.source_port)
        result[key] = result.get(key, b"") + b"?" * data.missing + data.payload
    return result


def test_tcp_in_order_across_the_end_of_the_sequence_space(tmp_path: Path) -> None:
    path = tmp_path / "tcp.pcap"
    start = 0xFFFFFFFC
    wrpcap(
        str(path),
        [
            segment(start, flags="S"),
            segment(500, flags="SA", back=True),
            segment(start + 1, b"ab"),
            segment(start + 7, b"gh"),  # out of order
            segment(501, b"answer", back=True),
            segment(start + 1, b"ab"),  # retransmitted
            segment(start + 2, b"bcdef"),  # overlaps both neighbours' beginnings
            segment(start + 9, b"", "FA"),
        ],
    )
    drops: Counter[str] = Counter()
    assert streams(path, drops) == {(0, 40000): b"abcdefgh", (0, 443): b"answer"}
    assert drops == {"repeated TCP segment": 1}
    chunks = [(d.index, d.payload) for d in tcp_streams(path)]
    assert chunks == [(3, b"ab"), (5, b"answer"), (7, b"cdefgh")]


def test_tcp_gaps_are_told_and_ports_used_again(tmp_path: Path) -> None:
    path = tmp_path / "tcp.pcap"
    wrpcap(
        str(path),
        [
            segment(10, flags="S"),
            segment(11, b"first"),
            segment(20, b"third"),  # "four" octets are missing
            segment(9000, flags="S"),  # the same ports again
            segment(70, flags="SA", back=True),
            segment(9001, b"new"),
            segment(71, b"back", back=True),
        ],
    )
    assert streams(path) == {(0, 40000): b"first????third", (1, 40000): b"new", (1, 443): b"back"}


def test_tcp_followed_from_its_middle_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tcp.pcap"
    wrpcap(str(path), [segment(5000, b"middle"), segment(5006, b" end")])
    assert streams(path) == {(0, 40000): b"middle end"}
    monkeypatch.setattr(tcp_module, "MAXIMUM_WAITING_OCTETS", 100)
    wrpcap(str(path), [segment(0, b"a"), segment(2, bytes(60)), segment(62, bytes(60)), segment(1, b"late")])
    first, second = tcp_streams(path)
    assert (first.payload, second.missing, len(second.payload), second.index) == (b"a", 1, 120, 3)
    monkeypatch.setattr(tcp_module, "MAXIMUM_DIRECTIONS", 2)
    head = Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.7")
    wrpcap(str(path), [head / TCP(sport=n, dport=443, seq=9) / b"x" for n in range(1, 8)])
    assert [d.payload for d in tcp_streams(path)] == [b"x"] * 7


# --- what we write ----------------------------------------------------------------------------------------------

PAIRS = [(A4, B4), (A6, B6)]


def complaints(path: Path) -> list[list[str]]:
    """Whatever Wireshark finds wrong: malformed packets, wrong checksums, warnings and errors."""
    return tshark(
        path, "frame.number", "_ws.expert.message", display="_ws.malformed || _ws.expert.severity >= 6291456"
    )


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("length", [0, 7, 1453, 1472, 1473, 65_507])
def test_written_udp_is_read_by_tshark_and_by_us(tmp_path: Path, source, destination, length: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "written.pcap"
    payload = bytes(n * 7 & 0xFF for n in range(length))
    with PcapWriter(path) as writer:
        writer.write_udp(1_700_000_000.25, source, 40000, destination, 40001, payload)
        writer.write_udp(1_700_000_000.5, destination, 40001, source, 40000, payload[::-1])
    there, back = udp_datagrams(path)
    assert (there.payload, back.payload) == (payload, payload[::-1])
    assert (there.source, there.source_port, there.destination_port) == (source, 40000, 40001)
    assert (there.time, back.time) == (1_700_000_000.25, 1_700_000_000.5)
    assert complaints(path) == []
    rows = tshark(path, "udp.length", "udp.checksum.status", "frame.time_epoch", display="udp.length")
    assert [row[:2] for row in rows] == [[str(8 + length), "1"]] * 2  # 1: good
    frames = tshark(path, "frame.len")
    assert max(int(row[0]) for row in frames) <= 1514
    room = 1472 if source.version == 4 else 1452
    assert (len(frames) == 2) == (length <= room)


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=["IPv4", "IPv6"])
def test_written_tcp_is_read_by_tshark_and_by_us(tmp_path: Path, source, destination) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "written.pcap"
    request, answer = bytes(range(256)) * 600, b"answer" * 1000
    with PcapWriter(path) as writer:
        writer.write_tcp(10.0, source, 40000, destination, 40001, request)
        writer.write_tcp(10.5, destination, 40001, source, 40000, answer)
        writer.write_tcp(11.0, source, 40000, destination, 40001, b"bye")
        writer.write_tcp(11.0, source, 40002, destination, 40001, b"another connection")
    got: dict[tuple[int, int], bytes] = {}
    for data in tcp_streams(path):
        assert data.missing == 0
        got[data.connection, data.source_port] = got.get((data.connection, data.source_port), b"") + data.payload
    assert got == {(0, 40000): request + b"bye", (0, 40001): answer, (1, 40002): b"another connection"}
    assert complaints(path) == []
    assert {row[0] for row in tshark(path, "tcp.checksum.status")} == {"1"}
    assert tshark(path, "frame.number", display="tcp.analysis.flags") == []
    flags = [row[0] for row in tshark(path, "tcp.flags", display="tcp.stream == 0")]
    assert flags[:3] == ["0x0002", "0x0012", "0x0010"]
    assert flags[-3:] == ["0x0011", "0x0011", "0x0010"]
    follow = subprocess.run(
        [need("tshark"), "-r", str(path), "-q", "-z", "follow,tcp,raw,0"], capture_output=True, text=True, check=True
    )
    lines = follow.stdout.splitlines()
    assert "".join(line for line in lines if set(line) <= set("0123456789abcdef")) == (request + b"bye").hex()
    assert "".join(line.strip() for line in lines if line.startswith("\t")) == answer.hex()


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=["IPv4", "IPv6"])
def test_written_icmp(tmp_path: Path, source, destination) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "written.pcap"
    kind = 41 if source.version == 4 else 150
    with PcapWriter(path) as writer:
        writer.write_icmp(1.0, source, destination, bytes([kind, 0, 0, 0, 1, 0, 0, 0]) + b"message")
    (message,) = icmp_messages(path)
    assert (message.type, message.hop_limit, message.octets[4:]) == (kind, 255, b"\1\0\0\0message")
    field = "icmp.checksum.status" if source.version == 4 else "icmpv6.checksum.status"
    assert tshark(path, field) == [["1"]]


def test_written_files_are_the_same_each_time_and_private(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with PcapWriter(tmp_path / name, mtu=1280) as writer:
            writer.write_udp(1.0, A4, 1, B4, 2, bytes(5000))
            writer.write_tcp(2.0, A6, 1, B6, 2, bytes(5000))
            writer.close_tcp(3.0, B6, 2, A6, 1)
            writer.close_tcp(3.0, B6, 2, A6, 1)  # there is none any more
        assert writer.packets == len(list(read_packets(tmp_path / name))) > 10
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_what_no_packet_can_hold_is_refused(tmp_path: Path) -> None:
    with PcapWriter(tmp_path / "refused") as writer:
        for arguments in (
            (1.0, A4, 1, B4, 2, bytes(65_508)),
            (1.0, A6, 1, B6, 2, bytes(65_528)),
            (1.0, A4, 1, B6, 2, b""),
            (1.0, A4, 65_536, B4, 2, b""),
            (-1.0, A4, 1, B4, 2, b""),
            (2.0**32, A4, 1, B4, 2, b""),
        ):
            with pytest.raises(LocalError):
                writer.write_udp(*arguments)
        with pytest.raises(LocalError):
            writer.write_icmp(1.0, A4, B4, b"abc")
    assert list(read_packets(tmp_path / "refused")) == []
    with pytest.raises(LocalError):
        PcapWriter(tmp_path / "refused", mtu=500)
    with pytest.raises(ConfigurationError, match="can't be written"):
        PcapWriter(tmp_path / "no" / "such" / "directory")
