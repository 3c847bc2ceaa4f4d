"""Rules of each message by itself: RFC 4067, 2.2 to 2.5, and 4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contexts.base import GenericContext

from ...constants import (
    NULL_TOKEN,
    VERSION,
    FeatureProfileType,
    MessageType,
    StatusCode,
    TokenAlgorithm,
)
from ...errors import MalformedMessage, RemoteError
from ...messages import (
    MESSAGE_CLASSES,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    PredictiveContextTransferData,
)
from ..contents import contexts_of, decoded
from ..records import Record
from ..story import Case, Story
from ..verdicts import HOLDS, Fault, Group, Outcome
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.MESSAGES)

_FRAME_OCTETS = 8


def _fault_in(item: Record, *beginnings: str) -> MalformedMessage | None:
    """Why a record is no message, where that is in one of these fields."""
    error = item.error
    if isinstance(error, MalformedMessage) and error.field.startswith(beginnings):
        return error
    return None


@RULES.rule("2.2-version", "2.2", MUST, "all", "the version number is 1", rows=("2.2-b", "2.2-d"))
def version(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.octets:
        seen = item.octets[0] >> 5
        yield expect(seen == VERSION, item, f"version {VERSION}", f"version {seen}")


@RULES.rule("2.5-type", "2.5", MUST, "all", "the message type is one of 1 to 7", rows=("2.5-f",))
def message_type(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.octets and item.octets[0] >> 5 == VERSION:
        seen = item.octets[0] & 31
        yield expect(seen in MessageType._value2member_map_, item, "a type from 1 to 7", f"type {seen}")


@RULES.rule("2.5-length", "2.5", MUST, "all", "Length is the message's octets, header and all", rows=("2.5-d",))
def length(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if len(item.octets) < 4:
        yield Fault((item.number,), "a header of 4 octets", f"{len(item.octets)} octets")
    elif item.message is not None or not _fault_in(item, "version", "type"):
        seen = int.from_bytes(item.octets[2:4], "big")
        yield expect(
            seen == len(item.octets), item, f"Length {len(item.octets)}, as many octets came", f"Length {seen}"
        )


@RULES.rule("2.5-family", "2.5", MUST, "all", "V is 1 where addresses are IPv4, 0 where they are IPv6", rows=("2.5-c",))
def family(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if message is None:
        return
    address = message.mn_previous_address
    mapped = getattr(address, "ipv4_mapped", None)
    yield expect(mapped is None, item, "V = 1 and 4 octets for an IPv4 address", f"V = 0 and {address}")


def _layout(item: Record, kind: MessageType) -> Iterator[Outcome]:
    if not item.octets or item.octets[0] != VERSION << 5 | kind:
        return
    if item.message is not None:
        yield HOLDS
        return
    error = item.error
    if not isinstance(error, MalformedMessage) or _fault_in(item, "version", "type"):
        return
    if error.field == "length" and "too many" not in error.reason:
        return  # 2.5-length's
    if error.field.startswith(("blocks[", "requested[")):
        return  # 2.4's
    yield Fault((item.number,), f"a {MESSAGE_CLASSES[kind].short_name} as the box has it", str(error))


def _declare_layouts() -> None:
    layouts = (
        (MessageType.CONTEXT_TRANSFER_ACTIVATE_REQUEST, "2.5.1-layout", "MN", "2.5.1-c"),
        (MessageType.CONTEXT_TRANSFER_ACTIVATE_ACKNOWLEDGE, "2.5.2-layout", "pAR, nAR", "2.5.2-c"),
        (MessageType.CONTEXT_TRANSFER_DATA, "2.5.3-layout", "pAR", "2.5.3-d"),
        (MessageType.PREDICTIVE_CONTEXT_TRANSFER_DATA, "2.5.3-predictive-layout", "pAR", "2.5.3-d"),
        (MessageType.CONTEXT_TRANSFER_DATA_REPLY, "2.5.4-layout", "nAR", "2.5.4-e"),
        (MessageType.CONTEXT_TRANSFER_CANCEL, "2.5.5-layout", "nAR", "2.5.5-c"),
        (MessageType.CONTEXT_TRANSFER_REQUEST, "2.5.6-layout", "nAR", "2.5.6-f"),
    )
    for kind, rule_id, roles, row in layouts:
        name = MESSAGE_CLASSES[kind].short_name

        def check(item: Record, story: Story, case: Case, kind: MessageType = kind) -> Iterator[Outcome]:
            yield from _layout(item, kind)

        section = rule_id.partition("-")[0]
        RULES.rule(
            rule_id,
            section,
            MUST,
            roles,
            f"a {name} has the fields of its box, whole and no others",
            rows=(row, "2.5-a"),
        )(check)


_declare_layouts()


@RULES.rule("2.5-reserved", "2.5", MUST, "all", "reserved bits of the header are sent as zero", rows=("2.5-e",))
def reserved(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.message is not None:
        yield expect(not item.message.reserved, item, "reserved bits 0", f"{item.message.reserved:#x}")


@RULES.rule(
    "2.5.4-reserved",
    "2.5.4",
    MUST,
    "pAR, nAR",
    "the reserved octet of a status record is sent as zero",
    rows=("2.5.2-c", "2.5.4-e"),
)
def record_reserved(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for status in _statuses(item):
        yield expect(not status.reserved, item, "reserved octet 0", f"{status.reserved:#04x}")


def _statuses(item: Record) -> tuple[ContextStatus, ...]:
    if isinstance(item.message, (ContextTransferActivateAcknowledge, ContextTransferDataReply)):
        return item.message.statuses
    return ()


# --- Context Data Blocks ----------------------------------------------------------------------------------------


@RULES.rule(
    "2.4-length",
    "2.4",
    MUST,
    "pAR",
    "a block's Length counts its 8-octet words, its first 4 octets included, within the message",
    rows=("2.4-a", "2.4-b"),
)
def block_length(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    error = _fault_in(item, "blocks[")
    if error is not None:
        yield Fault((item.number,), "blocks that fill the message", str(error))
    elif isinstance(item.message, ContextTransferData) and item.message.blocks:
        yield HOLDS


@RULES.rule("2.4-reserved", "2.4", MUST, "pAR", "a block's reserved bits are sent as zero", rows=("2.4-d",))
def block_reserved(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferData):
        for block in item.message.blocks:
            yield expect(not block.reserved, item, "reserved bits 0", f"{block.reserved:#x}")


@RULES.rule(
    "2.4-request",
    "2.4",
    MUST,
    "MN, nAR",
    "a requested block is the first 4 octets of one (Length 0, or 1 and zero padding), no data",
    rows=("2.4-e",),
)
def requested_block(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    error = _fault_in(item, "requested[")
    if error is not None:
        yield Fault((item.number,), "Length 0 and 4 octets", str(error))
    elif isinstance(item.message, (ContextTransferActivateRequest, ContextTransferRequest)) and item.message.requested:
        yield HOLDS


@RULES.rule(
    "2.3-reserved-type",
    "RFC 4065, 6",
    MUST,
    "all",
    "Feature Profile Type 0 is reserved: no context has it",
    rows=("2.3-a",),
)
def reserved_type(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    items: tuple[Any, ...] = ()
    if isinstance(message, ContextTransferData):
        items = message.blocks
    elif isinstance(message, (ContextTransferActivateRequest, ContextTransferRequest)):
        items = message.requested
    for one in items:
        kind = one.feature_profile_type
        yield expect(kind != FeatureProfileType.RESERVED, item, "a type above 0", f"{kind:#06x}")


def _framed(item: Record, case: Case) -> Iterator[tuple[bytes, int]]:
    """Contexts that tell their own length: their octets, and how many they say to have."""
    if not isinstance(item.message, ContextTransferData):
        return
    for context in contexts_of(item, case):
        if context.feature_profile_type in (case.context_types.ike_sa, case.context_types.ipsec_sa):
            told = int.from_bytes(context.data[4:8], "big")
            if len(context.data) >= _FRAME_OCTETS and _FRAME_OCTETS <= told <= len(context.data):
                yield context.data, told
        elif context.feature_profile_type == FeatureProfileType.IPV6_MULTICAST_LISTENER and len(context.data) > 24:
            yield context.data, 24


@RULES.rule("2.4-padding", "2.4", MUST, "pAR", "data that is not 64-bit aligned is padded with zeros", rows=("2.4-c",))
def padding(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for data, told in _framed(item, case):
        if len(data) > told:
            rest = data[told:]
            yield expect(not any(rest), item, "padding of zeros", f"{sum(map(bool, rest))} octets of it are not zero")


@RULES.rule(
    "2.4-presence",
    "2.4",
    MUST,
    "pAR",
    "the presence vector has one bit per data field, in their order",
    rows=("2.4-f",),
)
def presence(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferData):
        return
    for context, what in decoded(item, case):
        if isinstance(what, RemoteError):
            if "presence vector" in str(what) and context.presence_vector is not None:  # else formats-own-types
                yield Fault((item.number,), "a presence vector that names the fields that are there", str(what))
        elif not isinstance(what, GenericContext) and context.presence_vector is not None:
            yield HOLDS


# --- values -----------------------------------------------------------------------------------------------------


@RULES.rule(
    "2.5.1-other-router",
    "2.5.1",
    MUST,
    "MN",
    "a CTAR to pAR names nAR, one to nAR names pAR: never the router that it is sent to",
    rows=("2.5.1-b",),
)
def other_router(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateRequest):
        named = item.message.access_router_address
        yield expect(named != item.destination[0], item, "the other router's address", f"{named}, the receiver's own")


@RULES.rule("2.5.3-algorithm", "2.5.3", MUST, "pAR", "the token's algorithm is 1, HMAC_SHA1", rows=("2.5.3-g",))
def algorithm(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, PredictiveContextTransferData):
        seen = item.message.algorithm
        yield expect(seen == TokenAlgorithm.HMAC_SHA1, item, "algorithm 1", f"algorithm {seen}")


@RULES.rule(
    "2.5.3-key", "2.5.3", MUST, "pAR", "a PCTD has the key that the token is checked with", rows=("2.5.3-h", "2.1.1-a")
)
def key(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, PredictiveContextTransferData) and item.message.blocks:
        yield expect(bool(item.message.key), item, "a key", "Key Length 0")


@RULES.rule(
    "2.5.2-failures",
    "2.5.2",
    MUST,
    "pAR, nAR",
    "a CTAA lists what was not successfully transferred: no status in it is zero",
    rows=("2.5.2-b",),
)
def failures(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateAcknowledge):
        for status in item.message.statuses:
            yield expect(status.status != 0, item, "a status above 0", f"0 for {status.feature_profile_type:#06x}")


def told(message: ContextTransferDataReply, case: Case) -> list[ContextStatus]:
    """A CTDR's statuses without the receipt (docs/decisions.md, 15)."""
    return [s for s in message.statuses if s.feature_profile_type != case.context_types.transfer_manifest]


