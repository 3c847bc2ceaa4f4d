"""Rules of times and numbers of messages: RFC 4067, 2.5.3, 3.1, 3.2, 4 and 6.3."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ...dissect import Transport
from ...messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    Message,
)
from ..bounded import Bounded
from ..records import Record
from ..story import Case, Story, between, carries_contexts
from ..verdicts import HOLDS, Doubt, Group, Moment, Outcome
from .flows import CROSSING_SECONDS
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.TIMERS)

GROWTH = 1.25
"""What a wait grows by, each time, at least: 2 is asked for; lost copies and busy machines blur it (ours)."""

SLACK_SECONDS = 0.01
BUSY_SECONDS = 0.25
"""What a busy machine may hold one message up (ours)."""

EARLY = 0.9
"""How exactly clocks are read: 10 ms, and a tenth early (ours)."""


def same_message(one: Message, other: Message) -> bool:
    """Whether one is a copy of the other: all but Elapsed Time, which goes on."""
    if isinstance(one, ContextTransferData) and isinstance(other, ContextTransferData):
        return type(one) is type(other) and replace(one, elapsed_time=0) == replace(other, elapsed_time=0)
    return one == other


def _series(item: Record, story: Story) -> list[Record]:
    """This message's earlier copies and itself, as far back as nothing that would draw a copy came in between."""
    found = [item]
    for other in reversed(story.records):
        if other.message is None or item.message is None:
            continue
        if between(other, item, back=True) and not isinstance(other.message, ContextTransferDataReply):
            break
        if between(other, item) and other.transport is item.transport and same_message(other.message, item.message):
            found.append(other)
    return found[::-1]


def _grows(item: Record, story: Story) -> Iterator[Outcome]:
    """Each wait is measured by the shortest before it.

    A machine that was busy draws one wait out and so shortens the next: where that may be all, one alone is a doubt.
    """
    copies = _series(item, story)
    if len(copies) < 3:
        return
    waits = [later.time - earlier.time for earlier, later in pairwise(copies)]
    wanted = [min(waits[:n]) * GROWTH**n for n in range(1, len(waits))]
    short = [least - waited for least, waited in zip(wanted, waits[1:], strict=True) if least - waited > SLACK_SECONDS]
    if wanted[-1] - waits[-1] <= SLACK_SECONDS:
        yield HOLDS
    elif len(short) > 1 or short[0] > BUSY_SECONDS:
        yield expect(False, item, f"a wait of at least {wanted[-1]:.3f} s", f"{waits[-1]:.3f} s", *copies[-3:-1])
    else:
        yield Doubt((copies[-2].number, item.number), f"one wait of {waits[-1]:.3f} s did not grow")


