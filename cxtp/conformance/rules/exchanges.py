"""Rules of how an exchange begins, whom contexts go to, and how it ends: RFC 4067, 2, 2.1, 2.5.3, 2.5.4, 5.1, 6.1."""

from __future__ import annotations

from collections.abc import Iterator

from ...manifest import split_receipt
from ...messages import (
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    PredictiveContextTransferData,
)
from ..bounded import Bounded
from ..contents import contexts_of, is_replica
from ..records import Record
from ..story import QUIET_SECONDS, Case, Story, between, carries_contexts
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
from .flows import CROSSING_SECONDS, judged, unanswered
from .formats import manifest_of
from .table import MAY, MUST, SHOULD, Table, expect
from .timers import same_message
from .tokens import is_right, keys_of

RULES = Table(Group.FLOWS)

FLOOD_ANSWER_SECONDS = 1.0
"""So long another router waits for its answer, in a flood (ours)."""

_BEGINNINGS = (ContextTransferActivateRequest, ContextTransferRequest, ContextTransferData)


@RULES.rule(
    "2-started",
    "2",
    MUST,
    "all",
    "an exchange begins with a CTAR, a CT-Req or contexts: nobody answers what was not said",
    rows=("2-a",),
)
def started(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.message is None:
        return
    known = case.remember("2-started", Bounded)
    before, known[story.key] = story.key in known, True
    if story.records:
        return
    if isinstance(item.message, _BEGINNINGS):
        yield HOLDS
    elif before or not (case.live or item.time - (case.begin or 0.0) > QUIET_SECONDS):
        yield Doubt((item.number,), f"a {item.message.short_name} whose beginning is not in the capture")
    else:
        yield Fault((item.number,), "a CTAR, a CT-Req or contexts first", f"a {item.message.short_name}")


def _is_first_copy(item: Record, story: Story, seconds: float) -> bool:
    """Whether no contexts went to the same router shortly before."""
    return not any(
        between(other, item) and message.blocks and item.time - other.time <= seconds
        for other, message in story.back(ContextTransferData)
    )


@RULES.rule(
    "2.1-scenarios",
    "2.1",
    MUST,
    "pAR",
    "contexts go to the router that the mobile node's CTAR named (2.1.1), or that asked for them (2.1.2)",
    rows=("2.1-a", "2.1.1-a"),
)
def destination(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item) or is_replica(item, case):
        return
    if not _is_first_copy(item, story, case.timers.max_handover_time):
        return
    sender, keys = item.source[0], keys_of(story, case)
    wanted: dict[object, Record] = {}
    for other in reversed(story.records):
        what = other.message
        if item.time - other.time > case.timers.max_handover_time:
            break
        if isinstance(what, ContextTransferDataReply) and other.destination[0] == sender and what.success:
            break
        if isinstance(what, ContextTransferRequest) and other.destination[0] == sender:
            wanted.setdefault(other.source[0], other)
        elif isinstance(what, ContextTransferActivateRequest) and (not keys or is_right(what, keys)):
            if other.destination[0] == sender:
                wanted.setdefault(what.access_router_address, other)
            elif what.access_router_address == sender:
                wanted.setdefault(other.destination[0], other)
    if wanted:
        good = item.destination[0] in wanted
        expected = "contexts for " + " or ".join(sorted(map(str, wanted)))
        yield expect(good, item, expected, f"contexts for {item.destination[0]}", *wanted.values())


@RULES.rule(
    "2.5.1-requested-types",
    "2.5.1",
    SHOULD,
    "pAR",
    "where context types are listed, contexts of these types are sent and no others",
    rows=("2.5.1-f",),
)
def requested_types(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item) or is_replica(item, case):
        return
    for other, request in story.back(ContextTransferRequest, ContextTransferActivateRequest):
        if item.time - other.time > case.timers.max_handover_time or other.destination[0] != item.source[0]:
            continue
        if request.requested:
            types = case.context_types
            asked = {r.feature_profile_type for r in request.requested}
            sent = {c.feature_profile_type for c in contexts_of(item, case)} - {types.transfer_manifest}
            seen = ", ".join(f"{t:#06x}" for t in sorted(sent - asked))
            yield expect(sent <= asked, item, "contexts of the listed types", f"{seen} as well", other)
        return


@RULES.rule(
    "2.5.3-resent",
    "2.5.3",
    MAY,
    "pAR, nAR",
    "nAR may ask for lost contexts by the CTAR's sequence number: pAR then sends those again, not others",
    rows=("2.5.3-c", "2.5.6-b"),
)
def resent(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item):
        return
    numbers = {
        m.sequence_number
        for r, m in story.of(ContextTransferActivateRequest)
        if r.destination[0] == item.source[0] and item.time - r.time <= case.timers.max_handover_time
    }
    request: Record | None = None
    for other in reversed(story.records):
        what = other.message
        if isinstance(what, ContextTransferDataReply) and between(other, item, back=True):
            return  # the first time did not fail
        if isinstance(what, ContextTransferRequest) and between(other, item, back=True):
            request = other if what.sequence_number in numbers else None
        elif isinstance(what, PredictiveContextTransferData) and between(other, item) and what.blocks:
            if is_replica(other, case) or is_replica(item, case):
                continue
            if request is not None:
                one, two = (contexts_of(r, case) for r in (other, item))
                kind = case.context_types.transfer_manifest
                same = [c for c in one if c.feature_profile_type != kind] == [
                    c for c in two if c.feature_profile_type != kind
                ]
                yield expect(same, item, f"the contexts of packet {other.number} again", "others", other, request)
            return


def _answers(reply: Record, data: Record, case: Case) -> bool:
    """Whether a CTDR ends what this data began: the receipt says so; without one, S = 1 or a failure of each type."""
    message, mine = reply.message, manifest_of(data, case)
    if not isinstance(message, ContextTransferDataReply) or not between(reply, data, back=True):
        return False
    named, statuses = split_receipt(message.statuses, case.context_types)
    if named is not None:
        return mine is None or named == mine.transfer_id
    failed = {status.feature_profile_type for status in statuses if status.status}
    sent = {block.feature_profile_type for block in getattr(data.message, "blocks", ())}
    return message.success or sent - {case.context_types.continuation} <= failed


@RULES.rule(
    "2.5.4-ends",
    "2.5.4",
    MUST,
    "pAR",
    "data that a CTDR has answered, with our receipt or without, is not repeated unless it is asked for again",
    rows=("2.5.4-d", "6.3-g"),
    moment=Moment.STORY,
)
def reply_ends(story: Story, case: Case) -> Iterator[Outcome]:
    answered: list[tuple[Record, Record]] = []
    sent: list[Record] = []
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferData) and message.blocks and not item.ours:
            again = [(d, r) for d, r in answered if between(d, item) and d.message and same_message(d.message, message)]
            # After a refusal the same contexts may be sent anew, as a transfer of their own: from 0 ms on.
            for data, reply in again:
                success = isinstance(reply.message, ContextTransferDataReply) and reply.message.success
                if item.time - reply.time > CROSSING_SECONDS and (success or message.elapsed_time):
                    packets = (data.number, reply.number, item.number)
                    yield Fault(packets, "no repetition, since a CTDR came", "one more")
            sent = [item, *sent[:31]]
        elif isinstance(message, ContextTransferDataReply):
            answered += [(data, item) for data in sent if _answers(item, data, case)]
            sent = [data for data in sent if not _answers(item, data, case)]
        elif isinstance(message, (ContextTransferRequest, ContextTransferActivateRequest)):
            yield from _quiet(answered, item.time)
            answered, sent = [], []
    yield from _quiet(answered, case.end)


