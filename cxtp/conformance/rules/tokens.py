"""Rules of tokens and their keys: RFC 4067, 2.5.1, 2.5.6 and 6.3.  Most need a key: from a PCTD, or given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ...errors import RemoteError
from ...messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    PredictiveContextTransferData,
)
from ...token import verify_token
from ..bounded import Bounded
from ..contents import is_replica
from ..records import Record
from ..story import Case, Story, between
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
from .table import MUST, Table, expect

RULES = Table(Group.TOKENS)

Request = ContextTransferActivateRequest | ContextTransferRequest


def keys_of(story: Story, case: Case) -> list[bytes]:
    """All keys that the judge knows of: given, or from the story's PCTDs (a replica's is nobody's)."""
    told = {m.key: None for r, m in story.of(PredictiveContextTransferData) if m.key and not is_replica(r, case)}
    return [*case.keys, *told]


def is_right(request: Request, keys: list[bytes]) -> bool:
    """Whether one of these keys made the token."""
    for key in keys:
        try:
            verify_token(key, request)
        except RemoteError:
            continue
        return True
    return False


@RULES.rule(
    "2.5.1-token",
    "2.5.1",
    MUST,
    "MN",
    "a CTAR's token is the first 32 bits of HMAC_SHA1 (Key, (Previous IP address, Sequence Number, CDBs))",
    rows=("2.5.1-g", "2.5.1-e"),
    moment=Moment.STORY,
)
def activate_token(story: Story, case: Case) -> Iterator[Outcome]:
    keys = keys_of(story, case)
    if not keys:
        return
    seen: set[Request] = set()
    for item, request in story.of(ContextTransferActivateRequest):
        if request in seen or item.ours or not any(request.authorization_token):
            continue  # null ones are 2.5.1-null-token's
        seen.add(request)
        right = is_right(request, keys)
        yield expect(right, item, f"the token of one of {len(keys)} known keys", "another token")


@RULES.rule(
    "2.5.6-token",
    "2.5.6",
    MUST,
    "nAR",
    "a CT-Req's token is a right one, or null",
    rows=("2.5.6-a", "2.5.6-d"),
    moment=Moment.STORY,
)
def request_token(story: Story, case: Case) -> Iterator[Outcome]:
    keys = keys_of(story, case)
    if not keys:
        return
    ctars = {m.authorization_token for _, m in story.of(ContextTransferActivateRequest)}
    for item, request in story.of(ContextTransferRequest):
        if item.ours or request.authorization_token in ctars or not any(request.authorization_token):
            continue  # taken verbatim: the mobile node's own matter
        yield expect(is_right(request, keys), item, "the token of a known key", "another token")


@RULES.rule(
    "6.3-validated",
    "6.3",
    MUST,
    "pAR",
    "the token is checked before contexts are sent: a wrong one gets none",
    rows=("6.3-a", "6.1-a"),
    moment=Moment.STORY,
)
def validated_before_transfer(story: Story, case: Case) -> Iterator[Outcome]:
    keys = keys_of(story, case)
    if not keys:
        return
    asked: dict[tuple[object, object], tuple[Record, bool]] = {}
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferRequest):
            right = not any(message.authorization_token) or is_right(message, keys)
            key = (item.source[0], item.destination[0])
            before = asked.get(key)
            asked[key] = (item, right or (before is not None and before[1]))
        elif isinstance(message, ContextTransferData) and not isinstance(message, PredictiveContextTransferData):
            before = asked.pop((item.destination[0], item.source[0]), None)
            if before is None or item.ours:
                continue
            if before[1]:
                yield HOLDS
            elif message.blocks:
                yield Fault((before[0].number, item.number), "no contexts for a wrong token", "a CTD with contexts")
            else:
                yield HOLDS
    for item, right in asked.values():
        if not right and (item.ours or not case.live):
            yield HOLDS  # never answered


