"""Rules of what the contexts say: are they whole, do their keys agree, do they open what the peers really sent?"""

from __future__ import annotations

from collections.abc import Iterator

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import derive_ike_keys, derive_ipsec_keys, key_case
from contexts.values import IkeKeys, IkeSpis, IpsecKeys

from ...errors import CxtpError, MissingParameter, RemoteError
from ..contents import decoded
from ..packets import Moved, PacketFacts, SessionKey, identity
from ..records import Record
from ..story import Case, Story
from ..verdicts import HOLDS, Doubt, Fault, Group, Moment, Outcome
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
    "all keys follow from the contexts: right lengths, each IPsec_SA with its IKE_SA",
    moment=Moment.CAPTURE,
)
def keys_derivable(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    for number, why in facts.unrestored:
        yield Fault((number,) if number else (), "keys for every SA", why)
    for number, why in facts.unknown:
        yield Doubt((number,) if number else (), f"no keys, since the judge does not know its algorithm: {why}")
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
    "key cases agree: where one SA travels in several, case 1, 2 and 3 give the same keys",
    moment=Moment.CAPTURE,
)
def key_cases(facts: PacketFacts, case: Case) -> Iterator[Outcome]:
    """One case alone puts nothing to the test: whether its keys are the true ones is content-opens-ike's question."""
    known: dict[SessionKey, tuple[Moved, int, IkeKeys | IpsecKeys]] = {}
    sk_d: dict[IkeSpis, tuple[bytes, int]] = {}
    for item in facts.moved:  # an IPsec_SA may stand before the IKE_SA that its KEYMAT is derived from
        if isinstance(item.context, IkeSaContext) and (parent := _ike_keys(item.context)) is not None:
            sk_d.setdefault(item.context.spis, (parent.sk_d, item.context.proposal.prf))
    for item in facts.moved:
        found = _keys_in_their_case(item.context, sk_d)
        if found is None:
            continue  # content-keys says why
        number, keys = found
        before, before_number, before_keys = known.setdefault(identity(item.context), (item, number, keys))
        if before_keys != keys:
            packets = tuple(sorted({n for n in (before.number, item.number) if n}))
            seen = f"others by case {number} than by case {before_number}"
            yield Fault(packets, f"the same keys for {_name(item.context)}", seen)
        elif before_number != number:
            yield HOLDS


def _keys_in_their_case(
    context: Context, sk_d: dict[IkeSpis, tuple[bytes, int]]
) -> tuple[int, IkeKeys | IpsecKeys] | None:
    if isinstance(context, IkeSaContext):
        keys = _ike_keys(context)
        return None if keys is None else (key_case(context.keying), keys)
    if not isinstance(context, IpsecSaContext):
        return None
    keying = context.keying
    if isinstance(keying, IpsecKeys):
        return 3, keying
    if keying.ike_spis not in sk_d:
        return None
    try:
        return 1, derive_ipsec_keys(keying, context.proposal, *sk_d[keying.ike_spis])  # case 1 and 2 are one here
    except CxtpError:
        return None


def _name(context: Context) -> str:
    if isinstance(context, IpsecSaContext):
        return f"the SA with SPI {context.inbound_spi:08x}"
    return str(context.spis) if isinstance(context, IkeSaContext) else context.name


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
