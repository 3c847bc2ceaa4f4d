"""Restored sessions: every packet of the recordings, and the ways packets and contexts can be wrong."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw
from session_examples import (
    INBOUND_SPI,
    LOCAL,
    NONCES,
    OUTBOUND_SPI,
    REMOTE,
    SPIS,
    TRACES,
    Trace,
    ike_context,
    ipsec_context,
    keys_for,
    octets,
    traces,
)

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import derive_ike_keys, derive_ipsec_keys, to_key_case
from contexts.session import (
    Direction,
    IkeSaSession,
    OpenedIkeMessage,
    OpenedPacket,
    ProtectedPacket,
    RestoredSession,
)
from contexts.session.ah import AhSaSession
from contexts.session.esp import IpsecSaSession
from contexts.session.ike_message import IkeHeader, IkePayloadItem, build_header, build_payloads
from contexts.session.ipcomp import compress
from contexts.values import (
    CounterKnowledge,
    HostAddress,
    IkeProposal,
    IkeSpis,
    IpComp,
    IpsecKeys,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    SequenceNumbers,
    SharedSecret,
)
from cxtp.constants import SecurityProtocol, StatusCode
from cxtp.errors import LocalError, ProtectionError, RemoteError, ReplayError, UnsupportedAlgorithm

GCM = IpsecProposal(SecurityProtocol.ESP, 20, 128, 0, 0)
AH = IpsecProposal(SecurityProtocol.AH, None, 0, 12, 0)
IKE = ike_context(IkeProposal(20, 256, 0, 0, 5, 19), SharedSecret(octets(32, 4), NONCES))
INNER = bytes(IP(src="10.3.0.1", dst="10.1.0.1") / ICMP(id=7, seq=3) / Raw(octets(37)))
INBOUND = {"src": str(REMOTE), "dst": str(LOCAL)}
OUTBOUND = {"src": str(LOCAL), "dst": str(REMOTE)}


def esp_context(**changes: Any) -> IpsecSaContext:
    return ipsec_context(GCM, keys_for(GCM), **changes)


def plain(packet: Packet) -> bytes:
    return bytes(packet)


def inbound_esp(number: int = 1, context: IpsecSaContext | None = None) -> bytes:
    peer = IpsecSaSession(context or esp_context(), keys_for(GCM))
    return peer.seal_inbound(INNER, 4, number.to_bytes(8, "big"), number)


def opened_packet(session: RestoredSession, packet: bytes) -> OpenedPacket:
    protected = session.classify(packet)
    assert protected is not None
    opened = session.open(protected)
    assert isinstance(opened, OpenedPacket)
    return opened


# --- the recordings ---------------------------------------------------------------------------------------------

RECORDED = traces()
each_trace = pytest.mark.parametrize("trace", RECORDED, ids=lambda trace: trace.name)


def contexts_in_case(trace: Trace, case: int) -> list[IkeSaContext | IpsecSaContext]:
    """The trace's contexts, IKE keys in that case; in case 3 the IPsec keys as such, too."""
    ike = [
        replace(context, keying=to_key_case(context.keying, context.proposal, context.spis, case))
        for context in trace.ike_contexts()
    ]
    ipsec = trace.ipsec_contexts()
    if case == 3:
        derived = RestoredSession.restore([*ike, *ipsec])
        ipsec = [replace(context, keying=derived.ipsec_keys(context.inbound_spi)) for context in ipsec]
    return [*ike, *ipsec]


def counts_of_the_readme(trace: Trace) -> tuple[int, int]:
    """SK payloads and ESP packets as the recording's README counts them."""
    text = (TRACES / trace.name / "README.txt").read_text(encoding="utf-8")
    found = {name: int(number) for name, number in re.findall(r'"(sk_ok|esp_ok)": (\d+)', text)}
    return found["sk_ok"], found["esp_ok"]


