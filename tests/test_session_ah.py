"""AH: scapy as second witness both ways, mutable fields by hand, bad input."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP, IPOption_Router_Alert, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.layers.ipsec import AH, SecurityAssociation
from scapy.packet import Packet, Raw
from session_examples import (
    INBOUND_SPI,
    OUTBOUND_SPI,
    ah_proposals,
    esp_proposals,
    ipsec_context,
    keys_for,
    octets,
)

from contexts.session.ah import AhSaSession, immutable_headers
from contexts.session.ip_packet import parse_ip
from contexts.values import AntiReplayWindow, CounterKnowledge, HostAddress, IpsecMode, IpsecProposal, SequenceNumbers
from cxtp.errors import IntegrityError, LocalError, ProtectionError, ReplayError, UnsupportedAlgorithm

HIGH = 1 << 32
PROPOSALS = list(ah_proposals()) + list(ah_proposals(extended=True))
each_proposal = pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda proposal: proposal.name)
SCAPY_MACS = {2: "HMAC-SHA1-96", 8: "AES-CMAC-96", 12: "SHA2-256-128", 13: "SHA2-384-192", 14: "SHA2-512-256"}
SHA256 = IpsecProposal(2, None, 0, 12, 0)
V4 = (HostAddress(ip_address("192.0.2.1")), HostAddress(ip_address("192.0.2.100")))
V6 = (HostAddress(ip_address("2001:db8::1")), HostAddress(ip_address("2001:db8::100")))


def session_for(
    proposal: IpsecProposal, mode: IpsecMode = IpsecMode.TRANSPORT, hosts: Any = V4, **changes: Any
) -> AhSaSession:
    if proposal.extended_sequence_numbers and "sequence_numbers" not in changes:
        changes["sequence_numbers"] = SequenceNumbers(outbound=2 * HIGH + 5, inbound=3 * HIGH + 5)
    keys = keys_for(proposal)
    return AhSaSession(ipsec_context(proposal, keys, mode=mode, local=hosts[0], remote=hosts[1], **changes), keys)


def plain(packet: Packet) -> bytes:
    return bytes(packet)


OUT_V4 = IP(src="192.0.2.1", dst="192.0.2.100", tos=0xB9, flags="DF", id=77, ttl=64)
OUT_V6 = IPv6(src="2001:db8::1", dst="2001:db8::100", tc=0xB9, fl=0x12345, hlim=64)
PACKETS: dict[str, Packet] = {
    "ipv4": OUT_V4 / UDP(sport=1, dport=2) / Raw(octets(33)),
    "ipv4-options": IP(
        src="192.0.2.1",
        dst="192.0.2.100",
        options=[IPOption_Router_Alert(), IPOption_NOP(), IPOption_Timestamp(), IPOption_RR(routers=["192.0.2.9"])],
    )
    / ICMP()
    / Raw(octets(9)),
    "ipv6": OUT_V6 / UDP(sport=1, dport=2) / Raw(octets(33)),
    "ipv6-hop-by-hop": OUT_V6
    / IPv6ExtHdrHopByHop(options=[RouterAlert(), HBHOptUnknown(otype=0x3E, optdata=b"mutable!")])
    / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"immutable")])
    / UDP(sport=1, dport=2)
    / Raw(octets(21)),
    "ipv6-routing": OUT_V6
    / IPv6ExtHdrRouting(addresses=["2001:db8::7"], segleft=1)
    / UDP(sport=1, dport=2, chksum=0x1234)
    / Raw(octets(21)),
}
each_packet = pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())


def scapy_association(proposal: IpsecProposal, spi: int, key: bytes, **more: Any) -> Any:
    return SecurityAssociation(AH, spi=spi, auth_algo=SCAPY_MACS[proposal.integrity], auth_key=key, **more)


@pytest.mark.parametrize(
    "proposal", [p for p in PROPOSALS if p.integrity in SCAPY_MACS], ids=lambda proposal: proposal.name
)
@each_packet
def test_scapy_seals_and_we_open(proposal: IpsecProposal, packet: Packet) -> None:
    keys, session = keys_for(proposal), session_for(proposal)
    extended = proposal.extended_sequence_numbers
    number = 3 * HIGH + 9 if extended else 9
    peer = scapy_association(proposal, INBOUND_SPI, keys.inbound_integrity)
    sealed = plain(peer.encrypt(packet.copy(), seq_num=9, esn_en=extended, esn=number // HIGH))
    opened = session.open_inbound(sealed)
    inside = parse_ip(plain(packet))
    assert (opened.sequence_number, opened.next_header, opened.payload) == (number, inside.protocol, inside.payload)


@pytest.mark.parametrize(
    "proposal", [p for p in PROPOSALS if p.integrity in SCAPY_MACS], ids=lambda proposal: proposal.name
)
@pytest.mark.parametrize("name", ["ipv4", "ipv4-options", "ipv6", "ipv6-hop-by-hop"])
def test_we_seal_and_scapy_opens(proposal: IpsecProposal, name: str) -> None:
    packet, keys, session = PACKETS[name], keys_for(proposal), session_for(proposal)
    sealed = session.seal_outbound(plain(packet))
    extended, number = proposal.extended_sequence_numbers, session.sequence.counter.last
    peer = scapy_association(proposal, OUTBOUND_SPI, keys.outbound_integrity)
    outer = (IP if name.startswith("ipv4") else IPv6)(sealed)
    assert outer[AH].seq == number % HIGH
    inner = peer.decrypt(outer, esn_en=extended, esn=number // HIGH)
    assert plain(inner) == plain(packet)


@pytest.mark.parametrize("hosts", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("name", ["ipv4", "ipv6"])
def test_tunnel_mode_with_scapy(hosts: Any, name: str) -> None:
    packet, keys, session = plain(PACKETS[name]), keys_for(SHA256), session_for(SHA256, IpsecMode.TUNNEL, hosts)
    header = (IP if hosts is V4 else IPv6)(src=str(hosts[0].address), dst=str(hosts[1].address))
    peer = scapy_association(SHA256, OUTBOUND_SPI, keys.outbound_integrity, tunnel_header=header)
    sealed = session.seal_outbound(packet)
    assert plain(peer.decrypt((IP if hosts is V4 else IPv6)(sealed))) == packet
    back = scapy_association(SHA256, INBOUND_SPI, keys.inbound_integrity, tunnel_header=header)
    opened = session.open_inbound(plain(back.encrypt(PACKETS[name].copy(), seq_num=4)))
    assert (opened.next_header, opened.payload) == (4 if name == "ipv4" else 41, packet)


@each_proposal
@each_packet
def test_what_is_sealed_opens(proposal: IpsecProposal, packet: Packet) -> None:
    session, inside = session_for(proposal), parse_ip(plain(packet))
    sealed = session.seal_outbound(plain(packet))
    header = parse_ip(sealed)
    assert header.payload_offset % (8 if header.version == 6 else 4) == 0
    assert (header.payload[1] + 2) * 4 % (8 if header.version == 6 else 4) == 0
    opened = session.open_outbound(sealed)
    assert (opened.next_header, opened.payload) == (inside.protocol, inside.payload)
    with pytest.raises(ReplayError):
        session.open_outbound(sealed)


# --- mutable fields ---------------------------------------------------------------------------------------------


def test_fields_that_change_on_the_way() -> None:
    session = session_for(SHA256)
    sealed = IP(session.seal_outbound(plain(PACKETS["ipv4-options"])))
    sealed.ttl, sealed.tos, sealed.flags = 3, 0x01, 0
    sealed.options[2].timestamp = 12345
    sealed.options[3].routers = ["198.51.100.1"]
    del sealed.chksum
    assert session.open_outbound(plain(sealed)).sequence_number == 1


@pytest.mark.parametrize("field", ["id", "src", "dst", "proto", "ihl"])
def test_fields_that_do_not(field: str) -> None:
    session = session_for(SHA256)
    sealed = IP(session.seal_outbound(plain(PACKETS["ipv4"])))
    if field in ("src", "dst"):
        setattr(sealed, field, "203.0.113.9")
    else:
        setattr(sealed, field, getattr(sealed, field) ^ 1)
    with pytest.raises(ProtectionError):
        session.open_outbound(plain(sealed))


def test_ipv6_fields_that_change_on_the_way() -> None:
    session = session_for(SHA256)
    sealed = bytearray(session.seal_outbound(plain(PACKETS["ipv6-hop-by-hop"])))
    sealed[0:4] = b"\x6f\xff\xff\xff"
    sealed[7] = 1
    at = bytes(sealed).index(b"mutable!")
    sealed[at : at + 8] = b"changed!"
    assert session.open_outbound(bytes(sealed)).sequence_number == 1
    at = bytes(sealed).index(b"immutable")
    sealed[at] ^= 1
    with pytest.raises(IntegrityError):
        session.open_outbound(bytes(sealed), replays=False)


def test_a_routing_header_is_taken_as_it_arrives() -> None:
    """RFC 4302, 3.3.3.1.2: sealed at the source, opened after the last hop."""
    session = session_for(SHA256)
    sealed = session.seal_outbound(plain(PACKETS["ipv6-routing"]))
    arrived = bytearray(sealed)
    arrived[24:40], arrived[48:64] = sealed[48:64], sealed[24:40]
    arrived[43] = 0  # segments left
    assert session.open_outbound(bytes(arrived)).sequence_number == 1
    assert session.open_outbound(sealed, replays=False).sequence_number == 1


def test_immutable_ipv4_header_by_hand() -> None:
    header = bytes.fromhex(
        "48 b9 0024 1234 4000 3f 33 abcd c0000201 c0000264"  # IHL 8: 12 octets of options
        "9404 0000  01 8307 04 cb007109"  # router alert, NOP, loose source route by way of 203.0.113.9
    ) + bytes(4)
    expected = bytes.fromhex(
        "48 00 0024 1234 0000 00 33 0000 c0000201 cb007109"  # TOS, flags, TTL, checksum; the final destination
        "9404 0000  01 0000 00 00000000"
    )
    assert immutable_headers(parse_ip(header)) == expected


@pytest.mark.parametrize("options", ["83000000", "83ff0000", "44010000", "07000000"])
def test_ipv4_options_that_do_not_fit(options: str) -> None:
    header = bytes.fromhex("46000018000000004033000000000000 00000000" + options)
    with pytest.raises(ProtectionError):
        immutable_headers(parse_ip(header))


def test_ipv6_options_that_do_not_fit() -> None:
    header = bytes.fromhex("60000000 0008 00 40") + bytes(32) + bytes.fromhex("33 00 3e 05 01020304")
    with pytest.raises(ProtectionError):
        immutable_headers(parse_ip(header))


def test_a_segment_routing_header_can_not_be_predicted() -> None:
    packet = OUT_V6 / IPv6ExtHdrRouting(type=4, addresses=["2001:db8::7"], segleft=1) / UDP()
    with pytest.raises(LocalError):
        session_for(SHA256).seal_outbound(plain(packet))


def test_fragments_are_not_protected() -> None:
    session = session_for(SHA256)
    for packet in (
        IP(src="192.0.2.1", dst="192.0.2.100", flags="MF") / Raw(bytes(8)),
        IP(src="192.0.2.1", dst="192.0.2.100", frag=5) / Raw(bytes(8)),
        OUT_V6 / IPv6ExtHdrFragment(m=1) / Raw(bytes(8)),
        OUT_V6 / IPv6ExtHdrFragment(m=0) / UDP(),  # atomic: AH would have to stand before it
    ):
        with pytest.raises(LocalError):
            session.seal_outbound(plain(packet))
    assert session.sequence.counter.last == 0


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", [SHA256, replace(SHA256, extended_sequence_numbers=True)], ids=["32", "esn"])
@pytest.mark.parametrize("name", PACKETS)
def test_one_bit_flipped_in_what_is_covered(proposal: IpsecProposal, name: str) -> None:
    session = session_for(proposal)
    sealed = session.seal_outbound(plain(PACKETS[name]))
    start = parse_ip(sealed).payload_offset
    for bit in range(start * 8, len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(ProtectionError):
            session.open_outbound(bytes(flipped))
    assert session.open_outbound(sealed).spi == OUTBOUND_SPI


@pytest.mark.parametrize("name", PACKETS)
def test_cut_at_every_length(name: str) -> None:
    session = session_for(SHA256)
    sealed = session.seal_outbound(plain(PACKETS[name]))
    for length in range(len(sealed)):
        cut = bytearray(sealed[:length])
        with pytest.raises(ProtectionError):
            session.open_outbound(bytes(cut))
        if cut and length >= 20:  # the IP length says so as well
            if cut[0] >> 4 == 4:
                cut[2:4] = length.to_bytes(2, "big")
            elif length >= 40:
                cut[4:6] = (length - 40).to_bytes(2, "big")
            with pytest.raises(ProtectionError):
                session.open_outbound(bytes(cut))


def test_what_is_no_ah_packet() -> None:
    session = session_for(SHA256)
    with pytest.raises(ProtectionError):
        session.open_inbound(plain(PACKETS["ipv4"]))
    with pytest.raises(ProtectionError):  # the other direction's SPI
        session.open_inbound(session.seal_outbound(plain(PACKETS["ipv4"])))
    with pytest.raises(LocalError):
        session.seal_outbound(b"no IP packet")
    with pytest.raises(LocalError):
        session.seal_outbound(b"\x45" + bytes(1) + b"\xff\xff" + bytes(65531))
    with pytest.raises(LocalError):
        session.seal_inbound(plain(PACKETS["ipv4"]), -1)


def test_esp_is_not_ah() -> None:
    proposal = next(esp_proposals())
    with pytest.raises(UnsupportedAlgorithm):
        AhSaSession(ipsec_context(proposal, keys_for(proposal)), keys_for(proposal))


def test_hosts_of_two_ip_versions() -> None:
    with pytest.raises(LocalError):
        session_for(SHA256, IpsecMode.TUNNEL, (V4[0], V6[1])).seal_outbound(plain(PACKETS["ipv4"]))


def test_the_window_and_the_counter() -> None:
    session = session_for(SHA256, sequence_numbers=SequenceNumbers(10, 100), window=AntiReplayWindow(32, 0b101))
    for number, fresh in ((100, False), (98, False), (68, False), (69, True), (101, True)):
        packet = session.seal_inbound(plain(PACKETS["ipv4"]), number)
        if fresh:
            assert session.open_inbound(packet).sequence_number == number
        with pytest.raises(ReplayError):
            session.open_inbound(packet)
    assert IP(session.seal_outbound(plain(PACKETS["ipv4"])))[AH].seq == 11
    unknown = session_for(SHA256, sequence_numbers=SequenceNumbers(knowledge=CounterKnowledge.UNKNOWN))
    with pytest.raises(LocalError):
        unknown.seal_outbound(plain(PACKETS["ipv4"]))
