"""The bodies of attributes in Construct, one for each :class:`.Form`.

Numbers are big-endian but for SPIs and CPIs: the plugin swaps those once too often, so that they come in the
sending host's own order (little-endian nearly everywhere).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from construct import (
    Adapter,
    Byte,
    Bytes,
    Construct,
    Error,
    GreedyBytes,
    Int16ub,
    Int16ul,
    Int32ub,
    Int32ul,
    Int64ub,
    NullTerminated,
    Prefixed,
    Struct,
    Switch,
    this,
)

from contexts.values import HostAddress, Identification, IkeSpis, IPAddress
from cxtp.constants import TrafficSelectorType

from .attributes import Form, HaTrafficSelector, IkeSaId

_AF_INET, _AF_INET6 = 2, 10
"""Address families as Linux numbers them: the plugin sends its host's."""


def _address(kind: str, ipv4: int, ipv6: int) -> Construct:
    return Switch(this[kind], {ipv4: Bytes(4), ipv6: Bytes(16)}, default=Error)


def _unpacked(octets: bytes) -> IPAddress:
    return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)


def _boolean(number: int) -> bool:
    if number > 1:  # as a bool it would not come back as it was
        raise ValueError(f"{number} is neither 0 nor 1")
    return bool(number)


class _IkeSaIdBody(Adapter):  # type: ignore[misc]  # construct has no types
    def _decode(self, obj: Any, context: Any, path: str) -> IkeSaId:
        return IkeSaId(obj.ike_version, IkeSpis(obj.initiator_spi, obj.responder_spi), _boolean(obj.initiator))

    def _encode(self, obj: IkeSaId, context: Any, path: str) -> dict[str, int]:
        return {
            "ike_version": obj.ike_version,
            "initiator_spi": obj.spis.initiator,
            "responder_spi": obj.spis.responder,
            "initiator": int(obj.initiator),
        }


class _IdentificationBody(Adapter):  # type: ignore[misc]
    def _decode(self, obj: Any, context: Any, path: str) -> Identification:
        return Identification(obj.type, obj.data)

    def _encode(self, obj: Identification, context: Any, path: str) -> dict[str, Any]:
        return {"type": obj.type, "data": obj.data}


class _HostBody(Adapter):  # type: ignore[misc]
    def _decode(self, obj: Any, context: Any, path: str) -> HostAddress:
        return HostAddress(_unpacked(obj.address), obj.port)

    def _encode(self, obj: HostAddress, context: Any, path: str) -> dict[str, Any]:
        family = _AF_INET if obj.address.version == 4 else _AF_INET6
        return {"port": obj.port, "family": family, "address": obj.address.packed}


class _TrafficSelectorBody(Adapter):  # type: ignore[misc]
    def _decode(self, obj: Any, context: Any, path: str) -> HaTrafficSelector:
        start, end = _unpacked(obj.start_address), _unpacked(obj.end_address)
        dynamic = _boolean(obj.dynamic)
        if int(start) > int(end):
            raise ValueError("a range whose start lies above its end")
        return HaTrafficSelector(obj.protocol, obj.start_port, obj.end_port, dynamic, start, end)

    def _encode(self, obj: HaTrafficSelector, context: Any, path: str) -> dict[str, Any]:
        start, end = obj.start_address, obj.end_address
        if start.version != end.version:
            raise ValueError("a range lies within one version of IP")
        ipv4 = start.version == 4
        return {
            "type": TrafficSelectorType.IPV4_ADDR_RANGE if ipv4 else TrafficSelectorType.IPV6_ADDR_RANGE,
            "protocol": obj.protocol,
            "start_port": obj.start_port,
            "end_port": obj.end_port,
            "dynamic": int(obj.dynamic),
            "start_address": start.packed,
            "end_address": end.packed,
        }


class _NameBody(Adapter):  # type: ignore[misc]
    """A name is whatever octets the other daemon's configuration has; those that are no UTF-8 survive."""

    def _decode(self, obj: bytes, context: Any, path: str) -> str:
        return obj.decode("utf-8", "surrogateescape")

    def _encode(self, obj: str, context: Any, path: str) -> bytes:
        octets = obj.encode("utf-8", "surrogateescape")
        if b"\0" in octets:
            raise ValueError("a name ends at its first NUL")
        return octets


class _NumbersBody(Adapter):  # type: ignore[misc]
    def _decode(self, obj: bytes, context: Any, path: str) -> tuple[int, ...]:
        if len(obj) % 2:
            raise ValueError("a list of 16-bit numbers of odd length")
        return tuple(int.from_bytes(obj[i : i + 2], "big") for i in range(0, len(obj), 2))

    def _encode(self, obj: tuple[int, ...], context: Any, path: str) -> bytes:
        return b"".join(number.to_bytes(2, "big") for number in obj)


_COMMON: Mapping[Form, Construct] = {
    Form.IKE_SA_ID: _IkeSaIdBody(
        Struct("ike_version" / Byte, "initiator_spi" / Int64ub, "responder_spi" / Int64ub, "initiator" / Byte)
    ),
    Form.IDENTIFICATION: _IdentificationBody(Struct("type" / Byte, "data" / Prefixed(Byte, GreedyBytes))),
    Form.HOST: _HostBody(
        Struct("port" / Int16ub, "family" / Byte, "address" / _address("family", _AF_INET, _AF_INET6))
    ),
    Form.NAME: _NameBody(NullTerminated(GreedyBytes)),
    Form.NUMBER_8: Byte,
    Form.NUMBER_16: Int16ub,
    Form.NUMBER_32: Int32ub,
    Form.OCTETS: Prefixed(Int16ub, GreedyBytes),
    Form.NUMBERS: _NumbersBody(Prefixed(Int16ub, GreedyBytes)),
    Form.TRAFFIC_SELECTOR: _TrafficSelectorBody(
        Struct(
            "type" / Byte,
            "protocol" / Byte,
            "start_port" / Int16ub,
            "end_port" / Int16ub,
            "dynamic" / Byte,
            "start_address" / _address("type", 7, 8),
            "end_address" / _address("type", 7, 8),
        )
    ),
}

BODIES: Mapping[str, Mapping[Form, Construct]] = {
    "little": {**_COMMON, Form.SWAPPED_16: Int16ul, Form.SWAPPED_32: Int32ul},
    "big": {**_COMMON, Form.SWAPPED_16: Int16ub, Form.SWAPPED_32: Int32ub},
}
"""By the sending host's octet order, then by form."""
