"""Rules of what follows what: RFC 4067, 2, 2.5 and 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...manifest import split_receipt
from ...messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    PredictiveContextTransferData,
)
from ..records import Record
from ..story import Case, Story, between, carries_contexts
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
from .formats import manifest_of
from .messages import told
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.FLOWS)

Ends = tuple[IPAddress, IPAddress]
"""Source and destination."""

CROSSING_SECONDS = 0.1
"""Two messages this close may have crossed on the way (ours)."""

_SILENT_SECONDS = 1.0
"""An answer that nobody asked for would have come by then (ours), or within CT_MAX_TRANSFER_TIME."""

_CANCELLED_SECONDS = 1.0
"""Data so long after a CTC belongs to it; later ones to another transfer, started by pAR alone (ours)."""


def unanswered(item: Record, wait: float, case: Case, what: str) -> Outcome:
    """An answer that never came: a fault where the capture goes on long enough to show it."""
    if case.end - item.time > wait:
        return Fault((item.number,), what, f"none within the {wait:g} s that the capture goes on")
    return Doubt((item.number,), f"no answer, yet the capture ends {case.end - item.time:.3f} s later")


def judged(item: Record, case: Case) -> bool:
    """Whether the receiver of this record owes it something: the live prober's own silence is no fault, nor is that
    of a router to one that it does not know."""
    stranger = bool(case.routers) and item.source[0] not in case.routers
    return (item.ours or not case.live) and (not stranger or isinstance(item.message, ContextTransferActivateRequest))


@RULES.rule(
    "2.5-one-transfer",
    "2.5",
    MUST,
    "pAR",
    "one context transfer per mobile node is in progress at a time",
    rows=("2.5-b",),
)
def one_transfer(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    """Put to the test by a second transfer; the first one alone and its repetitions show nothing."""
    if not carries_contexts(item) or case.live:
        return  # a prober is one router, and sees what goes to it alone
    open_with: Record | None = None
    earlier = False
    for other in story.records:
        message = other.message
        if isinstance(message, ContextTransferData) and message.blocks:
            earlier = True
            if other.source[0] == item.source[0]:
                open_with = other
        elif isinstance(message, (ContextTransferDataReply, ContextTransferCancel)):
            ended = open_with is not None and between(other, open_with, back=True)
            open_with = None if ended else open_with
    if open_with is None or item.time - open_with.time > case.timers.max_transfer_time:
        if earlier:
            yield HOLDS
    elif open_with.destination[0] != item.destination[0]:
        seen = f"data to {item.destination[0]} while that to {open_with.destination[0]} is unanswered"
        yield expect(False, item, "one transfer at a time", seen, open_with)


@RULES.rule(
    "2.5.6-verbatim",
    "2.5.6",
    MUST,
    "nAR",
    "a CT-Req has the CTAR's sequence number, token and list verbatim",
    rows=("2.5.6-a", "2.1.2-a", "2-d"),
)
def verbatim(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    request = item.message
    if not isinstance(request, ContextTransferRequest) or not any(request.authorization_token):
        return
    ctars = [(r, m) for r, m in story.back(ContextTransferActivateRequest) if r.destination[0] == item.source[0]]
    if not ctars:
        return
    same = [(r, m) for r, m in ctars if m.sequence_number == request.sequence_number]
    if not same:
        yield expect(False, item, "the sequence number of a CTAR", f"{request.sequence_number:#010x}", ctars[0][0])
        return
    matching = [
        m for _, m in same if (m.authorization_token, m.requested) == (request.authorization_token, request.requested)
    ]
    yield expect(bool(matching), item, "the CTAR's token and list", "others", same[0][0])


@RULES.rule(
    "2.5.6-null-answer",
    "2.5.6",
    MUST,
    "pAR",
    "a null token is answered with the keying material: a PCTD",
    rows=("2.5.6-e", "2.5.3-h"),
)
def null_answer(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item):
        return
    requests = []
    for other, request in story.of(ContextTransferRequest):
        if between(other, item, back=True) and item.time - other.time <= case.timers.max_handover_time:
            requests.append((other, request))
    if requests and not any(any(request.authorization_token) for _, request in requests):
        predictive = isinstance(item.message, PredictiveContextTransferData)
        yield expect(predictive, item, "a PCTD with algorithm and key", "a CTD", requests[-1][0])


@RULES.rule(
    "2.5.6-answered",
    "2.1.2",
    MUST,
    "pAR",
    "a CT-Req with a null token is answered with data, or by a CTD without any",
    rows=("2.1.2-b", "5.2-a"),
    moment=Moment.STORY,
)
def request_answered(story: Story, case: Case) -> Iterator[Outcome]:
    yield from _requests_answered(story, case)


def _requests_answered(story: Story, case: Case) -> Iterator[Outcome]:
    first: dict[tuple[object, object, int], Record] = {}
    answered = set()
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferRequest) and not any(message.authorization_token):
            first.setdefault((item.source[0], item.destination[0], message.sequence_number), item)
        if isinstance(message, ContextTransferData):
            answered |= {key for key in first if key[:2] == (item.destination[0], item.source[0])}
        if isinstance(message, ContextTransferCancel):
            first = {k: r for k, r in first.items() if k[:2] != (item.source[0], item.destination[0])}
    for key, item in first.items():
        if not judged(item, case):
            continue
        if key in answered:
            yield HOLDS
        else:
            yield unanswered(item, case.timers.max_handover_time, case, "a PCTD, or a CTD without contexts")


@RULES.rule(
    "2.5.4-reply",
    "2.5.4",
    MUST,
    "nAR",
    "data with A set is answered by a CTDR, for success or failure",
    rows=("2.5.4-a", "2.5.3-f", "2.1.2-c"),
    moment=Moment.STORY,
)
def reply(story: Story, case: Case) -> Iterator[Outcome]:
    waiting: dict[tuple[object, object], Record] = {}
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferData) and message.acknowledge and judged(item, case):
            waiting.setdefault((item.source[0], item.destination[0]), item)
        if isinstance(message, (ContextTransferDataReply, ContextTransferCancel)):
            answered = waiting.pop((item.destination[0], item.source[0]), None)
            if answered is not None and isinstance(message, ContextTransferDataReply):
                yield HOLDS
    for item in waiting.values():
        yield unanswered(item, case.timers.max_handover_time, case, "a CTDR")


@RULES.rule(
    "2.5.4-unasked",
    "2.5.3",
    MUST,
    "nAR",
    "data without A set is not answered by a CTDR",
    rows=("2.5.3-f",),
    moment=Moment.STORY,
)
def unasked_reply(story: Story, case: Case) -> Iterator[Outcome]:
    """Which data a CTDR answers, its receipt says; one without may answer any that asked for it."""
    asked: set[tuple[Ends, int | None]] = set()
    unasked: dict[tuple[Ends, int | None], Record] = {}
    for item in story.records:
        message, ends = item.message, (item.source[0], item.destination[0])
        if isinstance(message, ContextTransferData):
            found = manifest_of(item, case)
            transfer = found.transfer_id if found is not None else None
            if message.acknowledge:
                asked.add((ends, transfer))
                unasked.pop((ends, transfer), None)
            elif (ends, transfer) not in asked and judged(item, case):
                unasked[ends, transfer] = item
        elif isinstance(message, ContextTransferDataReply):
            back = (ends[1], ends[0])
            named, _ = split_receipt(message.statuses, case.context_types)
            wanted = any(one == back for one, _ in asked)
            theirs = [key for key in unasked if key[0] == back and (key[1] == named or not wanted)]
            if theirs and (named is not None or not wanted):
                yield Fault((unasked[theirs[-1]].number, item.number), "no CTDR, since A is 0", "a CTDR")
                for key in theirs:
                    del unasked[key]
            elif not wanted and not item.ours:
                yield Doubt((item.number,), "the data that it answers is not in the capture")
    for item in unasked.values():
        yield _silence(item, case)


def _silence(item: Record, case: Case) -> Outcome:
    """No answer to what asked for none, where the capture goes on long enough to show it."""
    if case.end - item.time > min(case.timers.max_transfer_time, _SILENT_SECONDS):
        return HOLDS
    return Doubt((item.number,), "the capture ends with it")


@RULES.rule(
    "2.5.2-answer",
    "2.5.2",
    MUST,
    "pAR, nAR",
    "a CTAR with A set is answered by a CTAA",
    rows=("2.5.2-a", "3.2-e", "5.3-a", "5.3-b"),
    moment=Moment.STORY,
)
def activate_answer(story: Story, case: Case) -> Iterator[Outcome]:
    copies: dict[tuple[object, object, int], list[Record]] = {}
    answered = set()
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferActivateRequest) and message.acknowledge and judged(item, case):
            copies.setdefault((item.source[0], item.destination[0], message.sequence_number), []).append(item)
        if isinstance(message, ContextTransferActivateAcknowledge):
            answered |= {key for key in copies if key[:2] == (item.destination[0], item.source[0])}
    for key, items in copies.items():
        if key in answered:
            yield HOLDS
        elif len(items) == 1:  # one that was lost, or dropped by the rate limit, is nobody's fault
            yield Doubt((items[0].number,), "no answer to a CTAR that was sent once: it may have been lost")
        else:
            yield unanswered(items[0], case.timers.retry_max, case, "a CTAA")


@RULES.rule(
    "2.5.2-unasked",
    "2.5.1",
    MUST,
    "pAR, nAR",
    "a CTAR without A set is not answered by a CTAA",
    rows=("2.5.1-d",),
    moment=Moment.STORY,
)
def unasked_answer(story: Story, case: Case) -> Iterator[Outcome]:
    """A CTAA names no CTAR: where some had A and some had not, there are at most as many as CTARs with A."""
    with_a: Counter[Ends] = Counter()
    answered: Counter[Ends] = Counter()
    without: dict[Ends, Record] = {}
    for item in story.records:
        message, ends = item.message, (item.source[0], item.destination[0])
        if isinstance(message, ContextTransferActivateRequest):
            with_a[ends] += message.acknowledge
            if not message.acknowledge and judged(item, case):
                without[ends] = item
        elif isinstance(message, ContextTransferActivateAcknowledge):
            back = (ends[1], ends[0])
            answered[back] += 1
            if back in without and answered[back] > with_a[back] and not (story.forgotten and with_a[back]):
                yield Fault((without.pop(back).number, item.number), "no CTAA, since A is 0", "a CTAA")
    for item in without.values():
        yield _silence(item, case)


@RULES.rule(
    "2.5.1-same-sequence",
    "2.5.1",
    MUST,
    "MN",
    "the CTARs to pAR and nAR have the same sequence number",
    rows=("2.5.1-a", "3.2-g"),
)
def same_sequence(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if not isinstance(message, ContextTransferActivateRequest):
        return
    here, there = item.destination[0], message.access_router_address
    to_here = {m.sequence_number for r, m in story.of(ContextTransferActivateRequest) if r.destination[0] == here}
    for other, twin in story.back(ContextTransferActivateRequest):
        if other.destination[0] != there or twin.access_router_address != here or other.source[0] != item.source[0]:
            continue
        if item.time - other.time > case.timers.retry_max:
            return
        if twin.sequence_number == message.sequence_number:
            yield HOLDS
            return
        if twin.sequence_number not in to_here:
            expected = f"{twin.sequence_number:#010x}, as to {there}"
            yield expect(False, item, expected, f"{message.sequence_number:#010x}", other)
            return


@RULES.rule(
    "2-new-router",
    "2",
    MUST,
    "MN",
    "a mobile node that tells pAR tells nAR as well",
    rows=("2-b", "5.3-a"),
    moment=Moment.STORY,
)
def new_router_told(story: Story, case: Case) -> Iterator[Outcome]:
    ctars = [(r, m) for r, m in story.of(ContextTransferActivateRequest)]
    routers = {r.destination[0] for r, _ in ctars}
    for sender in {r.source[0] for r, m in story.of(ContextTransferData) if m.blocks}:
        for item, message in ctars:
            if item.destination[0] == sender and not item.ours:
                if message.access_router_address in routers:
                    yield HOLDS
                elif not case.live:
                    yield unanswered(
                        item, case.timers.retry_max, case, f"a CTAR to {message.access_router_address} too"
                    )
                break


@RULES.rule(
    "3.2-duplicate",
    "3.2",
    MUST,
    "nAR",
    "a CTAR had before (sequence number, mobile node) is ignored: nothing is asked for again once it is done",
    rows=("3.2-h", "6.3-h"),
)
def duplicate(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if isinstance(message, ContextTransferActivateRequest):
        # A duplicate that came after the end of what it started, and no CT-Req for it: shown at the next record.
        return
    done: Record | None = None
    repeated: Record | None = None
    number: int | None = None
    for other in story.records:
        what = other.message
        if isinstance(what, ContextTransferActivateRequest):
            if done is not None and what.sequence_number == number and other.destination[0] == done.source[0]:
                repeated = other
            elif what.sequence_number != number:
                done, repeated, number = None, None, what.sequence_number
        elif isinstance(what, ContextTransferDataReply) and what.success:
            done = other
    if done is None or repeated is None or item.source[0] != done.source[0]:
        return
    if isinstance(message, ContextTransferRequest) and message.sequence_number == number:
        yield Fault((repeated.number, item.number), "nothing, since the transfer was done", "a CT-Req for it again")
    else:
        yield HOLDS


def _under_way(item: Record, cancel: Record, story: Story) -> bool:
    """Whether data was sent before the CTC already: it is repeated until its fate is known (docs/decisions.md, 22)."""
    return any(
        between(other, item) and message.blocks == getattr(item.message, "blocks", ())
        for other, message in story.of(ContextTransferData)
        if other.time <= cancel.time
    )


@RULES.rule(
    "2.5.5-cancel",
    "2.5.5",
    MUST,
    "pAR",
    "a CTC ends the transfer: no data that was not under way is sent for it",
    rows=("2.5.5-b",),
    moment=Moment.STORY,
)
def cancelled(story: Story, case: Case) -> Iterator[Outcome]:
    cancel: Record | None = None
    late: Record | None = None

    def outcome() -> Iterator[Outcome]:
        if cancel is not None and judged(cancel, case):
            if late is not None:
                seen = f"data {late.time - cancel.time:.3f} s after it"
                yield Fault((cancel.number, late.number), "no data after a CTC", seen)
            elif case.end - cancel.time > CROSSING_SECONDS:
                yield HOLDS
            else:
                yield Doubt((cancel.number,), "the capture ends with the CTC")

    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferCancel):
            yield from outcome()
            cancel, late = item, None
        elif isinstance(message, (ContextTransferRequest, ContextTransferActivateRequest)):
            yield from outcome()  # asked for anew
            cancel = None
        elif cancel is not None and isinstance(message, ContextTransferData) and message.blocks:
            crossed = item.time - cancel.time <= CROSSING_SECONDS
            ours = between(cancel, item, back=True) and item.time - cancel.time <= _CANCELLED_SECONDS
            if ours and not crossed and not _under_way(item, cancel, story):
                late = late or item
    yield from outcome()


@RULES.rule("2.5.5-sender", "2.5.5", MUST, "nAR", "CTC goes from nAR to pAR, never the other way", rows=("2.5.5-a",))
def cancel_sender(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferCancel):
        return
    data = [r for r, _ in story.back(ContextTransferData)]
    asked = [r for r, _ in story.back(ContextTransferRequest)]
    wrong = [r for r in data if between(r, item)] + [r for r in asked if between(r, item, back=True)]
    right = [r for r in data if between(r, item, back=True)] + [r for r in asked if between(r, item)]
    if wrong or right:
        yield expect(bool(right) or not wrong, item, "a CTC from the new router", "one from the previous", *wrong[:1])


@RULES.rule(
    "2.3-unknown-type",
    "2.5.4",
    SHOULD,
    "nAR",
    "a context of a type that nobody has assigned is reported with a status above 0",
    rows=("2.3-a", "2.5.4-b"),
)
def unknown_type(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferDataReply):
        return
    known = set(vars(case.context_types).values())
    for other, message in story.back(ContextTransferData):
        if not between(item, other, back=True):
            continue
        unknown = {b.feature_profile_type for b in message.blocks if 1 < b.feature_profile_type < 0xFF00} - known
        if unknown:
            reported = {s.feature_profile_type for s in told(item.message, case) if s.status}
            missing = ", ".join(f"{t:#06x}" for t in sorted(unknown - reported))
            good = not missing or not item.message.success
            yield expect(good, item, "a status for each unknown type", f"none for {missing}", other)
        return


@RULES.rule(
    "2.5-malformed",
    "2.5",
    MUST,
    "pAR, nAR",
    "what is no message has no effect: no data is sent for it, and none of its contexts taken",
    rows=("2.2-b", "2.5-d"),
    moment=Moment.STORY,
)
def malformed_ignored(story: Story, case: Case) -> Iterator[Outcome]:
    bad: dict[tuple[object, object], Record] = {}
    for item in story.records:
        ends = (item.source[0], item.destination[0])
        message = item.message
        if message is None:
            if judged(item, case):
                bad[ends] = item
            continue
        earlier = bad.pop(ends, None)  # a good one came as well: what follows is its answer
        if earlier is not None and item.time - earlier.time > CROSSING_SECONDS:
            yield HOLDS
        before = bad.get((ends[1], ends[0]))
        if before is not None:
            data = isinstance(message, ContextTransferData) and bool(message.blocks)
            taken = isinstance(message, ContextTransferDataReply) and message.success
            if data or taken:
                del bad[ends[1], ends[0]]
                seen = f"a {message.short_name} that takes it for one"
                yield Fault((before.number, item.number), "no effect of what is no message", seen)
    for item in bad.values():
        if case.end - item.time > CROSSING_SECONDS:
            yield HOLDS
        else:
            yield Doubt((item.number,), "the capture ends with what is no message")