@RULES.rule(
    "3.1-backoff",
    "3.1",
    MUST,
    "pAR, nAR",
    "over transports other than SCTP, repetitions wait exponentially longer",
    rows=("3.1-l", "3.1-i"),
)
def router_backoff(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.UDP and isinstance(item.message, (ContextTransferData, ContextTransferRequest)):
        yield from _grows(item, story)


@RULES.rule("3.2-backoff", "3.2", MUST, "MN", "a CTAR is repeated after doubled waits", rows=("3.2-d",))
def activate_backoff(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateRequest):
        yield from _grows(item, story)


@RULES.rule(
    "4-request-retry", "4", SHOULD, "MN", "a CTAR is first repeated after CT_REQUEST_RETRY", rows=("4-d", "3.2-d")
)
def request_retry(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateRequest):
        copies = _series(item, story)
        if len(copies) == 2:
            waited = item.time - copies[0].time
            wanted = case.timers.request_retry
            yield expect(waited >= wanted * EARLY - SLACK_SECONDS, item, f"{wanted:g} s", f"{waited:.3f} s", copies[0])


@RULES.rule("4-retry-max", "4", SHOULD, "MN", "a CTAR is not repeated beyond CT_RETRY_MAX", rows=("4-d", "3.2-e"))
def retry_max(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateRequest):
        copies = [r for r, m in story.of(ContextTransferActivateRequest) if between(r, item) and m == item.message]
        if copies:
            late = item.time - copies[0].time
            good = late <= case.timers.retry_max / EARLY + SLACK_SECONDS
            yield expect(
                good, item, f"no repetition after {case.timers.retry_max:g} s", f"one after {late:.3f} s", copies[0]
            )


@RULES.rule(
    "3.2-answered",
    "3.2",
    MUST,
    "MN",
    "a CTAR is not repeated to a router that has answered it",
    rows=("3.2-e",),
    moment=Moment.STORY,
)
def stops_when_answered(story: Story, case: Case) -> Iterator[Outcome]:
    """Put to the test where the capture goes on until the CTAR would have been repeated once more."""
    copies: dict[tuple[IPAddress, IPAddress, Message], list[Record]] = {}
    answers: dict[tuple[IPAddress, IPAddress, Message], Record] = {}
    for item in story.records:
        message, source, destination = item.message, item.source[0], item.destination[0]
        if isinstance(message, ContextTransferActivateRequest) and not item.ours:
            answer = answers.get((source, destination, message))
            if answer is not None and item.time - answer.time > CROSSING_SECONDS:
                yield expect(False, item, "no repetition, since a CTAA came", "one more CTAR", answer)
                del answers[source, destination, message]
            copies.setdefault((source, destination, message), []).append(item)
        elif isinstance(message, ContextTransferActivateAcknowledge):
            for key in copies:
                if key[:2] == (destination, source):
                    answers.setdefault(key, item)
    for key, answer in answers.items():
        sent = copies[key]
        due = sent[-1].time + case.timers.request_retry * 2 ** (len(sent) - 1)
        if due - sent[0].time <= case.timers.retry_max and due > answer.time:
            yield HOLDS if case.end > due else Doubt((answer.number,), "the capture ends before one more would be due")


@RULES.rule(
    "3.2-sequence-reuse", "3.2", SHOULD, "MN", "a sequence number was not used in the last 7 seconds", rows=("3.2-f",)
)
def sequence_reuse(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if not isinstance(message, ContextTransferActivateRequest):
        return
    used = case.remember("3.2-sequence-reuse", Bounded)
    key = (item.source[0], message.sequence_number)
    identity = (message.mn_previous_address, message.requested)  # the token follows from them
    before = used.get(key)
    used[key] = (identity, item)
    if before is not None and before[0] != identity:
        age = item.time - before[1].time
        good = age > case.timers.sequence_number_lifetime * EARLY
        yield expect(good, item, "a number not used for 7 s", f"one used {age:.3f} s before", before[1])
    elif before is None and any(r.source == item.source for r, _ in story.of(ContextTransferActivateRequest)):
        yield HOLDS


@RULES.rule(
    "3.2-sequence-random", "3.2", SHOULD, "MN", "sequence numbers are random: they don't count", rows=("3.2-f",)
)
def sequence_random(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if not isinstance(message, ContextTransferActivateRequest):
        return
    numbers = case.remember("3.2-sequence-random", Bounded)
    last: deque[tuple[int, Record]] = numbers.setdefault(item.source[0], deque(maxlen=3))
    if not any(number == message.sequence_number for number, _ in last):
        last.append((message.sequence_number, item))
        if len(last) == 3:
            steps = {(b[0] - a[0]) & 0xFFFFFFFF for a, b in zip(last, list(last)[1:], strict=False)}
            seen = f"three numbers, each {min(steps)} above the one before"
            yield expect(len(steps) > 1, item, "random numbers", seen, last[0][1], last[1][1])


@RULES.rule(
    "2.5.3-elapsed",
    "2.5.3",
    MUST,
    "pAR",
    "Elapsed Time is the milliseconds since the first CTD for this mobile node",
    rows=("2.5.3-e",),
)
def elapsed(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferData):
        return
    for other in reversed(story.records):
        message = other.message
        if between(other, item, back=True) and isinstance(message, (ContextTransferDataReply, ContextTransferCancel)):
            return  # that transfer was over
        if between(other, item) and isinstance(message, ContextTransferData):
            if not message.blocks or not item.message.blocks or item.time - other.time > case.timers.max_handover_time:
                return
            passed = (item.time - other.time) * 1000
            told = item.message.elapsed_time - message.elapsed_time
            good = abs(told - passed) <= 100 + 0.1 * passed
            yield expect(good, item, f"{passed:.0f} ms more than before", f"{told} ms more", other)
            return


@RULES.rule(
    "4-transfer-time",
    "4",
    SHOULD,
    "pAR",
    "data is not repeated beyond CT_MAX_TRANSFER_TIME after it was first sent",
    rows=("4-c", "3.1-c", "2.5.3-b"),
)
def transfer_time(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if carries_contexts(item):
        copies = _series(item, story)
        if len(copies) > 1:
            late = item.time - copies[0].time
            wanted = case.timers.max_transfer_time
            good = late <= wanted / EARLY + 5 * SLACK_SECONDS or late > case.timers.max_handover_time
            yield expect(good, item, f"no repetition after {wanted:g} s", f"one after {late:.3f} s", copies[0])


@RULES.rule(
    "6.3-request-rate",
    "6.3",
    SHOULD,
    "pAR, nAR",
    "no more than CT_REQUEST_RATE CTARs a second are served",
    rows=("6.3-i", "6.3-j", "6.3-k", "4-b"),
)
def request_rate(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    memory = case.remember("6.3-request-rate", Bounded)
    message = item.message
    if not isinstance(message, (ContextTransferActivateAcknowledge, ContextTransferRequest)):
        return
    answers: deque[Record] = memory.setdefault(item.source[0], deque(maxlen=int(4 * case.request_rate) + 4))
    if any(story_item.time > item.time - 1 and _is_same_answer(story_item, item) for story_item in answers):
        return
    answers.append(item)
    recent = [other for other in answers if item.time - other.time < 1]
    if len(recent) > case.request_rate / 2:
        good = len(recent) <= 2 * case.request_rate + 1  # a full second's worth at once, and that of the second itself
        seen = f"{len(recent)} served within a second"
        yield expect(good, item, f"{case.request_rate:g} a second", seen, recent[0])


def _is_same_answer(one: Record, other: Record) -> bool:
    """A copy; or the CT-Req that a CTAR draws, and the CTAA that tells how it ended."""
    if one.message is None or other.message is None:
        return False
    both = type(one.message) is not type(other.message) or one.destination != other.destination
    return one.message == other.message or (one.mn == other.mn and both)
