"""The vendor parameters whose values are defined (docs/context-formats.md, 4.4)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from contexts.encoding.vendor import (
    VENDOR_FORMATS,
    VendorValue,
    describe_vendor_parameter,
    vendor_parameter,
    vendor_value,
)
from contexts.values import CommonVendorNumber, Identification, StrongswanVendorNumber, VendorParameter
from cxtp.errors import InvalidContext, MalformedContext

V4, V6 = ip_address("10.3.0.1"), ip_address("2001:db8::5")

# each value with its octets as the document lays them out
KNOWN: list[tuple[CommonVendorNumber | StrongswanVendorNumber, VendorValue, int, str]] = [
    (CommonVendorNumber.CONNECTION_NAME, "gw-ü", 0, "67 77 2d c3 bc"),
    (CommonVendorNumber.CHILD_NAME, "net", 0, "6e 65 74"),
    (CommonVendorNumber.REMOTE_EAP_IDENTITY, Identification(3, b"a@b"), 0, "03 00 00 03 61 40 62"),
    (CommonVendorNumber.LOCAL_VIRTUAL_ADDRESSES, (V4,), 0, "04 0a 03 00 01"),
    (CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES, (V4, V6), 0, "04 0a030001 06 20010db8000000000000000000000005"),
    (CommonVendorNumber.PEER_ADDRESSES, (), 0, ""),
    (StrongswanVendorNumber.CONDITIONS, 0x4005, 36906, "00 00 40 05"),
    (StrongswanVendorNumber.EXTENSIONS, 0x3929, 36906, "00 00 39 29"),
    (StrongswanVendorNumber.PRIVATE_CONDITIONS, 0x80000000, 36906, "80 00 00 00"),
    (StrongswanVendorNumber.PRIVATE_EXTENSIONS, 0x80000001, 36906, "80 00 00 01"),
    (StrongswanVendorNumber.AUTH_METHOD, 2, 36906, "00 00 00 02"),
    (StrongswanVendorNumber.SEGMENT, 1, 36906, "00 00 00 01"),
]


def test_every_known_number_is_here() -> None:
    assert {(enterprise, int(number)) for number, _, enterprise, _ in KNOWN} == set(VENDOR_FORMATS)


@pytest.mark.parametrize(("number", "value", "enterprise", "octets"), KNOWN)
def test_known_values_both_ways(
    number: CommonVendorNumber | StrongswanVendorNumber, value: VendorValue, enterprise: int, octets: str
) -> None:
    parameter = VendorParameter(enterprise, int(number), bytes.fromhex(octets))
    assert vendor_parameter(number, value) == parameter
    assert vendor_value(parameter) == value
    assert number.name.replace("_", " ").lower() in describe_vendor_parameter(parameter)


def test_an_unknown_one_is_left_alone() -> None:
    parameter = VendorParameter(99, 1, b"secret")
    assert vendor_value(parameter) is None
    assert describe_vendor_parameter(parameter) == "enterprise 99, number 1: hidden, 6 octets"


@pytest.mark.parametrize(
    ("number", "octets"),
    [(1, "ff"), (2, "03"), (2, "03 00 00 01"), (3, "05 0a030001"), (3, "04 0a0300"), (4, "04 0a030001 06"),
     (5, "04 0a030001" * 256)],
)  # fmt: skip
def test_malformed_values_of_known_numbers(number: int, octets: str) -> None:
    parameter = VendorParameter(0, number, bytes.fromhex(octets))
    with pytest.raises(MalformedContext):
        vendor_value(parameter)
    assert describe_vendor_parameter(parameter).endswith(f"unreadable, {len(parameter.value)} octets")


@pytest.mark.parametrize("octets", ["", "000000", "0000000000"])
def test_bit_sets_have_32_bits(octets: str) -> None:
    with pytest.raises(MalformedContext):
        vendor_value(VendorParameter(36906, 1, bytes.fromhex(octets)))


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (CommonVendorNumber.CONNECTION_NAME, 5),
        (CommonVendorNumber.CONNECTION_NAME, "\udc80"),
        (CommonVendorNumber.LOCAL_VIRTUAL_ADDRESSES, "10.3.0.1"),
        (CommonVendorNumber.LOCAL_VIRTUAL_ADDRESSES, (V4,) * 256),
        (CommonVendorNumber.REMOTE_EAP_IDENTITY, "a@b"),
        (StrongswanVendorNumber.CONDITIONS, 1 << 32),
        (StrongswanVendorNumber.CONDITIONS, -1),
    ],
)
def test_values_that_do_not_fit_are_the_callers_fault(
    number: CommonVendorNumber | StrongswanVendorNumber, value: VendorValue
) -> None:
    with pytest.raises(InvalidContext):
        vendor_parameter(number, value)