@RULES.rule(
    "2.5.4-failure", "2.5.4", MUST, "nAR", "where S is 0, a status says what failed", rows=("2.5.4-c", "2.5.4-b")
)
def failure(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferDataReply) and not item.message.success:
        statuses = told(item.message, case)
        if statuses:
            yield expect(any(s.status for s in statuses), item, "a status above 0", "S = 0 and every status 0")


@RULES.rule(
    "2.5.4-success",
    "2.5.4",
    SHOULD,
    "nAR",
    "where S is 1, each status is zero, or says that the type is unknown here",
    rows=("2.5.4-c",),
)
def success(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferDataReply) and item.message.success:
        known = (StatusCode.SUCCESS, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE)
        nonzero = [s for s in told(item.message, case) if s.status not in known]
        seen = ", ".join(f"{s.status:#04x} for {s.feature_profile_type:#06x}" for s in nonzero)
        yield expect(not nonzero, item, "statuses of 0 beside S = 1", seen)


@RULES.rule(
    "4-status",
    "4",
    SHOULD,
    "pAR, nAR",
    "status codes are known: BAD_CHECKSUM (0x01), or of our list (docs/decisions.md, 13)",
    rows=("4-a", "2.3-b"),
)
def status_codes(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for status in _statuses(item):
        if status.feature_profile_type != case.context_types.transfer_manifest:
            known = status.status in StatusCode._value2member_map_
            yield expect(known, item, f"a status from 0x00 to {max(StatusCode):#04x}", f"{status.status:#04x}")


@RULES.rule(
    "2.5.1-null-token",
    "docs/decisions.md, 20",
    MUST,
    "MN",
    "a CTAR's token is not null: that is what a CT-Req without one carries",
    rows=("2.5.6-d",),
)
def null_token(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateRequest):
        yield expect(item.message.authorization_token != NULL_TOKEN, item, "a token", "a null token")
