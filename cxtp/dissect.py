"""Every CXTP message of a capture, decoded: what ``cxtp dissect`` shows.

Read from UDP, TCP (cleartext, framed by each message's own Length), SCTP and ICMP.  Keys stay hidden unless asked
for.  A message that is none is shown with its error: the capture's reader wants to see it, not to be stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from contexts.base import GenericContext, decode
from contexts.presentation import describe, to_plain

from .adapters.capture import icmp_messages, sctp_data, tcp_streams, udp_datagrams
from .config import ContextTypes
from .constants import (
    ICMP_TYPE_IPV4,
    ICMP_TYPE_IPV6,
    PAYLOAD_PROTOCOL_IDENTIFIER,
    PORT,
    FeatureProfileType,
    StatusCode,
)
from .continuation import from_blocks
from .errors import RemoteError
from .manifest import TransferManifest
from .messages import (
    ContextStatus,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    Message,
    PredictiveContextTransferData,
    unusual,
)
from .wire import HEADER_OCTETS, message_length, parse, parse_icmp


class Transport(str, Enum):
    """What carried a message."""

    UDP = "udp"
    TCP = "tcp"
    SCTP = "sctp"
    ICMP = "icmp"


@dataclass(frozen=True)
class Sighting:
    """One CXTP message in a capture, or what should have been one (``message`` None, ``error`` says why)."""

    packet: int
    time: float
    transport: Transport
    source: tuple[IPAddress, int]
    destination: tuple[IPAddress, int]
    octets: bytes = field(repr=False)
    message: Message | None = field(default=None, repr=False)
    error: str = ""


def sightings(path: Path, port: int = PORT) -> Iterator[Sighting]:
    """All CXTP messages of the capture in the order of their packets.  Raises CaptureError for a broken file."""
    streams = (_udp(path, port), _tcp(path, port), _sctp(path, port), _icmp(path))
    return heapq.merge(*streams, key=lambda sighting: sighting.packet)


def _seen(
    packet: int,
    time: float,
    transport: Transport,
    ends: tuple[tuple[IPAddress, int], tuple[IPAddress, int]],
    octets: bytes,
) -> Sighting:
    try:
        return Sighting(packet, time, transport, *ends, octets, parse(octets))
    except RemoteError as error:
        return Sighting(packet, time, transport, *ends, octets, None, str(error))


def _udp(path: Path, port: int) -> Iterator[Sighting]:
    for item in udp_datagrams(path, port):
        ends = ((item.source, item.source_port), (item.destination, item.destination_port))
        yield _seen(item.index, item.time, Transport.UDP, ends, item.payload)


def _tcp(path: Path, port: int) -> Iterator[Sighting]:
    """Each direction of each connection is a stream of messages; where octets are missing, it starts anew."""
    buffers: dict[tuple[int, IPAddress, int], bytearray] = {}
    for item in tcp_streams(path, port):
        ends = ((item.source, item.source_port), (item.destination, item.destination_port))
        buffer = buffers.setdefault((item.connection, *ends[0]), bytearray())
        if item.missing:
            error = f"{item.missing} octets are missing from the capture"
            yield Sighting(item.index, item.time, Transport.TCP, *ends, bytes(buffer), None, error)
            buffer.clear()
        buffer += item.payload
        while (length := message_length(buffer)) is not None and len(buffer) >= length:
            if length < HEADER_OCTETS:
                error = f"a frame of length {length} is no message: the rest of this direction can't be cut"
                yield Sighting(item.index, item.time, Transport.TCP, *ends, bytes(buffer), None, error)
                buffer.clear()
                break
            yield _seen(item.index, item.time, Transport.TCP, ends, bytes(buffer[:length]))
            del buffer[:length]


def _sctp(path: Path, port: int) -> Iterator[Sighting]:
    for item in sctp_data(path):
        ports = (item.source_port, item.destination_port)
        if port in ports or item.payload_protocol_identifier == PAYLOAD_PROTOCOL_IDENTIFIER:
            ends = ((item.source, item.source_port), (item.destination, item.destination_port))
            yield _seen(item.index, item.time, Transport.SCTP, ends, item.payload)


def _icmp(path: Path) -> Iterator[Sighting]:
    for item in icmp_messages(path):
        if item.type not in (ICMP_TYPE_IPV4, ICMP_TYPE_IPV6):
            continue
        ends = ((item.source, 0), (item.destination, 0))
        try:
            octets = parse_icmp(item.octets, (item.source, item.destination)).message
        except RemoteError as error:
            yield Sighting(item.index, item.time, Transport.ICMP, *ends, item.octets, None, str(error))
        else:
            yield _seen(item.index, item.time, Transport.ICMP, ends, octets)


# --- as JSON ----------------------------------------------------------------------------------------------------


def plain_sighting(
    sighting: Sighting, *, show_keys: bool = False, context_types: ContextTypes = ContextTypes()
) -> dict[str, Any]:
    """A sighting as JSON-ready data; ``message`` is null and ``error`` set for what is no message."""
    message = sighting.message
    shown = None if message is None else plain_message(message, show_keys=show_keys, context_types=context_types)
    return {
        "packet": sighting.packet,
        "time": sighting.time,
        "transport": sighting.transport.value,
        "source": _end(sighting.source),
        "destination": _end(sighting.destination),
        "octets": len(sighting.octets),
        "message": shown,
        "error": sighting.error or None,
    }


def _end(end: tuple[IPAddress, int]) -> str:
    address, port = end
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def plain_message(
    message: Message, *, show_keys: bool = False, context_types: ContextTypes = ContextTypes()
) -> dict[str, Any]:
    """A message's fields under the RFC's names, its contexts decoded."""
    plain: dict[str, Any] = {
        "type": message.short_name,
        "section": message.section,
        "mn_previous_address": str(message.mn_previous_address),
    }
    if isinstance(message, ContextTransferActivateRequest):
        plain["access_router_address"] = str(message.access_router_address)
    if isinstance(message, (ContextTransferActivateRequest, ContextTransferRequest)):
        plain["sequence_number"] = message.sequence_number
        plain["authorization_token"] = message.authorization_token.hex()
        plain["requested"] = [_type_name(item.feature_profile_type, context_types) for item in message.requested]
    if isinstance(message, (ContextTransferActivateRequest, ContextTransferData)):
        plain["acknowledge"] = message.acknowledge
    if isinstance(message, PredictiveContextTransferData):
        plain["algorithm"] = message.algorithm
        plain["key"] = message.key.hex() if show_keys else {"hidden": True, "octets": len(message.key)}
    if isinstance(message, ContextTransferData):
        plain["elapsed_time"] = message.elapsed_time
        plain["contexts"] = _plain_contexts(message, show_keys, context_types)
    if isinstance(message, ContextTransferDataReply):
        plain["success"] = message.success
    statuses = getattr(message, "statuses", None)
    if statuses is not None:
        plain["statuses"] = [_plain_status(status, context_types) for status in statuses]
    plain["unusual"] = list(unusual(message))
    return plain


def _type_name(number: int, types: ContextTypes) -> str:
    names = {
        types.ike_sa: "IKE_SA",
        types.ipsec_sa: "IPsec_SA",
        types.transfer_manifest: "transfer manifest",
        types.continuation: "continuation",
        FeatureProfileType.IPV6_MULTICAST_LISTENER: "IPv6 multicast listener",
    }
    return names.get(number, f"{number:#06x}")


def _plain_status(status: ContextStatus, types: ContextTypes) -> dict[str, Any]:
    known = status.status in StatusCode._value2member_map_
    is_receipt = status.feature_profile_type == types.transfer_manifest
    name = StatusCode(status.status).name if known and not is_receipt else None
    return {"context_type": _type_name(status.feature_profile_type, types), "status": status.status, "name": name}


def _contexts(message: ContextTransferData, types: ContextTypes) -> Iterator[EncodedContext | RemoteError]:
    try:
        yield from from_blocks(message.blocks, types)
    except RemoteError as error:
        yield error


def _plain_contexts(message: ContextTransferData, show_keys: bool, types: ContextTypes) -> list[dict[str, Any]]:
    return [_plain_context(item, show_keys, types) for item in _contexts(message, types)]


def _plain_context(item: EncodedContext | RemoteError, show_keys: bool, types: ContextTypes) -> dict[str, Any]:
    if isinstance(item, RemoteError):
        return {"error": str(item)}
    head = {"context_type": _type_name(item.feature_profile_type, types), "octets": len(item.data)}
    try:
        if item.feature_profile_type == types.transfer_manifest:
            manifest = TransferManifest.decode(item)
            return {**head, **vars(manifest), "digest": manifest.digest.hex()}
        return {**head, **to_plain(decode(item, types), show_keys=show_keys)}
    except RemoteError as error:
        return {**head, "error": str(error)}


# --- as text ----------------------------------------------------------------------------------------------------


def text_sighting(sighting: Sighting, *, show_keys: bool = False, context_types: ContextTypes = ContextTypes()) -> str:
    """A sighting for people: one line, and one more for each field and context, indented."""
    head = (
        f"#{sighting.packet} {sighting.time:.6f} {_end(sighting.source)} -> {_end(sighting.destination)} "
        f"{sighting.transport.name}"
    )
    if sighting.message is None:
        return f"{head}  not a CXTP message: {sighting.error}"
    plain = plain_message(sighting.message, show_keys=show_keys, context_types=context_types)
    lines = [f"{head}  {plain['type']}  MN {plain['mn_previous_address']}  ({len(sighting.octets)} octets)"]
    for name, value in plain.items():
        if name in ("type", "section", "mn_previous_address", "contexts") or value in ([], None):
            continue
        lines.append(f"    {name.replace('_', ' ')}: {_text(value)}")
    if isinstance(sighting.message, ContextTransferData):
        for item in _contexts(sighting.message, context_types):
            lines += _context_lines(item, show_keys, context_types)
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        if value.get("hidden"):
            return f"({value['octets']} octets, hidden)"
        return " ".join(f"{k.replace('_', ' ')} {_text(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    return str(value)


def _context_lines(item: EncodedContext | RemoteError, show_keys: bool, types: ContextTypes) -> Iterator[str]:
    plain = _plain_context(item, show_keys, types)
    if "error" in plain or isinstance(item, RemoteError):
        yield f"    context {plain.get('context_type', '')}: {plain['error']}"
        return
    yield f"    context {plain['context_type']} ({plain['octets']} octets)"
    if item.feature_profile_type == types.transfer_manifest:
        rows = [(k.replace("_", " "), str(v)) for k, v in plain.items() if k not in ("context_type", "octets")]
    else:
        context = decode(item, types)
        shown = show_keys and not isinstance(context, GenericContext)
        rows = [(k, _text(v)) for k, v in plain.items() if k not in ("context_type", "octets")] if shown else []
        rows = rows or describe(context)
    for label, value in rows:
        yield f"        {label}: {value}"
