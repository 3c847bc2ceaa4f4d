"""The transfer manifest: what makes a transfer of many messages whole, exact and told apart from others.

RFC 4067 lets a mobile node's contexts take several CTDs and does not say how the new router knows that it has
them all, nor which CTD a late CTDR answers.  So each CTD and PCTD of ours begins with one more context, of a
type of its own: which transfer this is, which part of how many, how many contexts and what digest the whole
has, and the session's generation, which grows with each change of owner.  A receiver that does not know the
type reports it in its CTDR like any unknown type, and nothing is lost but this certainty
(docs/context-formats.md, 6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from .compiled import Compiled
from .config import ContextTypes
from .constants import MAXIMUM_MESSAGE, StatusCode
from .continuation import to_blocks
from .errors import LocalError, MalformedContext
from .messages import ContextBlock, ContextStatus, EncodedContext

SECTION = "docs/context-formats.md, 6"
DIGEST_OCTETS = 16
RECEIPT_RECORDS = 4
FORMAT = 1

#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +---------------+---------------+-------------------------------+
# | Format = 1    |   Reserved    |             Part              |
# +---------------+---------------+-------------------------------+
# |             Parts             |           Reserved            |
# +-------------------------------+-------------------------------+
# |                      Transfer Identifier                      |
# +---------------------------------------------------------------+
# |                           Contexts                            |
# +---------------------------------------------------------------+
# |                     Generation (64 bits)                      |
# +---------------------------------------------------------------+
# |                       Digest (128 bits)                       |
# +---------------------------------------------------------------+
_MANIFEST = Compiled(
    Struct(
        "format" / Int8ub,
        "reserved" / Int8ub,
        "part" / Int16ub,
        "parts" / Int16ub,
        "reserved2" / Int16ub,
        "transfer_identifier" / Int32ub,
        "contexts" / Int32ub,
        "generation" / Int64ub,
        "digest" / Bytes(DIGEST_OCTETS),
    )
)
_OCTETS = _MANIFEST.format.sizeof()


@dataclass(frozen=True, kw_only=True)
class TransferManifest:
    """One CTD's place in its transfer.

    ``part`` counts from 0 to ``parts`` - 1; ``contexts`` is how many the whole transfer has, without manifests;
    ``digest`` is :func:`digest_of` of them all in their order.
    """

    transfer_id: int
    generation: int
    part: int
    parts: int
    contexts: int
    digest: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts <= 0xFFFF:
            raise LocalError(f"part {self.part} of {self.parts} is no part of a transfer")
        for name, bits in (("transfer_id", 32), ("contexts", 32), ("generation", 64)):
            if not 0 <= getattr(self, name) < 1 << bits:
                raise LocalError(f"a manifest's {name} must be an integer of {bits} bits, not {getattr(self, name)!r}")
        if len(self.digest) != DIGEST_OCTETS:
            raise LocalError(f"a manifest's digest has {DIGEST_OCTETS} octets, not {len(self.digest)}")

    def encode(self, context_types: ContextTypes = ContextTypes()) -> EncodedContext:
        """As the context that stands first in a CTD."""
        data = _MANIFEST.build(
            {
                "format": FORMAT,
                "reserved": 0,
                "part": self.part,
                "parts": self.parts,
                "reserved2": 0,
                "transfer_identifier": self.transfer_id,
                "contexts": self.contexts,
                "generation": self.generation,
                "digest": self.digest,
            }
        )
        return EncodedContext(context_types.transfer_manifest, data)

    @classmethod
    def decode(cls, context: EncodedContext) -> TransferManifest:
        """Raises MalformedContext.  Octets behind the manifest must be the block's zero padding."""
        if context.presence_vector is not None:
            raise _malformed("presence vector", 0, "a manifest has none")
        if context.data and context.data[0] != FORMAT:
            status = StatusCode.UNSUPPORTED_PARAMETER
            raise _malformed("format", 0, f"{context.data[0]}; only format {FORMAT} is known", status)
        if len(context.data) < _OCTETS:
            raise _malformed("length", len(context.data), f"{len(context.data)} octets; a manifest has {_OCTETS}")
        if any(context.data[_OCTETS:]) or len(context.data) >= _OCTETS + 8:
            raise _malformed("padding", _OCTETS, "octets behind the manifest are not its padding")
        fields = _MANIFEST.parse(context.data)
        if not fields["part"] < fields["parts"]:
            raise _malformed("part", 2, f"part {fields['part']} of {fields['parts']}")
        return cls(
            transfer_id=fields["transfer_identifier"],
            generation=fields["generation"],
            part=fields["part"],
            parts=fields["parts"],
            contexts=fields["contexts"],
            digest=fields["digest"],
        )


