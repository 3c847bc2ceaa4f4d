"""Messages and contexts: what Construct costs, interpreted and compiled, above hand-written struct code."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any
from unittest.mock import patch

from contexts.base import _decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
from contexts.multicast_listener import MulticastListenerContext
from cxtp import wire
from cxtp.compiled import Compiled
from cxtp.config import ContextTypes
from cxtp.messages import (
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    Message,
    PredictiveContextTransferData,
)

from . import floor_contexts
from .harness import Report
from .samples import recorded_contexts

MN, AR = ip_address("192.0.2.100"), ip_address("192.0.2.1")


def sample_messages() -> tuple[Message, ...]:
    requested = (ContextRequest(0xFF01), ContextRequest(0xFF02))
    statuses = (ContextStatus(0xFF01, 0x04), ContextStatus(0xFF02, 0x09))
    blocks = (ContextBlock(0xFF01, bytes(400), 0xFFF00000), ContextBlock(0xFF02, bytes(352), 0xFFF00000))
    token = b"\1\2\3\4"
    return (
        ContextTransferActivateRequest(
            mn_previous_address=MN,
            access_router_address=AR,
            sequence_number=7,
            authorization_token=token,
            requested=requested,
            acknowledge=True,
        ),
        ContextTransferActivateAcknowledge(mn_previous_address=MN, statuses=statuses),
        ContextTransferData(mn_previous_address=MN, elapsed_time=3, blocks=blocks, acknowledge=True),
        PredictiveContextTransferData(mn_previous_address=MN, elapsed_time=3, blocks=blocks, key=bytes(20)),
        ContextTransferDataReply(mn_previous_address=MN, success=True, statuses=statuses),
        ContextTransferCancel(mn_previous_address=MN),
        ContextTransferRequest(
            mn_previous_address=MN, sequence_number=7, authorization_token=token, requested=requested
        ),
    )


# --- the floor: the same values, by hand ----------------------------------------------------------------------------


def _floor_statuses(octets: bytes, at: int) -> tuple[ContextStatus, ...]:
    return tuple(ContextStatus(*struct.unpack_from(">HBB", octets, n)) for n in range(at, len(octets), 4))


def _floor_requests(octets: bytes, at: int) -> tuple[ContextRequest, ...]:
    found = []
    while at < len(octets):
        item = ContextRequest(*struct.unpack_from(">HBB", octets, at))
        found.append(item)
        at += 4 + 4 * item.length
    return tuple(found)


def _floor_blocks(octets: bytes, at: int) -> tuple[ContextBlock, ...]:
    found = []
    while at < len(octets):
        number, words, flags = struct.unpack_from(">HBB", octets, at)
        head = 8 if flags & 0x80 else 4
        vector = struct.unpack_from(">I", octets, at + 4)[0] if flags & 0x80 else None
        found.append(ContextBlock(number, octets[at + head : at + words * 8], vector, flags & 0x7F))
        at += words * 8
    return tuple(found)


def floor_parse(octets: bytes) -> Message:
    """IPv4 alone, trusting, with no error worth the name: nothing could be faster and give the same values."""
    kind, flags = octets[0] & 0x1F, octets[1]
    if kind in (3, 4):
        elapsed, address = struct.unpack_from(">I4s", octets, 4)
        common: dict[str, Any] = {
            "mn_previous_address": ip_address(address), "elapsed_time": elapsed, "acknowledge": bool(flags & 0x40)
        }
        if kind == 3:
            return ContextTransferData(**common, blocks=_floor_blocks(octets, 12))
        algorithm, length = struct.unpack_from(">HH", octets, 12)
        key = octets[16 : 16 + length]
        return PredictiveContextTransferData(
            **common, algorithm=algorithm, key=key, blocks=_floor_blocks(octets, 16 + length)
        )
    mn = ip_address(octets[4:8])
    if kind == 1:
        router, number, token = struct.unpack_from(">4sI4s", octets, 8)
        return ContextTransferActivateRequest(
            mn_previous_address=mn,
            access_router_address=ip_address(router),
            sequence_number=number,
            authorization_token=token,
            requested=_floor_requests(octets, 20),
            acknowledge=bool(flags & 0x40),
        )
    if kind == 7:
        number, token = struct.unpack_from(">I4s", octets, 8)
        return ContextTransferRequest(
            mn_previous_address=mn,
            sequence_number=number,
            authorization_token=token,
            requested=_floor_requests(octets, 16),
        )
    if kind == 2:
        return ContextTransferActivateAcknowledge(mn_previous_address=mn, statuses=_floor_statuses(octets, 8))
    if kind == 5:
        return ContextTransferDataReply(
            mn_previous_address=mn, success=bool(flags & 0x40), statuses=_floor_statuses(octets, 8)
        )
    return ContextTransferCancel(mn_previous_address=mn)


def floor_build(message: Message) -> bytes:
    """IPv4 alone; the values are valid already."""
    kind, flags = int(message.type), 0x80
    mn = message.mn_previous_address.packed
    if isinstance(message, ContextTransferData):
        flags |= message.acknowledge << 6
        body = struct.pack(">I", message.elapsed_time) + mn
        if isinstance(message, PredictiveContextTransferData):
            body += struct.pack(">HH", message.algorithm, len(message.key)) + message.key
        for block in message.blocks:
            head = struct.pack(">HBB", block.feature_profile_type, block.length, 0x80 * (block.header_octets == 8))
            vector = b"" if block.presence_vector is None else struct.pack(">I", block.presence_vector)
            body += (head + vector + block.data).ljust(block.length * 8, b"\0")
    elif isinstance(message, (ContextTransferActivateRequest, ContextTransferRequest)):
        body = mn
        if isinstance(message, ContextTransferActivateRequest):
            flags |= message.acknowledge << 6
            body += message.access_router_address.packed
        body += struct.pack(">I4s", message.sequence_number, message.authorization_token)
        for item in message.requested:
            body += struct.pack(">HBB", item.feature_profile_type, item.length, item.flags) + bytes(4 * item.length)
    else:
        body = mn
        if isinstance(message, ContextTransferDataReply):
            flags |= message.success << 6
        for status in getattr(message, "statuses", ()):
            body += struct.pack(">HBB", status.feature_profile_type, status.status, status.reserved)
    return struct.pack(">BBH", 0x20 | kind, flags, 4 + len(body)) + body


def _interpreted(call: Callable[[], object]) -> Callable[[], object]:
    """The same call with Construct's interpreter in place of what is compiled of its declarations."""

    def run() -> object:
        with patch.multiple(Compiled, parse_quickly=_nothing, build_quickly=_nothing):
            return call()

    return run