def _quiet(answered: list[tuple[Record, Record]], until: float) -> Iterator[Outcome]:
    for _, reply in answered:
        if until - reply.time > CROSSING_SECONDS:
            yield HOLDS
        else:
            yield Doubt((reply.number,), "nothing follows the CTDR for long enough")


@RULES.rule(
    "5.1-predictive",
    "5.1",
    MUST,
    "nAR",
    "contexts that were sent ahead and taken are not asked for when the mobile node's CTAR comes",
    rows=("5.1-a", "5-a", "2-c"),
    moment=Moment.STORY,
)
def predictive(story: Story, case: Case) -> Iterator[Outcome]:
    ahead: tuple[Record, PredictiveContextTransferData] | None = None
    taken = False
    ctar: Record | None = None
    for item in story.records:
        message = item.message
        if ahead is not None and isinstance(message, ContextTransferData) and item.source == ahead[0].destination:
            if ctar is not None and judged(ctar, case):
                yield HOLDS
            ahead = ctar = None  # it has moved on
        if isinstance(message, PredictiveContextTransferData) and message.blocks and message.key:
            if ahead is None or not between(ahead[0], item):
                ahead, taken, ctar = (item, message), False, None
        elif ahead is None:
            continue
        elif isinstance(message, ContextTransferDataReply) and between(item, ahead[0], back=True):
            taken = message.success
        elif isinstance(message, ContextTransferActivateRequest) and item.destination[0] == ahead[0].destination[0]:
            in_time = item.time - ahead[0].time <= case.timers.max_handover_time
            if taken and in_time and is_right(message, [ahead[1].key]):
                ctar = ctar or item
        elif isinstance(message, ContextTransferRequest) and ctar is not None and item.source == ahead[0].destination:
            yield Fault((ahead[0].number, ctar.number, item.number), "no CT-Req, since the contexts are here", "one")
            ahead = ctar = None
    if ctar is not None:
        if case.end - ctar.time > CROSSING_SECONDS:
            yield HOLDS
        else:
            yield Doubt((ctar.number,), "the capture ends with the CTAR")


@RULES.rule(
    "6.1-flood",
    "6.1",
    SHOULD,
    "pAR, nAR",
    "a flood of CTARs does not keep a router from answering the other routers",
    rows=("6.1-b",),
    moment=Moment.STORY,
)
def flood(story: Story, case: Case) -> Iterator[Outcome]:
    for item in story.records:
        message = item.message
        asks = isinstance(message, ContextTransferRequest) or (
            isinstance(message, ContextTransferData) and message.acknowledge
        )
        if not asks or not judged(item, case):
            continue
        flooded = case.floods.before(item.destination[0], item.time)
        if flooded is None:
            continue
        answers = (ContextTransferDataReply, ContextTransferData, ContextTransferCancel)
        if any(between(r, item, back=True) and r.time >= item.time for r, _ in story.of(*answers)):
            yield HOLDS
        elif not isinstance(message, ContextTransferRequest):  # one with a wrong token need not be answered
            yield unanswered(item, FLOOD_ANSWER_SECONDS, case, f"a CTDR, flood (#{flooded.number}) or not")
