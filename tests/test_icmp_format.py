"""CXTP in ICMP (RFC 4065, 8; RFC 4067, 3.2): by hand, against scapy, and against what can arrive."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import MN4, MN6, REPRODUCIBLE, messages
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum as scapy_checksum

from cxtp.errors import LocalError, MalformedMessage
from cxtp.messages import ContextTransferActivateAcknowledge
from cxtp.wire import IcmpMessage, build, build_icmp, internet_checksum, parse, parse_icmp

ROUTER4, ROUTER6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
V4, V6 = (MN4, ROUTER4), (MN6, ROUTER6)

# A CTAA with no statuses.  The 16-bit words but the checksum: 2900 0100 0000 2280 0008 c000 0207, sum 10e8f,
# folded 0e90, its complement f16f.
ICMP4 = bytes.fromhex("29 00 f16f 01 000000  22 80 0008 c0000207")

# Over IPv6's pseudo-header too (RFC 4443, 2.3): source 2001 0db8 0 0 0 0 0 0007, destination 2001 0db8 0 0 0 0 0 0001,
# length 001c, next header 003a; then 9600 0100 0000 2200 0014 2001 0db8 0 0 0 0 0 0007.  Sum 142a4, folded 42a5.
ICMP6 = bytes.fromhex("96 00 bd5a 01 000000  22 00 0014 20010db8000000000000000000000007")


def test_ipv4_by_hand() -> None:
    message = build(ContextTransferActivateAcknowledge(mn_previous_address=MN4))
    assert build_icmp(IcmpMessage(41, message)) == ICMP4
    assert parse_icmp(ICMP4) == parse_icmp(ICMP4, V4) == IcmpMessage(41, message, code=0, subtype=1)
    assert parse(parse_icmp(ICMP4).message) == ContextTransferActivateAcknowledge(mn_previous_address=MN4)


def test_ipv6_by_hand() -> None:
    message = build(ContextTransferActivateAcknowledge(mn_previous_address=MN6))
    assert build_icmp(IcmpMessage(150, message), V6) == ICMP6
    assert parse_icmp(ICMP6, V6) == IcmpMessage(150, message, code=0, subtype=1)


def test_checksum_of_rfc_1071() -> None:
    # RFC 1071, 3: the one's complement sum of this example is ddf2; the checksum is its complement.
    assert internet_checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xDDF2 ^ 0xFFFF
    assert internet_checksum(b"") == 0xFFFF


@REPRODUCIBLE
@given(st.binary(max_size=90))
def test_checksum_as_scapy_has_it(octets: bytes) -> None:
    assert internet_checksum(octets) == scapy_checksum(octets)


@REPRODUCIBLE
@given(messages())
def test_packets_that_scapy_finds_right(message: object) -> None:
    octets = build(message)  # type: ignore[arg-type]
    icmp4 = build_icmp(IcmpMessage(41, octets))
    icmp6 = build_icmp(IcmpMessage(150, octets), V6)
    assert scapy_checksum(bytes(IP(src=str(MN4), dst=str(ROUTER4), proto=1) / icmp4)[20:]) == 0
    assert in6_chksum(58, IPv6(src=str(MN6), dst=str(ROUTER6), nh=58), icmp6) == 0
    assert parse_icmp(icmp4, V4).message == parse_icmp(icmp6, V6).message == octets


def test_reserved_bits_survive() -> None:
    icmp = IcmpMessage(41, b"\x01", reserved=0xABCDEF)
    octets = build_icmp(icmp)
    assert octets[5:8].hex() == "abcdef"
    assert parse_icmp(octets) == icmp


def checksummed(octets: str) -> bytes:
    """ICMP octets for IPv4, their checksum field made right."""
    raw = bytes.fromhex(octets)
    checksum: int = scapy_checksum(raw[:2] + b"\0\0" + raw[4:])
    return raw[:2] + checksum.to_bytes(2, "big") + raw[4:]


@pytest.mark.parametrize(
    ("octets", "field", "offset"),
    [
        (b"", "icmp.type", 0),
        (b"\x29", "icmp.code", 1),
        (ICMP4[:3], "icmp.checksum", 2),
        (ICMP4[:4], "icmp.subtype", 4),
        (ICMP4[:7], "icmp.reserved", 5),
        (checksummed("29 00 0000 01 000000")[:7], "icmp.reserved", 5),
        (checksummed("08 00 0000 01 000000"), "icmp.type", 0),
        (checksummed("28 00 0000 01 000000"), "icmp.type", 0),
        (checksummed("29 01 0000 01 000000"), "icmp.code", 1),
        (checksummed("29 00 0000 00 000000"), "icmp.subtype", 4),  # CARD
        (checksummed("29 00 0000 02 000000"), "icmp.subtype", 4),
        (ICMP4[:3] + b"\x6e" + ICMP4[4:], "icmp.checksum", 2),
    ],
)
def test_the_error_names_field_and_offset(octets: bytes, field: str, offset: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_icmp(octets)
    assert (caught.value.field, caught.value.offset, caught.value.section) == (field, offset, "RFC 4067, 3.2")


def test_a_wrong_checksum_has_its_own_status() -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_icmp(ICMP4[:-1] + b"\x08")
    assert caught.value.status == 0x01  # BAD_CHECKSUM (RFC 4067, 4)
    with pytest.raises(MalformedMessage) as caught:
        parse_icmp(checksummed("29 00 0000 02 000000"))
    assert caught.value.status == 0x03


def test_the_type_must_be_the_packets_familys() -> None:
    # A peer may send type 150 in an IPv4 packet: its fault, not the caller's.
    for octets, addresses in ((ICMP6, V4), (ICMP4, V6)):
        with pytest.raises(MalformedMessage) as caught:
            parse_icmp(octets, addresses)
        assert caught.value.field == "icmp.type"


def test_ipv6_needs_both_addresses_to_build() -> None:
    for addresses in (None, V4, (MN6, ROUTER4)):
        with pytest.raises(LocalError):
            build_icmp(IcmpMessage(150, b""), addresses)


@pytest.mark.parametrize(
    "wrong", [{"type": 1}, {"type": -1}, {"code": 256}, {"code": -1}, {"subtype": 256}, {"reserved": 1 << 24}]
)
def test_values_that_no_box_holds(wrong: dict[str, int]) -> None:
    with pytest.raises(LocalError):
        IcmpMessage(**{"type": 41, "message": b"", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(("octets", "addresses"), [(ICMP4, V4), (ICMP6, V6)])
def test_cuts_and_flips(octets: bytes, addresses: tuple[IPv4Address, IPv4Address]) -> None:
    for count in range(len(octets)):
        with pytest.raises(MalformedMessage):
            parse_icmp(octets[:count], addresses)
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(MalformedMessage):
            parse_icmp(bytes(flipped), addresses)


@REPRODUCIBLE
@given(st.binary(max_size=40), st.sampled_from([None, V4, V6]))
def test_any_octets(octets: bytes, addresses: tuple[IPv4Address, IPv4Address] | None) -> None:
    for raw in (octets, b"\x96\0\0\0\1" + octets, checksummed((b"\x29\0\0\0\1" + octets).hex())):
        try:
            icmp = parse_icmp(raw, addresses)
        except MalformedMessage:
            continue
        assert icmp.message == raw[8:]


def test_the_message_is_not_in_the_repr() -> None:
    assert "secret" not in repr(IcmpMessage(41, b"secret"))