def _nothing(*arguments: object, **context: object) -> None:
    """No quick answer."""


def messages(seconds: float) -> Report:
    """Every message, parsed and built."""
    report = Report("Messages: parse and build")
    for message in sample_messages():
        octets = wire.build(message)
        if floor_parse(octets) != message or floor_build(message) != octets:
            raise SystemExit(f"the floor does not do the same as the product for a {message.short_name}")

        def parse(octets: bytes = octets) -> object:
            return wire.parse(octets)

        def build(message: Message = message) -> object:
            return wire.build(message)

        for name, call, floor in (
            ("parse", parse, lambda octets=octets: floor_parse(octets)),
            ("build", build, lambda message=message: floor_build(message)),
        ):
            variants = _variants(floor, call)
            report.compare(f"{message.short_name} {name}", variants, floor="struct by hand", seconds=seconds)
    return report


# --- contexts ---------------------------------------------------------------------------------------------------


def _variants(by_hand: Callable[[], object], ours: Callable[[], object]) -> dict[str, Callable[[], object]]:
    return {"struct by hand": by_hand, "compiled (ours)": ours, "interpreted": _interpreted(ours)}


def decode(encoded: EncodedContext) -> object:
    """Without what is kept of contexts that were decoded before."""
    return _decode.__wrapped__(encoded, ContextTypes())


_FLOORS: dict[type, tuple[Callable[[EncodedContext], object], Callable[[Any], EncodedContext]]] = {
    IkeSaContext: (floor_contexts.decode_ike_sa, floor_contexts.encode_ike_sa),
    IpsecSaContext: (floor_contexts.decode_ipsec_sa, floor_contexts.encode_ipsec_sa),
}


def contexts(seconds: float) -> Report:
    """Every context type, IKE_SA in each key case."""
    report = Report("Contexts: decode and encode (floor: the same values and octets, by hand)")
    given = recorded_contexts("rekey-ike-child")
    samples: dict[str, Any] = {}
    for case in (1, 2, 3):
        converted = with_key_case(given, case)
        samples[f"IKE_SA case {case}"] = converted[0]
        samples[f"IPsec_SA case {case}"] = converted[-1]
    for name, context in samples.items():
        encoded = encode(context)
        floor_decode, floor_encode = _FLOORS[type(context)]
        if floor_encode(context) != encoded or floor_decode(encoded) != context:
            raise SystemExit(f"the floor does not do the same as the product for {name}")
        variants = _variants(partial(floor_decode, encoded), partial(decode, encoded))
        report.compare(f"{name} decode", variants, floor="struct by hand", seconds=seconds)
        variants = _variants(partial(floor_encode, context), partial(encode, context))
        report.compare(f"{name} encode", variants, floor="struct by hand", seconds=seconds)
    listener = MulticastListenerContext(subnet_prefix=bytes(8), group=ip_address("ff02::1"))  # type: ignore[arg-type]
    encoded = encode(listener)
    report.compare(
        "multicast listener decode",
        _variants(
            lambda: MulticastListenerContext(
                subnet_prefix=encoded.data[:8], group=IPv6Address(encoded.data[8:24])
            ),
            partial(decode, encoded),
        ),
        floor="struct by hand",
        seconds=seconds,
    )
    return report
