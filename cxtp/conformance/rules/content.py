"""Rules of what the contexts say: are they whole, do their keys agree, do they open what the peers really sent?"""

from __future__ import annotations

from collections.abc import Iterator

from contexts.ikev2 import IkeSaContext
from contexts.key_cases import with_key_case
from contexts.keys import derive_ike_keys, key_case
from contexts.values import IkeKeys

from ...errors import CxtpError, MissingParameter, RemoteError
from ..contents import decoded
from ..packets import PacketFacts
from ..records import Record
from ..story import Case, Story
from ..verdicts import HOLDS, Fault, Group, Moment, Outcome
from .table import MUST, Table

RULES = Table(Group.CONTENT)


@RULES.rule(
    "content-mandatory",
    "docs/context-formats.md, 3",
    MUST,
    "pAR",
    "a context has all its mandatory (M) parameters",
)
def mandatory(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for context, what in decoded(item, case):
        if context.feature_profile_type in (case.context_types.ike_sa, case.context_types.ipsec_sa):
            if isinstance(what, MissingParameter):
                yield Fault((item.number,), "all M parameters", str(what))
            elif not isinstance(what, RemoteError):  # else a rule of formats says why
                yield HOLDS


@RULES.rule(
    "content-keys",
    "docs/context-formats.md, 4",
    MUST,
    "pAR",
    "all keys follow from the contexts: right lengths, known algorithms, each IPsec_SA with its IKE_SA",
    moment=Moment.CAPTURE,
)
def keys_derivable(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for number, why in facts.unrestored[:1]:
        yield Fault((number,) if number else (), "keys for every SA", why)
    if facts.session is not None:
        yield HOLDS


def _ike_keys(context: IkeSaContext) -> IkeKeys | None:
    try:
        return derive_ike_keys(context.keying, context.proposal, context.spis)
    except CxtpError:
        return None


@RULES.rule(
    "content-key-cases",
    "docs/context-formats.md, 4.2",
    MUST,
    "pAR",
    "key cases agree: what one IKE_SA's contexts derive in case 1, 2 and 3 are the same SK_*",
    moment=Moment.CAPTURE,
)
def key_cases(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    known: dict[object, tuple[int, int, IkeKeys]] = {}
    for item in facts.moved:
        context = item.context
        if not isinstance(context, IkeSaContext):
            continue
        keys = _ike_keys(context)
        if keys is None:
            continue  # content-keys says why
        number = key_case(context.keying)
        before = known.setdefault(context.spis, (item.number, number, keys))
        if before[2] != keys:
            packets = tuple(sorted({n for n in (before[0], item.number) if n}))
            seen = f"others by case {number} than by case {before[1]}"
            yield Fault(packets, f"the same SK_* for {context.spis}", seen)
        elif before[0] != item.number or before[1] != number:
            yield HOLDS
        for lower in range(number + 1, 4):
            (converted,) = with_key_case([context], lower)
            if isinstance(converted, IkeSaContext) and _ike_keys(converted) == keys:
                yield HOLDS


def _opened(facts: PacketFacts, kind: str) -> Iterator[Outcome]:
    tally = facts.opened[kind]
    if tally.failures:
        packets = tuple(number for number, _ in tally.failures[:20])
        seen = f"{tally.seen - tally.opened} of {tally.seen} can't be: {tally.failures[0][1]}"
        yield Fault(packets, f"every {kind.upper()} packet of these SAs opened", seen)
    elif tally.seen:
        yield HOLDS


@RULES.rule(
    "content-opens-ike",
    "docs/context-formats.md, 4.2",
    MUST,
    "pAR",
    "contexts are true: their SK_* open the IKE messages of the same capture",
    moment=Moment.CAPTURE,
)
def opens_ike(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    yield from _opened(facts, "ike")


@RULES.rule(
    "content-opens-esp",
    "docs/context-formats.md, 4.3",
    MUST,
    "pAR",
    "contexts are true: their KEYMAT opens the ESP and AH packets of the same capture",
    moment=Moment.CAPTURE,
)
def opens_esp(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    yield from _opened(facts, "esp")
    yield from _opened(facts, "ah")