@each_trace
@pytest.mark.parametrize("case", [1, 2, 3])
def test_every_recorded_packet_opens(trace: Trace, case: int) -> None:
    session = RestoredSession.restore(contexts_in_case(trace, case))
    seen: Counter[str] = Counter()
    inner: Counter[bytes] = Counter()
    numbers: dict[int, list[int]] = {}
    for packet in trace.ip_packets():
        protected = session.classify(packet)
        if protected is None:
            continue
        opened = session.open(protected)
        seen[protected.kind] += 1
        if isinstance(opened, OpenedPacket):
            inner[opened.payload] += 1
            numbers.setdefault(opened.spi, []).append(opened.sequence_number)
            assert protected.direction is (
                Direction.INBOUND if opened.spi == protected.inbound_spi else Direction.OUTBOUND
            )
        else:
            assert isinstance(opened, OpenedIkeMessage)
    assert (seen["ike"], seen["esp"]) == counts_of_the_readme(trace)
    lost = trace.true_keys.get("lost", {})
    for spi, received in numbers.items():
        assert sorted(received) == list(range(1, len(received) + 1)) or f"{spi:08x}" in lost
    if "esp" in seen and "k-" not in trace.name and trace.name != "v5-plain":
        # what libipsec's device saw; a kernel's inner.pcap holds what the client sent on the other side as well
        assert inner == Counter(trace.ip_packets("inner.pcap"))


@each_trace
def test_a_recording_is_not_taken_twice(trace: Trace) -> None:
    session = RestoredSession.restore(contexts_in_case(trace, 1))
    protected = [session.classify(packet) for packet in trace.ip_packets()]
    packets = [packet for packet in protected if packet is not None and packet.kind == "esp"]
    for packet in packets:
        session.open(packet)
    for packet in packets:
        with pytest.raises(ReplayError):
            session.open(packet)
        assert session.open(packet, replays=False) is not None


@each_trace
def test_the_gateways_addresses_may_have_changed(trace: Trace) -> None:
    """A gateway that took over under another address still knows its SAs by their SPIs."""
    elsewhere = HostAddress(ip_address("203.0.113.1"), 4500)
    contexts = [replace(context, local_host=elsewhere) for context in contexts_in_case(trace, 1)]
    session = RestoredSession.restore(contexts)
    found = Counter(packet.kind for each in trace.ip_packets() if (packet := session.classify(each)) is not None)
    assert (found["ike"], found["esp"]) == counts_of_the_readme(trace)


# --- which packets are ours -------------------------------------------------------------------------------------


@pytest.fixture
def session() -> RestoredSession:
    nat = {"local": HostAddress(LOCAL, 4500), "remote": HostAddress(REMOTE, 32871)}
    return RestoredSession.restore([IKE, esp_context(**nat)])


def ike_message(*, as_peer: bool = True) -> bytes:
    return IkeSaSession(IKE).seal(37, 5, [IkePayloadItem(41, b"notify")], bytes(8), as_peer=as_peer)


def test_raw_esp(session: RestoredSession) -> None:
    packet = plain(IP(**INBOUND, proto=50) / Raw(inbound_esp()))
    protected = session.classify(packet + b"link-layer padding")
    assert protected == ProtectedPacket("esp", Direction.INBOUND, inbound_esp(), None, INBOUND_SPI, INBOUND_SPI)
    assert opened_packet(session, packet).payload == INNER


@pytest.mark.parametrize(("source", "destination"), [(32871, 4500), (4500, 4500), (61000, 4500), (32871, 61000)])
def test_esp_in_udp(session: RestoredSession, source: int, destination: int) -> None:
    packet = plain(IP(**INBOUND) / UDP(sport=source, dport=destination) / Raw(inbound_esp()))
    assert opened_packet(session, packet).payload == INNER


def test_esp_in_udp_between_ports_of_no_concern(session: RestoredSession) -> None:
    for ports in ({"sport": 53, "dport": 53}, {"sport": 500, "dport": 500}):
        assert session.classify(plain(IP(**INBOUND) / UDP(**ports) / Raw(inbound_esp()))) is None


@pytest.mark.parametrize("as_peer", [True, False])
def test_ike_with_and_without_the_marker(session: RestoredSession, as_peer: bool) -> None:
    message = ike_message(as_peer=as_peer)
    for ports, marker in (((500, 500), b""), ((500, 1024), b""), ((4500, 4500), bytes(4)), ((32871, 4500), bytes(4))):
        packet = plain(
            IP(**(INBOUND if as_peer else OUTBOUND)) / UDP(sport=ports[0], dport=ports[1]) / Raw(marker + message)
        )
        protected = session.classify(packet)
        assert protected is not None
        direction = Direction.INBOUND if as_peer else Direction.OUTBOUND
        assert (protected.kind, protected.direction, protected.ike_spis) == ("ike", direction, SPIS)
        assert protected.octets == message
        opened = session.open(protected)
        assert isinstance(opened, OpenedIkeMessage)
        assert opened.payloads == (IkePayloadItem(41, b"notify"),)


