"""What a new router checks of contexts before it stores them: parse, then validate; no effects.

Each context gets a status.  One that can't be used refuses the whole transfer, for a session without its keys
or one of its SAs is a lost session; a context of a type that is not known here is kept as it came, reported, and
passed on with the session later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from contexts.base import Context, GenericContext, decode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import KeymatDerivation

from .config import ContextTypes
from .constants import StatusCode
from .errors import RemoteError
from .messages import ContextStatus, EncodedContext, IPAddress
from .store.records import SessionRecord, SessionState

SpiKey = tuple[IPAddress, int]
"""An inbound SPI together with the local address that it is unique for (RFC 4301, 4.1)."""


@dataclass(frozen=True)
class Verdict:
    """``accepted``: store it and say S=1.  ``statuses``: what the CTDR lists.  ``reasons``: for log and operator."""

    accepted: bool
    statuses: tuple[ContextStatus, ...] = ()
    reasons: tuple[str, ...] = ()
    contexts: tuple[Context, ...] = field(default=(), repr=False)


def inbound_spis(contexts: Iterable[Context]) -> frozenset[SpiKey]:
    """The SPIs that the session's IPsec_SAs receive on."""
    return frozenset(
        (context.local_host.address, context.inbound_spi) for context in contexts if isinstance(context, IpsecSaContext)
    )


class Standing(Enum):
    """How a transfer stands to what this node knows of the session."""

    NEW = "a change of owner that this node has not seen"
    HAD = "the transfer by which this node has the session: its answer was lost"
    STALE = "older than what this node knows"
    REFUSED = "newer than what this node had, and refused: before, or since it is in use here"


def stand(held: SessionRecord | None, generation: int | None, transfer_id: int | None, *, predictive: bool) -> Standing:
    """Whether a transfer is newer than what this node knows of the session (docs/safety.md).

    ``generation`` and ``transfer_id`` are None from a router that sends no manifest.
    """
    if held is None:
        return Standing.NEW
    if held.state is SessionState.OWNED and transfer_id is not None and held.transfer_id == transfer_id:
        return Standing.HAD  # also where it was sent ahead, and activated since
    if generation is None and held.state in (SessionState.OWNED, SessionState.FROZEN):
        return Standing.STALE
    again = held.state is SessionState.STANDBY and generation == held.generation
    if generation is None or again:
        return Standing.NEW
    if generation <= held.generation:
        return Standing.STALE
    # Nobody can send ahead what is in use here.  What is frozen here, and has a newer owner, was had by our peer.
    in_use = predictive and held.state is SessionState.OWNED
    return Standing.REFUSED if in_use or generation <= held.refused_generation else Standing.NEW


def examine(
    mn_address: IPAddress,
    encoded: Sequence[EncodedContext],
    owners: Mapping[SpiKey, IPAddress],
    context_types: ContextTypes = ContextTypes(),
) -> Verdict:
    """Decode all contexts and look for what would make the session unusable here.

    ``owners`` maps the inbound SPIs in use here to the mobile node whose session has them.
    """
    statuses: list[ContextStatus] = []
    reasons: list[str] = []
    contexts: list[Context] = []
    accepted = True
    for item in encoded:
        try:
            context = decode(item, context_types)
        except RemoteError as error:
            accepted = False
            statuses.append(ContextStatus(item.feature_profile_type, error.status))
            reasons.append(str(error))
            continue
        contexts.append(context)
        if isinstance(context, GenericContext):
            statuses.append(
                ContextStatus(item.feature_profile_type, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE)
            )
            reasons.append(f"context type {item.feature_profile_type:#06x} is not known here; kept as it came")
    for status, reason in (*_collisions(mn_address, contexts, owners), *_dangling(contexts)):
        accepted = False
        statuses.append(ContextStatus(context_types.ipsec_sa, status))
        reasons.append(reason)
    return Verdict(accepted, tuple(dict.fromkeys(statuses)), tuple(reasons), tuple(contexts))


def _collisions(
    mn_address: IPAddress, contexts: Iterable[Context], owners: Mapping[SpiKey, IPAddress]
) -> Iterator[tuple[StatusCode, str]]:
    for address, spi in sorted(inbound_spis(contexts), key=str):
        owner = owners.get((address, spi))
        if owner is not None and owner != mn_address:
            yield StatusCode.SPI_COLLISION, f"inbound SPI {spi:08x} is in use here by {owner}"


def _dangling(contexts: Sequence[Context]) -> Iterator[tuple[StatusCode, str]]:
    """KEYMAT that is to be derived needs the SK_d of an IKE_SA that came along."""
    known = {context.spis for context in contexts if isinstance(context, IkeSaContext)}
    for context in contexts:
        if isinstance(context, IpsecSaContext) and isinstance(context.keying, KeymatDerivation):
            spis = context.keying.ike_spis
            if spis not in known:
                reason = f"IPsec_SA {context.inbound_spi:08x} derives its keys from IKE_SA {spis}, which was not sent"
                yield StatusCode.NO_SUCH_CONTEXT, reason
