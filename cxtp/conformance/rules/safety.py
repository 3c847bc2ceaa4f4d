"""Rules of docs/safety.md that a capture shows: one owner at a time, and no sequence number used twice."""

from __future__ import annotations

from collections.abc import Iterator

from contexts.ipsec import IpsecSaContext
from contexts.values import CounterKnowledge

from ...manifest import split_receipt
from ...messages import ContextTransferData, ContextTransferDataReply
from ..contents import is_replica
from ..packets import PacketFacts, SaKey
from ..records import Record
from ..story import Case, Story, between, carries_contexts
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
from .flows import CROSSING_SECONDS
from .formats import manifest_of
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.SAFETY)

_ALL_32, _ALL_64 = (1 << 32) - 1, (1 << 64) - 1
_HALF = 1 << 31
"""Half of the sequence numbers that 32 bits tell apart: so far ahead or behind a number is known to be."""


@RULES.rule(
    "safety-one-owner",
    "docs/safety.md",
    MUST,
    "pAR",
    "who gave a session away gives it to no other: the next transfer comes from its owner",
)
def one_owner(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item) or is_replica(item, case):
        return
    for other, reply in story.back(ContextTransferDataReply):
        if not reply.success or _to_replica(other, story, case):
            continue
        owner, giver = other.source[0], other.destination[0]
        if item.source[0] == giver and item.destination[0] != owner:
            seen = f"{giver} sends it to {item.destination[0]}"
            yield expect(False, item, f"{owner} has the session", seen, other)
        elif item.source[0] == owner:
            yield HOLDS
        return