def udp(payload: bytes, port: int = 4500) -> bytes:
    return plain(IP(**INBOUND) / UDP(sport=port, dport=port) / Raw(payload))


def test_what_is_not_ours(session: RestoredSession) -> None:
    first, chain = build_payloads([IkePayloadItem(34, b"key exchange"), IkePayloadItem(40, b"nonce")])
    sa_init = build_header(IkeHeader(SPIS, first, 34, 8, 0, 28 + len(chain))) + chain
    other_spis = build_header(IkeHeader(IkeSpis(1, 2), 46, 37, 8, 0, 32)) + b"\0\0\0\4"
    malformed = build_header(IkeHeader(SPIS, 46, 37, 8, 0, 32)) + b"\0\0\0\5"
    no_responder_yet = build_header(IkeHeader(IkeSpis(SPIS.initiator, 0), first, 34, 8, 0, 28 + len(chain))) + chain
    for packet in (
        udp(b"\xff"),  # NAT keepalive
        udp(b""),
        udp(b"\0"),
        udp(bytes(4)),
        *(udp(message, 500) for message in (sa_init, other_spis, malformed, no_responder_yet)),
        *(udp(bytes(4) + message) for message in (sa_init, other_spis, malformed, no_responder_yet)),
        udp(b"\x12\x34\x56\x78" + inbound_esp()[4:]),
        plain(IP(**INBOUND, proto=50) / Raw(b"\x12\x34\x56\x78" + inbound_esp()[4:])),
        plain(IP(**INBOUND, proto=50) / Raw(b"\xc0\xff")),
        plain(IP(**INBOUND, proto=51) / Raw(b"\4\4\0\0" + inbound_esp())),  # AH, but ours is ESP
        plain(IP(**INBOUND) / TCP(dport=4500)),
        plain(IP(**INBOUND, proto=50, flags="MF") / Raw(inbound_esp())),
        plain(IP(**INBOUND, proto=50, frag=1) / Raw(inbound_esp())),
        plain(IPv6(src="2001:db8::2", dst="2001:db8::1") / IPv6ExtHdrFragment(nh=50, m=1) / Raw(inbound_esp())),
        b"",
        b"\x45",
        b"\x60",
        b"\x05" + bytes(60),
    ):
        assert session.classify(packet) is None


def test_protected_behind_payloads_in_the_clear(session: RestoredSession) -> None:
    message = ike_message()
    clear = b"\x2e\0\0\x09clear"  # a Vendor ID, whose next payload is SK
    moved = message[:16] + b"\x2b" + message[17:24] + (len(message) + 9).to_bytes(4, "big") + clear + message[28:]
    protected = session.classify(udp(moved, 500))
    assert protected is not None
    assert protected.kind == "ike"


def test_ipv6_with_extension_headers() -> None:
    hosts = {"local": HostAddress(ip_address("2001:db8::1")), "remote": HostAddress(ip_address("2001:db8::2"))}
    session = RestoredSession.restore([esp_context(**hosts)])
    header = IPv6(src="2001:db8::2", dst="2001:db8::1")
    for packet in (
        header / IPv6ExtHdrDestOpt(nh=50) / Raw(inbound_esp(1)),
        header / IPv6ExtHdrFragment(nh=50, m=0) / Raw(inbound_esp(2)),
        header / UDP(sport=4500, dport=4500) / Raw(inbound_esp(3)),
    ):
        assert opened_packet(session, plain(packet)).payload == INNER


@settings(derandomize=True, deadline=None, max_examples=500)
@given(
    st.binary(max_size=100),
    st.sampled_from([b"", bytes.fromhex("45"), bytes.fromhex("60"), udp(b"")[:28], udp(ike_message(), 500)[:60]]),
)
def test_garbage_never_raises(tail: bytes, head: bytes) -> None:
    session = RestoredSession.restore([IKE, esp_context()])
    for packet in (head + tail, head[:2] + len(head + tail).to_bytes(2, "big") + head[4:] + tail):
        assert session.classify(packet) is None or isinstance(session.classify(packet), ProtectedPacket)


