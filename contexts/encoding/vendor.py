"""Vendor parameters whose values are defined (docs/context-formats.md, 4.4): names, addresses, bit sets.

A context is decoded without them: a vendor parameter never harms, so its value is read where it is used.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Union, cast

from construct import Adapter, GreedyBytes, Int8ub, Int32ub, Struct, Terminated, this

from cxtp.bit_fields import Refusal
from cxtp.compiled import Compiled, NotParsed
from cxtp.errors import InvalidContext, MalformedContext

from ..values import (
    ENTERPRISE_CXTP,
    ENTERPRISE_STRONGSWAN,
    CommonVendorNumber,
    Identification,
    IPAddress,
    StrongswanVendorNumber,
    VendorParameter,
)
from .elements import ALL_TEXT, address
from .framing import build, field_path, reason_of
from .ike_sa import IDENTIFICATION

MAXIMUM_ADDRESSES = 255
"""Addresses in one vendor parameter; ours."""

VendorValue = Union[str, int, Identification, tuple[IPAddress, ...]]

ADDRESS = Struct("family" / Int8ub, "address" / address(this.family, 4, 6))


class _Addresses(Adapter):  # type: ignore[misc]
    """Addresses, each behind its family, up to the value's end."""

    def _decode(self, obj: bytes, context: Any, path: str) -> tuple[IPAddress, ...]:
        stream = io.BytesIO(obj)
        addresses: list[IPAddress] = []
        while stream.tell() < len(obj):
            if len(addresses) == MAXIMUM_ADDRESSES:
                raise Refusal(f"more than {MAXIMUM_ADDRESSES} addresses", path)
            addresses.append(ADDRESS.parse_stream(stream).address)
        return tuple(addresses)

    def _encode(self, obj: tuple[IPAddress, ...], context: Any, path: str) -> bytes:
        if len(obj) > MAXIMUM_ADDRESSES:
            raise Refusal(f"more than {MAXIMUM_ADDRESSES} addresses", path)
        return b"".join(ADDRESS.build({"family": item.version, "address": item}) for item in obj)


ADDRESSES = _Addresses(GreedyBytes)

VENDOR_FORMATS: dict[tuple[int, int], Compiled] = {
    key: Compiled(Struct("value" / format_, Terminated))
    for key, format_ in {
        (ENTERPRISE_CXTP, CommonVendorNumber.CONNECTION_NAME): ALL_TEXT,
        (ENTERPRISE_CXTP, CommonVendorNumber.REMOTE_EAP_IDENTITY): IDENTIFICATION,
        (ENTERPRISE_CXTP, CommonVendorNumber.LOCAL_VIRTUAL_ADDRESSES): ADDRESSES,
        (ENTERPRISE_CXTP, CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES): ADDRESSES,
        (ENTERPRISE_CXTP, CommonVendorNumber.PEER_ADDRESSES): ADDRESSES,
        (ENTERPRISE_CXTP, CommonVendorNumber.CHILD_NAME): ALL_TEXT,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.CONDITIONS): Int32ub,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.EXTENSIONS): Int32ub,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.PRIVATE_CONDITIONS): Int32ub,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.PRIVATE_EXTENSIONS): Int32ub,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.AUTH_METHOD): Int32ub,
        (ENTERPRISE_STRONGSWAN, StrongswanVendorNumber.SEGMENT): Int32ub,
    }.items()
}

_NUMBERS: dict[int, type[CommonVendorNumber] | type[StrongswanVendorNumber]] = {
    ENTERPRISE_CXTP: CommonVendorNumber,
    ENTERPRISE_STRONGSWAN: StrongswanVendorNumber,
}


def vendor_parameter(number: CommonVendorNumber | StrongswanVendorNumber, value: VendorValue) -> VendorParameter:
    """A known vendor parameter.  :raises InvalidContext: the value does not fit the number."""
    enterprise = ENTERPRISE_CXTP if isinstance(number, CommonVendorNumber) else ENTERPRISE_STRONGSWAN
    where = number.name.replace("_", " ").lower()
    try:
        octets = build(VENDOR_FORMATS[enterprise, number], {"value": value}, where)
    except (AttributeError, TypeError):
        raise InvalidContext("value", f"a {type(value).__name__} is no {where}") from None
    return VendorParameter(enterprise, int(number), octets)


def vendor_value(parameter: VendorParameter) -> VendorValue | None:
    """What a vendor parameter says, None where its number is not known.

    :raises MalformedContext: its number is known and its value is not of that form.
    """
    format_ = VENDOR_FORMATS.get((parameter.enterprise, parameter.number))
    if format_ is None:
        return None
    try:
        return cast(VendorValue, format_.parse(parameter.value)["value"])
    except NotParsed as refused:
        error = refused.error
        where = f"vendor parameter {parameter.enterprise}/{parameter.number} {field_path(error)}".rstrip()
        section = "docs/context-formats.md, 4.4"
        raise MalformedContext("context", where, refused.offset, reason_of(error), section=section) from None


def find_vendor_value(
    parameters: Iterable[VendorParameter], number: CommonVendorNumber | StrongswanVendorNumber
) -> VendorValue | None:
    """What the first parameter of that number says, None where there is none.  Raises as :func:`vendor_value`."""
    enterprise = ENTERPRISE_CXTP if isinstance(number, CommonVendorNumber) else ENTERPRISE_STRONGSWAN
    found = (item for item in parameters if (item.enterprise, item.number) == (enterprise, number))
    return next(map(vendor_value, found), None)


def describe_vendor_parameter(parameter: VendorParameter) -> str:
    """A vendor parameter for people; the value of an unknown one stays hidden."""
    number = _NUMBERS.get(parameter.enterprise)
    known = number is not None and parameter.number in number._value2member_map_
    name = number(parameter.number).name if number is not None and known else f"number {parameter.number}"
    try:
        value = vendor_value(parameter)
    except MalformedContext:
        return f"{name}: unreadable, {len(parameter.value)} octets"
    if value is None:
        return f"enterprise {parameter.enterprise}, {name}: hidden, {len(parameter.value)} octets"
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    elif isinstance(value, int):
        value = f"{value:#x}"
    return f"{name.replace('_', ' ').lower()}: {value}"
