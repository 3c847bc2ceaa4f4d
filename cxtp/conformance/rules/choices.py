"""Rules of which transport is chosen, and of SCTP associations: RFC 4067, 3.1 and 3.2."""

from __future__ import annotations

from collections.abc import Iterator

from ...constants import StatusCode
from ...dissect import Transport
from ...messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
)
from ..bounded import Bounded
from ..packets import PacketFacts
from ..records import Record
from ..story import Case, Story, between
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
from .table import MAY, MUST, SHOULD, Table, expect
from .timers import EARLY
from .transport import is_mn_message

RULES = Table(Group.TRANSPORT)


def _chosen(item: Record, case: Case, rule_id: str, wanted: Transport) -> Iterator[Outcome]:
    """One outcome per pair of hosts.  A live peer is asked over what the prober was told to use."""
    if case.live:
        return
    pair = frozenset((item.source[0], item.destination[0]))
    told = case.remember(rule_id, Bounded)
    if (pair, item.transport) not in told:
        told[pair, item.transport] = True
        yield expect(item.transport is wanted, item, wanted.value.upper(), item.transport.value.upper())


@RULES.rule("3.1-sctp", "3.1", SHOULD, "pAR, nAR", "routers speak SCTP to each other", rows=("3.1-b",))
def routers_use_sctp(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.message is not None and not is_mn_message(item) and item.transport is not Transport.ICMP:
        yield from _chosen(item, case, "3.1-sctp", Transport.SCTP)


@RULES.rule(
    "3.2-icmp", "3.2", SHOULD, "MN, pAR, nAR", "mobile nodes and routers speak ICMP to each other", rows=("3.2-b",)
)
def mobile_nodes_use_icmp(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if is_mn_message(item) and item.transport is not Transport.SCTP:
        yield from _chosen(item, case, "3.2-icmp", Transport.ICMP)


@RULES.rule(
    "3.1-other-transport",
    "3.1",
    MAY,
    "pAR, nAR",
    "another transport than SCTP may be tried: then the reply comes over the one that the data came over",
    rows=("3.1-i",),
)
def other_router_transport(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferDataReply):
        data = [r for r, m in story.back(ContextTransferData) if between(r, item, back=True)]
        yield from _same_transport(item, data, case, Transport.SCTP)


@RULES.rule(
    "3.2-other-transport",
    "3.2",
    MAY,
    "pAR, nAR",
    "another transport than ICMP may be tried: then the CTAA comes over the one that the CTAR came over",
    rows=("3.2-i",),
)
def other_mobile_transport(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if isinstance(item.message, ContextTransferActivateAcknowledge):
        asked = [r for r, m in story.back(ContextTransferActivateRequest) if between(r, item, back=True)]
        yield from _same_transport(item, asked, case, Transport.ICMP)


def _same_transport(item: Record, asked: list[Record], case: Case, usual: Transport) -> Iterator[Outcome]:
    used = {other.transport for other in asked}
    if used and used | {item.transport} != {usual} and not case.live:
        expected = " or ".join(sorted(transport.value.upper() for transport in used))
        yield expect(item.transport in used, item, expected, item.transport.value.upper(), asked[0])


# --- SCTP associations ------------------------------------------------------------------------------------------


@RULES.rule(
    "3.1-supports-sctp",
    "3.1",
    MUST,
    "pAR, nAR",
    "SCTP is supported: an association to port 5091 is not refused",
    rows=("3.1-a",),
    moment=Moment.CAPTURE,
)
def supports_sctp(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    if case.carried[Transport.SCTP] and not case.live:  # the prober's endpoint would tell
        yield HOLDS
    for (source, _, destination, _), opening in facts.associations.openings.items():
        if opening.refused and not opening.accepted:
            seen = f"{destination} refuses {source}'s"
            yield Fault((opening.asked, opening.refused), "an association", seen)
        elif opening.accepted:
            yield HOLDS
        else:
            yield Doubt((opening.asked,), "no answer to an INIT: the host may be down, or the packet lost")


@RULES.rule(
    "3.1-one-address",
    "3.1",
    SHOULD,
    "pAR, nAR",
    "no use is made of multiple addresses",
    rows=("3.1-m",),
    moment=Moment.CAPTURE,
)
def one_address(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for direction in facts.associations.directions.values():
        setup = direction.setup
        if setup is not None and setup.addresses > 1:
            yield Fault((setup.number,), "one address", f"{setup.addresses} addresses")
        elif setup is not None:
            yield HOLDS


@RULES.rule(
    "3.1-partial-reliability",
    "3.1",
    SHOULD,
    "pAR, nAR",
    "where both ends support PR-SCTP, it is used: data is given up, not sent again, beyond CT_MAX_TRANSFER_TIME",
    rows=("3.1-g", "3.1-c"),
    moment=Moment.CAPTURE,
)
def partial_reliability(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for direction, back in facts.associations.both():
        if not (direction.setup.partial_reliability and back.setup.partial_reliability):  # type: ignore[union-attr]
            continue
        limit = case.timers.max_transfer_time
        if direction.late is not None and direction.late[2] > limit / EARLY:
            first, again, waited = direction.late
            yield Fault((first, again), f"nothing sent again after {limit:g} s", f"a chunk after {waited:.3f} s")
        elif direction.forward:
            yield HOLDS


@RULES.rule(
    "3.1-bad-checksum",
    "3.1",
    MUST,
    "nAR",
    "data whose SCTP checksum is wrong is not taken: BAD_CHECKSUM in a CTDR says so",
    rows=("3.1-q",),
    moment=Moment.STORY,
)
def bad_checksum(story: Story, case: Case) -> Iterator[Outcome]:
    """A stack that drops the packet tells nobody: then a good copy comes, and this stays open."""
    spoiled: Record | None = None
    for item in story.records:
        message = item.message
        if isinstance(message, ContextTransferData) and item.carriage.checksum_good is False:
            spoiled = item
        elif spoiled is None:
            continue
        elif isinstance(message, ContextTransferData) and between(item, spoiled):
            yield Doubt((spoiled.number, item.number), "sent again: the receiver's SCTP dropped the packet, unheard")
            spoiled = None
        elif isinstance(message, ContextTransferDataReply) and between(item, spoiled, back=True):
            told = any(s.status == StatusCode.BAD_CHECKSUM for s in message.statuses) and not message.success
            seen = "the contexts taken" if message.success else "another status"
            yield expect(told, item, "S = 0 and BAD_CHECKSUM", seen, spoiled)
            spoiled = None
    if spoiled is not None:
        yield Doubt((spoiled.number,), "never answered: the receiver's SCTP dropped the packet, unheard")