def _malformed(
    parameter: str, offset: int, reason: str, status: StatusCode = StatusCode.MALFORMED
) -> MalformedContext:
    return MalformedContext("transfer manifest", parameter, offset, reason, status=status, section=SECTION)


def digest_of(contexts: Iterable[EncodedContext], context_types: ContextTypes = ContextTypes()) -> bytes:
    """The first 128 bits of SHA-256 over the blocks that carry these contexts, as they stand on the wire.

    Taken over padded blocks, so that sender (who knows the true lengths) and receiver (who does not) agree.
    """
    digest = hashlib.sha256()
    for context in contexts:
        for block in to_blocks(context, context_types):
            padded = block.padded
            vector = b"" if padded.presence_vector is None else padded.presence_vector.to_bytes(4, "big")
            flags = 0 if padded.presence_vector is None else 0x80
            head = padded.feature_profile_type.to_bytes(2, "big") + bytes((padded.length, flags))
            digest.update(head + vector + padded.data)
    return digest.digest()[:DIGEST_OCTETS]


def plan_parts(
    contexts: Sequence[EncodedContext],
    *,
    transfer_id: int,
    generation: int,
    octets: int = MAXIMUM_MESSAGE,
    overhead: int = 64,
    context_types: ContextTypes = ContextTypes(),
) -> tuple[tuple[ContextBlock, ...], ...]:
    """The blocks of each CTD of a transfer, manifest first, none above ``octets`` with ``overhead`` for its header.

    ``overhead`` covers the CTD's own fields (28 octets at most); add a PCTD's key.  A context is never torn
    between two messages: raises LocalError for one that fits none, and for one whose type is the manifest's or the
    continuation's, which would be read as something else.
    """
    manifest_octets = (4 + _OCTETS + 7) // 8 * 8
    room = octets - overhead - manifest_octets
    if room < 0:
        raise LocalError(f"a message of {octets} octets has no room for a manifest")
    groups: list[list[ContextBlock]] = [[]]
    used = 0
    for context in contexts:
        if context.feature_profile_type in (context_types.transfer_manifest, context_types.continuation):
            raise LocalError(f"{context.feature_profile_type:#06x} is no context's type")
        blocks = to_blocks(context, context_types)
        size = sum(block.length * 8 for block in blocks)
        if size > room:
            raise LocalError(
                f"a context of type {context.feature_profile_type:#06x} takes {size} octets; one message holds {room}"
            )
        if used + size > room:
            groups.append([])
            used = 0
        groups[-1].extend(blocks)
        used += size
    if len(groups) > 0xFFFF:
        raise LocalError(f"the transfer takes {len(groups)} messages, more than a manifest can number")
    digest = digest_of(contexts, context_types)
    return tuple(
        (
            *to_blocks(
                TransferManifest(
                    transfer_id=transfer_id,
                    generation=generation,
                    part=part,
                    parts=len(groups),
                    contexts=len(contexts),
                    digest=digest,
                ).encode(context_types),
                context_types,
            ),
            *group,
        )
        for part, group in enumerate(groups)
    )


def receipt(transfer_id: int, context_types: ContextTypes = ContextTypes()) -> tuple[ContextStatus, ...]:
    """The records by which a CTDR says which transfer it answers: four of the manifest's type, whose Status
    octets are the transfer identifier, high octet first.  Only for a peer whose CTD had a manifest."""
    return tuple(
        ContextStatus(context_types.transfer_manifest, octet) for octet in transfer_id.to_bytes(RECEIPT_RECORDS, "big")
    )


def split_receipt(
    statuses: Iterable[ContextStatus], context_types: ContextTypes = ContextTypes()
) -> tuple[int | None, tuple[ContextStatus, ...]]:
    """A CTDR's receipt (None where it has none) and its other statuses.

    One lone record of the manifest's type is a foreign router's "unknown type", not a receipt.
    """
    records = [s for s in statuses if s.feature_profile_type == context_types.transfer_manifest]
    others = tuple(s for s in statuses if s.feature_profile_type != context_types.transfer_manifest)
    if len(records) == RECEIPT_RECORDS:
        return int.from_bytes(bytes(s.status for s in records), "big"), others
    unknown = [s for s in records if s.status != StatusCode.SUCCESS]
    return None, (*others, *unknown)
