"""The fence on sequence numbers: above which number a sender that may have forgotten the last ones goes on.

A node writes down a number that lies ahead of what it sends, and sends no further (docs/safety.md): whoever goes on
from what is written uses no (key, sequence number) pair twice (RFC 4303, 2.2 and 3.3.3), whatever was sent since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .base import Context
from .ipsec import IpsecSaContext
from .values import IpsecProposal


def highest_sequence_number(proposal: IpsecProposal) -> int:
    """2^64 - 1 with Extended Sequence Numbers, else 2^32 - 1 (RFC 4303, 2.2.1)."""
    return (1 << (64 if proposal.extended_sequence_numbers else 32)) - 1


def is_spent(context: IpsecSaContext) -> bool:
    """Whether it sends nothing more: the numbers are used up, or its outbound half is gone after a rekeying, and only
    what the peer had sent under it may still come (docs/context-formats.md, 4.3.1)."""
    return context.sequence_numbers.outbound >= highest_sequence_number(context.proposal)


def receiving_only(context: IpsecSaContext) -> IpsecSaContext:
    """The SA without its outbound half: at the end of its numbers, whoever has it sends nothing with it."""
    outbound = highest_sequence_number(context.proposal)
    return replace(context, sequence_numbers=replace(context.sequence_numbers, outbound=outbound))


def fenced(contexts: Iterable[Context], reserve: int) -> tuple[Context, ...]:
    """The contexts with each SA's outbound sequence number ``reserve`` further on, or at the end of its space.

    An SA that stands there sends nothing more: it is to be rekeyed.
    """
    return tuple(_fenced(context, reserve) if isinstance(context, IpsecSaContext) else context for context in contexts)


def is_at_least(contexts: Iterable[Context], others: Iterable[Context]) -> bool:
    """Whether no SA of ``others`` has a higher outbound sequence number than in ``contexts``, or is not there."""
    numbers = {c.inbound_spi: c.sequence_numbers.outbound for c in contexts if isinstance(c, IpsecSaContext)}
    return all(
        numbers.get(other.inbound_spi, -1) >= other.sequence_numbers.outbound
        for other in others
        if isinstance(other, IpsecSaContext)
    )


def _fenced(context: IpsecSaContext, reserve: int) -> IpsecSaContext:
    numbers = context.sequence_numbers
    outbound = min(numbers.outbound + reserve, highest_sequence_number(context.proposal))
    return replace(context, sequence_numbers=replace(numbers, outbound=outbound))
