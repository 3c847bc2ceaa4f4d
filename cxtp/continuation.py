"""Contexts larger than a Context Data Block (our decision 2, docs/decisions.md).

A block holds at most 2,036 octets of data (2,032 with a presence vector).  What does not fit goes on in blocks
of the continuation type directly behind it, in the same message.  Every block but a context's last is full, so
that no padding ever stands inside a context.
"""

from __future__ import annotations

from collections.abc import Iterable

from .config import ContextTypes
from .constants import MAXIMUM_BLOCK
from .errors import MalformedMessage
from .messages import ContextBlock, EncodedContext

SECTION = "docs/decisions.md, 2"
_CONTINUATION_DATA = MAXIMUM_BLOCK - 4


def to_blocks(context: EncodedContext, context_types: ContextTypes = ContextTypes()) -> tuple[ContextBlock, ...]:
    """One context as a block and as many continuation blocks as it takes."""
    first = _CONTINUATION_DATA - (0 if context.presence_vector is None else 4)
    blocks = [ContextBlock(context.feature_profile_type, context.data[:first], context.presence_vector)]
    blocks += [
        ContextBlock(context_types.continuation, context.data[start : start + _CONTINUATION_DATA])
        for start in range(first, len(context.data), _CONTINUATION_DATA)
    ]
    return tuple(blocks)


def from_blocks(
    blocks: Iterable[ContextBlock], context_types: ContextTypes = ContextTypes()
) -> tuple[EncodedContext, ...]:
    """The contexts that a message's blocks carry, in their order; the last block's padding stays in.

    Raises MalformedMessage, its offset counted from the first block, where a continuation block follows nothing
    or a block that is not full, or has a presence vector.
    """
    contexts: list[EncodedContext] = []
    parts: list[bytes] = []
    head: ContextBlock | None = None
    offset = 0
    full = False

    def finish() -> None:
        if head is not None:
            contexts.append(EncodedContext(head.feature_profile_type, b"".join(parts), head.presence_vector))

    for index, block in enumerate(blocks):
        if block.feature_profile_type != context_types.continuation:
            finish()
            head, parts = block, [block.data]
        elif not full:
            reason = "continues nothing" if head is None else "continues a block that is not full"
            raise MalformedMessage(f"blocks[{index}].feature_profile_type", offset, SECTION, reason)
        elif block.presence_vector is not None:
            raise MalformedMessage(
                f"blocks[{index}].presence_vector", offset, SECTION, "a continuation block has none"
            )
        else:
            parts.append(block.data)
        full = len(block.data) + block.header_octets == MAXIMUM_BLOCK
        offset += block.length * 8
    finish()
    return tuple(contexts)
