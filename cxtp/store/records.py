"""What a store keeps of one session, and its octets: a value that is complete in itself."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from ..errors import LocalError, StoreError
from ..messages import EncodedContext, IPAddress

GENERATION_BITS = 64
TRANSFER_ID_BITS = 64
MAXIMUM_PEER = 255
"""Octets of a peer's name in UTF-8."""

MAXIMUM_CONTEXTS = 65_536
"""Contexts of one session."""

MAXIMUM_CONTEXT_OCTETS = 64 * 1024 * 1024
"""Octets of all contexts of one session, well above what one transfer may bring (Limits.octets_per_transfer)."""


class SessionState(str, Enum):
    """Who has the session, as this node knows it."""

    OWNED = "owned"
    """This node has it and sends with it."""
    FROZEN = "frozen"
    """A transfer out is under way or unconfirmed: this node must not send with it, and must not forget it."""
    STANDBY = "standby"
    """A replica that was sent ahead; another node has the session."""
    REPLICA = "replica"
    """A copy of a session that another node has in use: to be taken over on an operator's word, should that be gone."""
    RELEASED = "released"
    """A tombstone: given away and confirmed, or refused and never had."""


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """One session, known by its mobile node's (outer) address.

    ``generation`` grows with every change of owner (64 bits); ``peer`` names the node on the other side of the
    last transfer, ``transfer_id`` that transfer (64 bits, None: none yet); ``updated`` is in Unix seconds.
    ``refused_generation``: transfers in up to this one were refused and are not to be taken any more (64 bits).
    ``standby`` names the node that has a replica of what is OWNED here, and has to confirm every ceiling.
    Raises :class:`LocalError` for values out of range.
    """

    mn_address: IPAddress
    state: SessionState
    generation: int
    contexts: tuple[EncodedContext, ...] = ()
    peer: str = ""
    transfer_id: int | None = None
    updated: float
    refused_generation: int = 0
    standby: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.mn_address, (IPv4Address, IPv6Address)):
            raise LocalError("SessionRecord.mn_address must be an IPv4 or IPv6 address")
        if getattr(self.mn_address, "scope_id", None):
            raise LocalError("SessionRecord.mn_address has a zone: CXTP's address fields have none")
        if not isinstance(self.state, SessionState):
            raise LocalError("SessionRecord.state must be a SessionState")
        _check_bits("generation", self.generation, GENERATION_BITS)
        _check_bits("refused_generation", self.refused_generation, GENERATION_BITS)
        if self.transfer_id is not None:
            _check_bits("transfer_id", self.transfer_id, TRANSFER_ID_BITS)
        if isinstance(self.updated, bool) or not isinstance(self.updated, (int, float)):
            raise LocalError("SessionRecord.updated must be a number of seconds")
        if not (math.isfinite(self.updated) and self.updated >= 0):
            raise LocalError("SessionRecord.updated must be finite and not negative")
        _check_name("peer", self.peer)
        _check_name("standby", self.standby)
        if len(self.contexts) > MAXIMUM_CONTEXTS:
            raise LocalError(f"SessionRecord has more than {MAXIMUM_CONTEXTS} contexts")
        if sum(len(context.data) for context in self.contexts) > MAXIMUM_CONTEXT_OCTETS:
            raise LocalError(f"SessionRecord has contexts of more than {MAXIMUM_CONTEXT_OCTETS} octets")


def _check_bits(name: str, value: object, bits: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise LocalError(f"SessionRecord.{name} must be an integer of {bits} bits")


def _check_name(field: str, peer: str) -> None:
    try:
        octets = peer.encode("utf-8")
    except (AttributeError, UnicodeEncodeError):
        raise LocalError(f"SessionRecord.{field} must be text") from None
    if len(octets) > MAXIMUM_PEER or b"\0" in octets:
        raise LocalError(f"SessionRecord.{field} must be text of at most {MAXIMUM_PEER} octets without NUL")


_COUNT = struct.Struct(">I")
_HEADER = struct.Struct(">HBII")
"""Of one context: feature profile type 16, presence vector follows (0 or 1) 8, presence vector 32, length 32."""


def encode_contexts(contexts: tuple[EncodedContext, ...]) -> bytes:
    """Count 32, then each context's header and data."""
    parts = [_COUNT.pack(len(contexts))]
    for context in contexts:
        vector = context.presence_vector
        parts.append(_HEADER.pack(context.feature_profile_type, vector is not None, vector or 0, len(context.data)))
        parts.append(context.data)
    return b"".join(parts)


def decode_contexts(octets: bytes) -> tuple[EncodedContext, ...]:
    """The other way; :class:`StoreError` for octets that :func:`encode_contexts` did not make."""
    contexts = []
    try:
        (count,) = _COUNT.unpack_from(octets)
        offset = _COUNT.size
        for _ in range(count):
            profile, has_vector, vector, length = _HEADER.unpack_from(octets, offset)
            offset += _HEADER.size
            data = octets[offset : offset + length]
            if len(data) != length or has_vector > 1:
                raise StoreError("a stored record's contexts are damaged")
            contexts.append(EncodedContext(profile, data, vector if has_vector else None))
            offset += length
    except struct.error:
        raise StoreError("a stored record's contexts are cut short") from None
    if offset != len(octets):
        raise StoreError("a stored record has octets behind its contexts")
    return tuple(contexts)
