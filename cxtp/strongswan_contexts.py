"""What strongSwan's ``ha`` messages and the kernel tell of one session, joined.  Pure.

``ha`` knows names, identities and how the keys came about; the kernel knows sequence numbers, windows, lifetimes and
the keys themselves, and has the last word on these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from contexts.values import (
    AntiReplayWindow,
    CounterKnowledge,
    HostAddress,
    IpsecKeys,
    IpsecLifetime,
    ProcessingUnit,
    SequenceNumbers,
)

from .adapters.xfrm.replay import Numbers, numbers_of
from .adapters.xfrm.values import SecurityAssociation, SecurityAssociationId
from .errors import CxtpError
from .kernel_contexts import inbound_id, outbound_id
from .kernel_learning import context_lifetime, keys_of

Found = Mapping[SecurityAssociationId, SecurityAssociation]


def identifiers(context: IpsecSaContext) -> tuple[SecurityAssociationId, SecurityAssociationId]:
    """Its outbound and its inbound SA."""
    return outbound_id(context), inbound_id(context)


def joined(
    told: Sequence[Context], kernel: Found, held: Iterable[Context], now: float, *, exact: bool
) -> tuple[Context, ...]:
    """The session's contexts: IKE_SAs first, then the CHILD_SAs that the kernel has.

    ``told`` is what the daemon's messages say, ``held`` what is on record: its limits and keys stay where they are
    known.  ``exact``: nothing can be sent any more, and ``kernel`` is what the kernel told in the end; a CHILD_SA that
    it did not tell of is as it is on record, at its ceiling.
    """
    known = {context.inbound_spi: context for context in held if isinstance(context, IpsecSaContext)}
    found: list[Context] = [context for context in told if isinstance(context, IkeSaContext)]
    restored: RestoredSession | None = None
    for context in told:
        if not isinstance(context, IpsecSaContext):
            continue
        out, back = (kernel.get(identifier) for identifier in identifiers(context))
        before = known.get(context.inbound_spi)
        if before is not None and before.outbound_spi != context.outbound_spi:
            before = None
        if out is None or back is None:
            found += [before] if exact and before is not None else []
            continue
        if before is not None:
            keying = before.keying if isinstance(before.keying, IpsecKeys) else context.keying
            limits = before.lifetime
        else:
            restored = restored or _restored(told)
            true = IpsecKeys(*keys_of(back), *keys_of(out))
            keying = context.keying if _derives(restored, context, true) else true
            limits = context_lifetime(out, now)
        context = replace(context, keying=keying)
        found.append(with_numbers(context, out, back, limits, now, exact=exact))
    return tuple(found)


def _restored(told: Sequence[Context]) -> RestoredSession | None:
    known = [context for context in told if isinstance(context, (IkeSaContext, IpsecSaContext))]
    try:
        return RestoredSession.restore(known)
    except CxtpError:  # one that can't be derived keeps the others from it: the kernel has all keys
        return None


def _derives(restored: RestoredSession | None, context: IpsecSaContext, true: IpsecKeys) -> bool:
    """Whether the messages lead to the keys that the kernel has: one that was lost may have changed them."""
    if restored is None:
        return False
    try:
        keys = restored.ipsec_keys(context.inbound_spi)
    except CxtpError:
        return False
    return (
        keys.inbound_encryption == true.inbound_encryption
        and keys.outbound_encryption == true.outbound_encryption
        and keys.inbound_integrity == true.inbound_integrity
        and keys.outbound_integrity == true.outbound_integrity
    )


def with_numbers(
    context: IpsecSaContext,
    out: SecurityAssociation,
    back: SecurityAssociation,
    limits: IpsecLifetime,
    now: float,
    *,
    exact: bool,
) -> IpsecSaContext:
    """The context with what the kernel counts; ``limits`` are the SA's own, which the kernel's packet limit is not."""
    sending, receiving, used = numbers_of(out), numbers_of(back), context_lifetime(out, now)
    unit = context.processing_unit or ProcessingUnit()
    mark = out.mark
    return replace(
        context,
        local_host=_host(context.local_host, out, source=True),
        remote_host=_host(context.remote_host, out, source=False),
        sequence_numbers=SequenceNumbers(
            sending.outbound,
            receiving.inbound,
            knowledge=CounterKnowledge.EXACT if exact else CounterKnowledge.AT_LEAST,
        ),
        window=AntiReplayWindow(receiving.window, receiving.bitmap),
        lifetime=IpsecLifetime(
            replace(limits.seconds, used=used.seconds.used),
            replace(limits.octets, used=used.octets.used),
            replace(limits.packets, used=used.packets.used),
        ),
        processing_unit=replace(
            unit,
            reqid=out.request_id,
            mark=None if mark is None else mark.value,
            mark_mask=None if mark is None else mark.mask,
            if_id=out.interface_id,
        ),
    )


def _host(host: HostAddress, out: SecurityAssociation, *, source: bool) -> HostAddress:
    if out.encapsulation is None:
        return HostAddress(host.address)
    ports = out.encapsulation
    return HostAddress(host.address, ports.source_port if source else ports.destination_port)


def never_lower(wanted: SecurityAssociation, there: SecurityAssociation, known_window: int) -> Numbers:
    """The numbers to set at an SA that a daemon made: those of ``wanted``, unless it has higher ones by now.

    In the form and window of ``there``, which are the kernel's to keep.  What lies below the ``known_window`` packets
    that the context tells of counts as received: it may have been.
    """
    ours, theirs = numbers_of(wanted), numbers_of(there)
    inbound = max(ours.inbound, theirs.inbound)
    # What lies further back than the window is of no account, however far it is.
    behind = [min(inbound - numbers.inbound, theirs.window) for numbers in (ours, theirs)]
    bitmap = (ours.bitmap | (-1 << known_window)) << behind[0] | theirs.bitmap << behind[1]
    bitmap &= (1 << min(theirs.window, inbound)) - 1  # there is no number below 1
    return Numbers(max(ours.outbound, theirs.outbound), inbound, theirs.window, bitmap, theirs.extended)


def children_of(contexts: Sequence[Context]) -> list[IpsecSaContext]:
    """The IPsec_SA contexts."""
    return [context for context in contexts if isinstance(context, IpsecSaContext)]


def ike_sas_of(contexts: Sequence[Context]) -> list[IkeSaContext]:
    """The IKE_SA contexts."""
    return [context for context in contexts if isinstance(context, IkeSaContext)]
