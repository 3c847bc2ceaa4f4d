"""The contexts of a record, decoded once for all rules that look at them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Union

from contexts.base import Context, decode

from ..continuation import from_blocks
from ..errors import RemoteError
from ..messages import ContextTransferData, EncodedContext
from .records import Record
from .story import Case

REMEMBERED = 16
"""Records whose contexts are kept decoded (ours: rules look at one record and those just before it)."""

Decoded = tuple[tuple[EncodedContext, Union[Context, RemoteError]], ...]


def decoded(item: Record, case: Case) -> Decoded:
    """Each context of a CTD or PCTD, manifest and all, with what it says, or why it says nothing.

    None where its blocks are wrong: continuation blocks that continue nothing.
    """
    if not isinstance(item.message, ContextTransferData):
        return ()
    memory: OrderedDict[int, tuple[Record, Decoded]] = case.remember("contents", OrderedDict)
    known = memory.get(item.number)
    if known is not None and known[0] is item:
        return known[1]
    try:
        contexts = from_blocks(item.message.blocks, case.context_types)
    except RemoteError:
        contexts = ()
    found = tuple((context, _decode(context, case)) for context in contexts)
    memory[item.number] = (item, found)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
    return found


def contexts_of(item: Record, case: Case) -> tuple[EncodedContext, ...]:
    """The same, as octets."""
    return tuple(encoded for encoded, _ in decoded(item, case))


def is_replica(item: Record, case: Case) -> bool:
    """Whether data is a replica for a standby: its sender goes on using the session (docs/context-formats.md, 6.5)."""
    return any(context.feature_profile_type == case.context_types.replica for context in contexts_of(item, case))


def _decode(context: EncodedContext, case: Case) -> Context | RemoteError:
    try:
        return decode(context, case.context_types)
    except RemoteError as error:
        return error