@RULES.rule(
    "6.3-activated",
    "6.3",
    MUST,
    "nAR",
    "a CTAR with a wrong token activates nothing",
    rows=("6.3-a", "2-c", "2.1.1-b"),
    moment=Moment.STORY,
)
def validated_before_activation(story: Story, case: Case) -> Iterator[Outcome]:
    """Shown by a predictive transfer: the CTAA to a wrong token says so, and nothing is asked for with it."""
    keys = keys_of(story, case)
    if not keys:
        return
    tokens: dict[int, tuple[Record, bool, bool]] = {}
    ahead: dict[object, Record] = {}
    for item in story.records:
        message, sender, receiver = item.message, item.source[0], item.destination[0]
        if isinstance(message, ContextTransferData) and message.blocks:
            ahead.pop(sender, None)  # it has moved on
            if isinstance(message, PredictiveContextTransferData) and not is_replica(item, case):
                ahead[receiver] = item
        elif isinstance(message, ContextTransferActivateRequest):
            waits = receiver in ahead and item.time - ahead[receiver].time <= case.timers.max_handover_time
            tokens[message.sequence_number] = (item, is_right(message, keys), waits)
        elif isinstance(message, ContextTransferRequest) and message.sequence_number in tokens and not item.ours:
            ctar, right, waits = tokens[message.sequence_number]
            if sender == ctar.destination[0] and waits and not right:
                yield Fault((ctar.number, item.number), "nothing for a wrong token", "a CT-Req that asks with it")
        elif isinstance(message, ContextTransferActivateAcknowledge) and not item.ours:
            asked = {n: t for n, t in tokens.items() if between(item, t[0], back=True)}
            if asked and sender in ahead:
                yield _activation(item, [t[0] for t in asked.values()], any(t[1] for t in asked.values()))
            for number in asked:  # what comes later answers others
                del tokens[number]


def _activation(item: Record, ctars: list[Record], right: bool) -> Outcome:
    refused = isinstance(item.message, ContextTransferActivateAcknowledge) and any(
        status.status for status in item.message.statuses
    )
    if refused or right:
        return HOLDS
    return Fault((ctars[0].number, item.number), "a refusal of a wrong token", "a CTAA without a failure")


@RULES.rule(
    "6.3-key-reuse",
    "6.3",
    MUST,
    "pAR",
    "a key is not used again, for this or any mobile node",
    rows=("6.3-f", "6.3-b", "6.3-c", "6.3-g"),
)
def key_reuse(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if not isinstance(message, PredictiveContextTransferData) or not message.key:
        return
    used = case.remember("6.3-key-reuse", Bounded)
    digest = hashlib.sha256(message.key).digest()
    before: Record | None = used.get(digest)
    if before is None:
        if used:  # the first key can't be one used before
            yield HOLDS
        used[digest] = item
    elif before.mn != item.mn:
        yield Fault((before.number, item.number), "a key of its own", f"the key of {before.mn}")
    else:
        proved = any(is_right(m, [message.key]) for _, m in story.of(ContextTransferActivateRequest))
        long_ago = item.time - case.timers.max_transfer_time
        replies = [(r, m) for r, m in story.of(ContextTransferDataReply) if m.success and between(r, item, back=True)]
        confirmed = [r for r, _ in replies if proved and r.time < long_ago]
        if confirmed:
            expected = "a new key, since a transfer proved with it is done"
            yield expect(False, item, expected, "the same", before, confirmed[0])


@RULES.rule(
    "2.5.6-empty-refusal",
    "docs/decisions.md, 21",
    MUST,
    "pAR",
    "a refusal is a CTD without blocks and without A",
    rows=("2.5.6-b",),
)
def refusal(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if isinstance(message, ContextTransferData) and not message.blocks:
        if isinstance(message, PredictiveContextTransferData):
            yield Fault((item.number,), "a CTD", "a PCTD without contexts")
        elif any(between(r, item, back=True) for r, _ in story.of(ContextTransferRequest)):
            yield expect(not message.acknowledge, item, "A = 0", "A = 1")
        else:
            yield Doubt((item.number,), "a CTD without blocks, and no CT-Req in the capture that it refuses")
