"""The replica context: says of a PCTD's contexts that their sender goes on using the session.

It is one more context, the first after the manifest (docs/context-formats.md, 6.5).  A router that does not know it
keeps the session for its mobile node, as with any PCTD (RFC 4067, 2.5.3), and nobody has the key that would prove that.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from construct import Const, ConstructError, Int8ub, Int16ub, Struct

from .config import ContextTypes
from .constants import StatusCode
from .errors import MalformedContext
from .messages import EncodedContext

SECTION = "docs/context-formats.md, 6.5"
FORMAT = 1

#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +---------------+---------------+-------------------------------+
# | Format = 1    |     Kind      |           Reserved            |
# +---------------+---------------+-------------------------------+
_REPLICA = Struct("format" / Const(FORMAT, Int8ub), "kind" / Int8ub, "reserved" / Int16ub)
_OCTETS = _REPLICA.sizeof()


class ReplicaKind(IntEnum):
    """What the receiver is to do with it."""

    KEEP = 1
    """Keep the contexts; their outbound sequence numbers are what the sender will not pass before the next is
    confirmed."""
    FORGET = 2
    """The session is about to move elsewhere: never take it over from what was kept."""


def build_replica(kind: ReplicaKind, context_types: ContextTypes = ContextTypes()) -> EncodedContext:
    """The context."""
    return EncodedContext(context_types.replica, bytes(_REPLICA.build({"kind": kind, "reserved": 0})))


def find_replica(
    contexts: Sequence[EncodedContext], context_types: ContextTypes = ContextTypes()
) -> tuple[ReplicaKind, tuple[EncodedContext, ...]] | None:
    """The kind and the other contexts; None where the contexts are no replica.  Raises MalformedContext."""
    found = [context for context in contexts if context.feature_profile_type == context_types.replica]
    if not found:
        return None
    others = tuple(context for context in contexts if context.feature_profile_type != context_types.replica)
    try:
        box = _REPLICA.parse(found[0].data[:_OCTETS])
        kind = ReplicaKind(box.kind)
    except (ConstructError, ValueError):
        raise MalformedContext(
            "replica", "kind", 0, "not known", status=StatusCode.UNSUPPORTED_PARAMETER, section=SECTION
        ) from None
    return kind, others