def test_every_cut_and_every_flipped_bit_of_a_packet(session: RestoredSession) -> None:
    for whole in (udp(bytes(4) + ike_message()), udp(inbound_esp())):
        for length in range(len(whole)):
            assert session.classify(whole[:length]) is None
        for bit in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 0x80 >> bit % 8
            protected = session.classify(bytes(flipped))
            if protected is not None and bit >= 28 * 8:
                with pytest.raises(ProtectionError):
                    session.open(protected)


# --- SPIs that collide ------------------------------------------------------------------------------------------


def test_one_spi_in_both_directions() -> None:
    context = esp_context(outbound_spi=INBOUND_SPI)
    session = RestoredSession.restore([context])
    ours = IpsecSaSession(context, keys_for(GCM))
    for header, packet, direction in (
        (INBOUND, inbound_esp(), Direction.INBOUND),
        (OUTBOUND, ours.seal_outbound(INNER, 4, bytes(8)), Direction.OUTBOUND),
    ):
        protected = session.classify(plain(IP(**header, proto=50) / Raw(packet)))
        assert protected is not None
        assert protected.direction is direction
        assert session.open(protected) is not None


def test_one_outbound_spi_towards_two_peers() -> None:
    other_peer = HostAddress(ip_address("198.51.100.9"))
    contexts = [esp_context(), esp_context(inbound_spi=0x1111, remote=other_peer)]
    session = RestoredSession.restore(contexts)
    packet = IpsecSaSession(contexts[1], keys_for(GCM)).seal_outbound(INNER, 4, bytes(8))
    protected = session.classify(plain(IP(src=str(LOCAL), dst="198.51.100.9", proto=50) / Raw(packet)))
    assert protected is not None
    assert (protected.spi, protected.inbound_spi) == (OUTBOUND_SPI, 0x1111)
    assert session.classify(plain(IP(src=str(LOCAL), dst="198.51.100.77", proto=50) / Raw(packet))) is None


def test_a_packet_in_the_opposite_direction_is_another_sas() -> None:
    session = RestoredSession.restore([esp_context()])
    assert session.classify(plain(IP(**OUTBOUND, proto=50) / Raw(inbound_esp()))) is None


def test_esp_and_ah_may_share_an_spi() -> None:
    ah = ipsec_context(AH, keys_for(AH), mode=IpsecMode.TRANSPORT)
    session = RestoredSession.restore([esp_context(), ah])
    sealed = AhSaSession(ah, keys_for(AH)).seal_inbound(plain(IP(**INBOUND) / ICMP()), 3)
    protected = session.classify(sealed)
    assert protected is not None
    assert (protected.kind, protected.octets, protected.spi) == ("ah", sealed, INBOUND_SPI)
    opened = session.open(protected)
    assert isinstance(opened, OpenedPacket)
    assert (opened.next_header, opened.payload) == (1, plain(ICMP()))
    with pytest.raises(LocalError):  # which of the two?
        session.ipsec_keys(INBOUND_SPI)


@pytest.mark.parametrize(
    "contexts",
    [
        [IKE, IKE],
        [esp_context(), esp_context(outbound_spi=1)],
        [esp_context(), esp_context(inbound_spi=0x1111)],
    ],
    ids=["ike", "inbound", "outbound"],
)
def test_sas_that_can_not_be_told_apart(contexts: list[IkeSaContext | IpsecSaContext]) -> None:
    with pytest.raises(RemoteError) as refused:
        RestoredSession.restore(contexts)
    assert refused.value.status == StatusCode.SPI_COLLISION


# --- restoring --------------------------------------------------------------------------------------------------


def test_a_keymat_without_its_ike_sa() -> None:
    elsewhere = IkeSpis(0xAAAA, 0xBBBB)
    child = ipsec_context(GCM, KeymatDerivation(elsewhere, True, NONCES))
    with pytest.raises(RemoteError) as refused:
        RestoredSession.restore([IKE, child])
    assert refused.value.status == StatusCode.NO_SUCH_CONTEXT
    assert str(elsewhere) in str(refused.value)