@RULES.rule(
    "safety-one-taker",
    "docs/safety.md",
    MUST,
    "nAR",
    "one router takes a session: no second one confirms the same generation",
)
def one_taker(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    message = item.message
    if not isinstance(message, ContextTransferDataReply) or not message.success or _to_replica(item, story, case):
        return
    generation = _generation(item, story, case)
    if generation is None:
        return
    for other, reply in story.back(ContextTransferDataReply):
        if reply.success and other.source[0] != item.source[0] and not _to_replica(other, story, case):
            before = _generation(other, story, case)
            if before == generation:
                seen = f"generation {generation} confirmed by {other.source[0]} before"
                yield expect(False, item, "one router that confirms it", seen, other)
                return
    others = (data for data, _ in story.of(ContextTransferData) if data.destination[0] != item.source[0])
    if any(not is_replica(data, case) for data in others):
        yield HOLDS  # another one was given it too, and might have


def _generation(reply: Record, story: Story, case: Case) -> int | None:
    data = _answered_by(reply, story, case)
    found = None if data is None else manifest_of(data, case)
    return None if found is None else found.generation


def _to_replica(reply: Record, story: Story, case: Case) -> bool:
    data = _answered_by(reply, story, case)
    return data is not None and is_replica(data, case)


def _answered_by(reply: Record, story: Story, case: Case) -> Record | None:
    """The newest data with a manifest that a CTDR answers: its receipt says which; without one, the last before it."""
    message = reply.message
    if not isinstance(message, ContextTransferDataReply):
        return None
    named, _ = split_receipt(message.statuses, case.context_types)
    for data, _ in story.back(ContextTransferData):
        if data.time <= reply.time and between(data, reply, back=True):
            found = manifest_of(data, case)
            if found is not None and named in (None, found.transfer_id):
                return data
    return None


@RULES.rule(
    "safety-generation",
    "docs/safety.md",
    MUST,
    "pAR",
    "each transfer of a session that was confirmed has a higher generation than the one before",
)
def generation_grows(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    mine = manifest_of(item, case)
    if mine is None or is_replica(item, case):
        return
    for other, reply in story.back(ContextTransferDataReply):
        if reply.success and not _to_replica(other, story, case) and item.time - other.time > CROSSING_SECONDS:
            before = _generation(other, story, case)
            repeated = any(
                (found := manifest_of(r, case)) is not None and found.transfer_id == mine.transfer_id
                for r, _ in story.of(ContextTransferData)
                if r.time <= other.time
            )
            if before is not None and not repeated:
                good = mine.generation > before
                yield expect(good, item, f"a generation above {before}", f"{mine.generation}", other)
            return


@RULES.rule(
    "safety-sequence-numbers",
    "RFC 4303, 3.3.3; docs/safety.md",
    MUST,
    "gateways",
    "no ESP sequence number is used twice, before or after the hand-over: a receiver takes it for a replay",
    rows=("6.2-d",),
    moment=Moment.CAPTURE,
)
def sequence_numbers(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for (destination, spi), direction in facts.directions.items():
        for before, now, number in direction.reused:
            seen = f"{number} of SPI {spi:08x} to {destination} again, in another packet"
            yield Fault((before, now), "each sequence number once", seen)
        if direction.packets > 1 and not direction.reused:
            yield HOLDS


@RULES.rule(
    "safety-counter",
    "docs/context-formats.md, 4.3 (M4)",
    MUST,
    "pAR",
    "the outbound counter that moves as exact is not below what the SA had sent",
    moment=Moment.CAPTURE,
)
def counter(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for item in facts.moved:
        context = item.context
        if not item.number or not isinstance(context, IpsecSaContext):
            continue
        if context.sequence_numbers.knowledge != CounterKnowledge.EXACT:
            continue  # it says itself that more may have been sent: whoever goes on has to find out first
        if context.sequence_numbers.outbound == (_ALL_64 if context.proposal.extended_sequence_numbers else _ALL_32):
            continue  # its outbound half is gone (4.3.1)
        direction = facts.directions.get((context.remote_host.address, context.outbound_spi))
        if direction is None:
            continue
        sent = direction.highest_before.get(item.number, direction.highest)
        told = context.sequence_numbers.outbound
        if not sent or not direction.packets:
            continue
        behind = sent - told
        if context.proposal.extended_sequence_numbers:  # the wire has the low 32 bits alone (RFC 4303, 2.2.1)
            behind = (behind + _HALF) % (2 * _HALF) - _HALF
        if behind <= 0:
            yield HOLDS
        else:
            seen = f"{told}, yet {sent} had been sent with SPI {context.outbound_spi:08x}"
            yield Fault((item.number,), f"a counter of {sent} or above", seen)


@RULES.rule(
    "safety-one-sender",
    "docs/safety.md",
    MUST,
    "gateways",
    "one gateway at a time sends on a session: who has given it away sends no more",
    moment=Moment.CAPTURE,
)
def one_sender(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    moves = sorted({m.number for m in facts.moved if m.number})
    outbound = {
        (m.context.remote_host.address, m.context.outbound_spi)
        for m in facts.moved
        if isinstance(m.context, IpsecSaContext)
    }
    for key in outbound:
        direction = facts.directions.get(key)
        if direction is None or len(direction.owners) < 2:
            continue
        for (_, one), (taken, two), (index, three) in zip(
            direction.owners, direction.owners[1:], direction.owners[2:], strict=False
        ):
            if one == three != two:
                if any(taken < number < index for number in moves):
                    continue  # it was given back
                elif moves:
                    seen = f"{three.hex(':')} sends with SPI {key[1]:08x} again, after {two.hex(':')} did"
                    yield Fault((taken, index), "one sender at a time", seen)
                else:
                    yield Doubt((index,), "two senders take turns, and no hand-over is in the capture")
                break
        else:
            yield HOLDS


@RULES.rule(
    "3.1-waits",
    "3.1",
    SHOULD,
    "nAR",
    "the new router leaves the mobile node's traffic alone until it has the contexts",
    rows=("3.1-f",),
    moment=Moment.CAPTURE,
)
def waits_for_contexts(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    """Seen where the gateways share a link with the observer: another machine sends on the SA, its context moved."""
    moves: dict[SaKey, list[int]] = {}
    for item in facts.moved:
        if item.number and isinstance(item.context, IpsecSaContext):
            key = (item.context.remote_host.address, item.context.outbound_spi)
            moves.setdefault(key, []).append(item.number)
    for key, numbers in moves.items():
        direction = facts.directions.get(key)
        if direction is None:
            continue
        for (before, _), (now, machine) in zip(direction.owners, direction.owners[1:], strict=False):
            if any(before < number < now for number in numbers):
                yield HOLDS
            elif now < min(numbers):
                seen = f"{machine.hex(':')} sends with SPI {key[1]:08x} before"
                yield Fault((now, min(numbers)), "nothing sent before the contexts are there", seen)
