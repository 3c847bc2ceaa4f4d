"""Rules of whom routers trust and how they protect what they say: RFC 4067, 6.1 to 6.3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from ...errors import RemoteError
from ...messages import (
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    PredictiveContextTransferData,
)
from ..contents import decoded
from ..packets import PacketFacts
from ..records import Record
from ..story import Case, Story, carries_contexts
from ..verdicts import HOLDS, Fault, Group, Moment, Outcome
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.TOKENS)

_SHORTEST_SECRET = 8
"""Octets; a shorter one may be equal by chance (ours)."""


@RULES.rule(
    "6.1-strangers",
    "6.1",
    MUST,
    "pAR, nAR",
    "a router that is not known gets no contexts, and none of its contexts are taken (needs --router)",
    rows=("6.1-c",),
    moment=Moment.STORY,
)
def strangers(story: Story, case: Case) -> Iterator[Outcome]:
    if not case.routers:
        return
    asked: dict[tuple[object, object], Record] = {}
    for item in story.records:
        message = item.message
        asks = isinstance(message, (ContextTransferRequest, ContextTransferData, ContextTransferCancel))
        if asks and item.source[0] not in case.routers and (item.ours or not case.live):
            asked.setdefault((item.source[0], item.destination[0]), item)
        before = asked.get((item.destination[0], item.source[0]))
        given = isinstance(message, ContextTransferData) and message.blocks
        taken = isinstance(message, ContextTransferDataReply) and message.success
        if before is not None and (given or taken):
            seen = "contexts for it" if given else "its contexts taken"
            yield Fault((before.number, item.number), f"nothing for {before.source[0]}, which no router knows", seen)
            del asked[item.destination[0], item.source[0]]
    for _ in asked:
        yield HOLDS


@RULES.rule(
    "6.2-in-advance",
    "6.2",
    SHOULD,
    "pAR, nAR",
    "the routers' secure channel is there before a transfer begins: no IKE_SA_INIT delays it",
    rows=("6.2-b",),
)
def in_advance(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item):
        return
    path = frozenset((item.source[0], item.destination[0]))
    if path not in case.esp_paths:
        return
    begun = item
    for other, _ in story.back(ContextTransferRequest, ContextTransferActivateRequest, ContextTransferData):
        if item.time - other.time <= case.timers.max_handover_time:
            begun = other
    number, time = case.ike_paths.get(path, (0, begun.time))
    seen = f"IKE_SA_INIT (#{number}) {time - begun.time:.3f} s after the transfer began"
    yield expect(time <= begun.time, item, "ESP between the routers in advance", seen, begun)


@RULES.rule(
    "6.2-encrypted",
    "6.2",
    MUST,
    "pAR, nAR",
    "ESP between routers encrypts: no CXTP message is to be read in it",
    rows=("6.2-c",),
    moment=Moment.CAPTURE,
)
def encrypted(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    """Who the routers are is known from --router, or from a capture in a host, which has the clear as well."""
    for number in case.null_paths.values():
        yield Fault((number,), "ESP with encryption", "a CXTP message right behind its sequence number")
    for path in case.esp_paths:
        if path not in case.null_paths and (path in case.context_paths or path <= case.routers):
            yield HOLDS


@RULES.rule(
    "6.3-separate-key",
    "6.3",
    SHOULD,
    "MN, pAR",
    "the key that authorizes transfers is one of its own: none of the session's (pre-shared key, SK_*, KEYMAT)",
    rows=("6.3-d", "6.3-e"),
)
def separate_key(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferData):
        return
    keys = [*case.keys]
    if isinstance(item.message, PredictiveContextTransferData) and item.message.key:
        keys.append(item.message.key)
    if not keys:
        return
    secrets = {
        secret: name
        for _, context in decoded(item, case)
        if not isinstance(context, RemoteError)
        for name, secret in secrets_of(context)
    }
    if secrets:
        shared = [secrets[key] for key in keys if key in secrets]
        yield expect(not shared, item, "a key of its own", f"the session's {', '.join(shared)}")


def secrets_of(value: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """The octets in a context that its representation hides, with the names of their fields."""
    if is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if isinstance(inner, bytes):
                if not field.repr and len(inner) >= _SHORTEST_SECRET:
                    yield field.name, inner
            else:
                yield from secrets_of(inner, field.name)
    elif isinstance(value, tuple):
        for inner in value:
            yield from secrets_of(inner, name)