def test_contexts_in_any_order_and_the_keys_of_the_last_generation() -> None:
    """The keys of a CHILD_SA come from the SK_d after the last IKE_INTERMEDIATE (RFC 9370, 2.2.2)."""
    keying = SharedSecret(octets(32, 4), NONCES, additional_secrets=(octets(32, 5),))
    ike = replace(IKE, keying=keying)
    child = ipsec_context(GCM, KeymatDerivation(SPIS, False, NONCES))
    session = RestoredSession.restore([child, ike])
    sk_d = derive_ike_keys(keying, ike.proposal, SPIS).sk_d
    assert session.ike_keys(SPIS).sk_d == sk_d
    assert session.ipsec_keys(INBOUND_SPI) == derive_ipsec_keys(child.keying, GCM, sk_d, 5)
    assert len(session.ike_sa(SPIS).generations) == 2
    assert [each.context for each in session.ike_sas] == [ike]
    assert [each.context for each in session.ipsec_sas] == [child]


def test_an_unknown_algorithm_is_refused() -> None:
    child = ipsec_context(replace(GCM, encryption=1024), IpsecKeys(b"", b"", b"", b""))
    with pytest.raises(UnsupportedAlgorithm):
        RestoredSession.restore([child])


def test_asking_for_what_is_not_here(session: RestoredSession) -> None:
    with pytest.raises(LocalError):
        session.ike_keys(IkeSpis(1, 2))
    with pytest.raises(LocalError):
        session.ipsec_keys(5)
    for stranger in (
        ProtectedPacket("esp", Direction.INBOUND, b"", spi=5, inbound_spi=5),
        ProtectedPacket("ah", Direction.INBOUND, b"", spi=INBOUND_SPI, inbound_spi=INBOUND_SPI),
        ProtectedPacket("ike", Direction.INBOUND, b"", ike_spis=IkeSpis(1, 2)),
    ):
        with pytest.raises(LocalError):
            session.open(stranger)


def test_an_unknown_counter_takes_the_first_packet() -> None:
    numbers = SequenceNumbers(knowledge=CounterKnowledge.UNKNOWN)
    session = RestoredSession.restore([esp_context(sequence_numbers=numbers)])
    packets = [plain(IP(**INBOUND, proto=50) / Raw(inbound_esp(number))) for number in (70_000, 69_999, 5)]
    assert [opened_packet(session, packet).sequence_number for packet in packets[:2]] == [70_000, 69_999]
    with pytest.raises(ReplayError):
        opened_packet(session, packets[2])


# --- IPComp -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [Direction.INBOUND, Direction.OUTBOUND])
def test_ipcomp_inside_esp(direction: Direction) -> None:
    ipcomp = IpComp(0x1234, 0x5678, 2)
    context = esp_context(ipcomp=ipcomp, mode=IpsecMode.TRANSPORT)
    inbound = direction is Direction.INBOUND
    peer, session = IpsecSaSession(context, keys_for(GCM)), RestoredSession.restore([context])
    inner = plain(IP(src="10.3.0.1", dst="10.1.0.1") / UDP() / Raw(b"again and " * 40))
    compressed = compress(inner, 4, 0x1234 if inbound else 0x5678, 2)
    assert compressed is not None

    def sealed(payload: bytes, next_header: int, number: int) -> bytes:
        if inbound:
            esp = peer.seal_inbound(payload, next_header, number.to_bytes(8, "big"), number)
        else:
            esp = peer.seal_outbound(payload, next_header, number.to_bytes(8, "big"))
        return plain(IP(**(INBOUND if inbound else OUTBOUND), proto=50) / Raw(esp))

    opened = opened_packet(session, sealed(compressed, 108, 1))
    assert (opened.next_header, opened.payload, opened.compressed) == (4, inner, True)
    small = opened_packet(session, sealed(inner, 4, 2))  # not worth compressing: sent as it is
    assert (small.next_header, small.payload, small.compressed) == (4, inner, False)
    with pytest.raises(ProtectionError):
        opened_packet(session, sealed(compressed[:-1], 108, 3))


def test_ipcomp_that_was_not_negotiated_stays_as_it_is() -> None:
    session, peer = RestoredSession.restore([esp_context()]), IpsecSaSession(esp_context(), keys_for(GCM))
    packet = plain(IP(**INBOUND, proto=50) / Raw(peer.seal_inbound(b"\4\0\0\2xyz", 108, bytes(8), 1)))
    assert opened_packet(session, packet).next_header == 108
