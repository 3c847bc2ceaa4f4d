"""Rules of our context formats (docs/context-formats.md, docs/decisions.md) and of RFC 4067, Appendix B."""

from __future__ import annotations

from collections.abc import Iterator

from contexts.base import Context, encode

from ...constants import FeatureProfileType, StatusCode
from ...continuation import from_blocks
from ...errors import MalformedContext, MissingParameter, RemoteError, UnsupportedAlgorithm
from ...manifest import TransferManifest, digest_of, split_receipt
from ...messages import ContextTransferData, ContextTransferDataReply, EncodedContext
from ..contents import contexts_of, decoded
from ..records import Record
from ..story import Case, Story, between
from ..verdicts import HOLDS, Fault, Group, Moment, Outcome
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.FORMATS)


def _ours(item: Record, case: Case) -> Iterator[tuple[EncodedContext, Context | RemoteError]]:
    types = case.context_types
    for context, what in decoded(item, case):
        if context.feature_profile_type in (types.ike_sa, types.ipsec_sa):
            yield context, what


def manifest_of(item: Record, case: Case) -> TransferManifest | None:
    """The manifest of a CTD or PCTD, if it has a good one."""
    for context in contexts_of(item, case)[:1]:
        if context.feature_profile_type == case.context_types.transfer_manifest:
            try:
                return TransferManifest.decode(context)
            except RemoteError:
                return None
    return None


@RULES.rule(
    "formats-continuation",
    "docs/decisions.md, 2",
    MUST,
    "pAR",
    "a continuation block follows a full block and has no presence vector",
    rows=("2.4-g",),
)
def continuation(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferData):
        return
    blocks = item.message.blocks
    if any(block.feature_profile_type == case.context_types.continuation for block in blocks):
        try:
            from_blocks(blocks, case.context_types)
        except RemoteError as error:
            yield Fault((item.number,), "full blocks, each continued by the next", str(error))
        else:
            yield HOLDS


@RULES.rule(
    "formats-version",
    "docs/context-formats.md, 2.1",
    MUST,
    "pAR",
    "the Format Version of an IKE_SA or IPsec_SA context is 1",
    rows=("2.3-b",),
)
def format_version(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for context, _ in _ours(item, case):
        if context.data:
            yield expect(context.data[0] == 1, item, "Format Version 1", f"{context.data[0]}")


@RULES.rule(
    "formats-parameters",
    "docs/context-formats.md, 2 to 4",
    MUST,
    "pAR",
    "header and parameters are whole, in order and within their lengths",
    rows=("2.3-b",),
)
def parameters(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for context, what in _ours(item, case):
        error = what if isinstance(what, RemoteError) else None
        other = isinstance(error, (MissingParameter, UnsupportedAlgorithm)) or "presence vector" in str(error)
        padding = isinstance(error, MalformedContext) and "padding" in f"{error.parameter} {error.reason}"
        if error is None:
            yield HOLDS
        elif not other and not padding and context.data[:1] == b"\1":
            yield Fault((item.number,), "a context as its format has it", str(error))


@RULES.rule(
    "formats-canonical",
    "docs/context-formats.md, 2.4",
    SHOULD,
    "pAR",
    "a context is sent in its canonical form: reserved bits 0, parameters in order",
)
def canonical(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for context, what in _ours(item, case):
        if isinstance(what, RemoteError):
            continue
        again = encode(what, case.context_types)
        told = int.from_bytes(context.data[4:8], "big")
        differing = [i for i, (a, b) in enumerate(zip(again.data, context.data[:told], strict=False)) if a != b]
        good = again.data == context.data[:told]
        yield expect(good, item, "canonical octets", f"others, from octet {differing[0] if differing else told} on")


@RULES.rule(
    "formats-manifest",
    "docs/context-formats.md, 6",
    MUST,
    "pAR",
    "a transfer manifest is well formed, and stands first",
)
def manifest(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for index, context in enumerate(contexts_of(item, case)):
        if context.feature_profile_type == case.context_types.transfer_manifest:
            try:
                TransferManifest.decode(context)
            except RemoteError as error:
                yield Fault((item.number,), "a manifest", str(error))
            else:
                yield expect(index == 0, item, "the manifest first", f"as context {index + 1}")


@RULES.rule(
    "formats-manifest-parts",
    "docs/context-formats.md, 6",
    MUST,
    "pAR",
    "the parts of one transfer say the same of it",
)
def manifest_parts(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    mine = manifest_of(item, case)
    if mine is None:
        return
    for other, _ in story.back(ContextTransferData):
        theirs = manifest_of(other, case) if between(other, item) else None
        if theirs is not None and theirs.transfer_id == mine.transfer_id:
            same = (theirs.parts, theirs.contexts, theirs.generation, theirs.digest)
            good = same == (mine.parts, mine.contexts, mine.generation, mine.digest)
            yield expect(good, item, f"what packet {other.number} says of the transfer", "something else", other)
            return


@RULES.rule(
    "formats-manifest-digest",
    "docs/context-formats.md, 6",
    MUST,
    "pAR",
    "number and digest of the manifest are those of the contexts",
)
def manifest_digest(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    mine = manifest_of(item, case)
    if mine is None:
        return
    parts = {mine.part: item}
    for other, _ in story.back(ContextTransferData):
        theirs = manifest_of(other, case) if between(other, item) else None
        if theirs is not None and theirs.transfer_id == mine.transfer_id:
            parts.setdefault(theirs.part, other)
    if len(parts) == mine.parts:
        whole = [c for _, part in sorted(parts.items()) for c in contexts_of(part, case)[1:]]
        others = [part for part in parts.values() if part is not item]
        good = len(whole) == mine.contexts
        yield expect(good, item, f"{mine.contexts} contexts", f"{len(whole)}", *others)
        if good:
            good = digest_of(whole, case.context_types) == mine.digest
            yield expect(good, item, "the digest of the contexts", "another digest", *others)


@RULES.rule(
    "formats-receipt",
    "docs/decisions.md, 15",
    MUST,
    "nAR",
    "a CTDR to data with a manifest names that transfer in its receipt",
)
def receipt(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not isinstance(item.message, ContextTransferDataReply):
        return
    transfers = []
    for other, _ in story.back(ContextTransferData):
        if between(other, item, back=True):
            found = manifest_of(other, case)
            if found is not None:
                transfers.append((other, found.transfer_id))
    named, _ = split_receipt(item.message.statuses, case.context_types)
    foreign = any(
        s.feature_profile_type == case.context_types.transfer_manifest
        and s.status == StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE
        for s in item.message.statuses
    )
    if transfers and not (named is None and foreign):
        seen = "no receipt" if named is None else f"one for {named:#010x}"
        good = named in {transfer for _, transfer in transfers}
        yield expect(good, item, f"a receipt for {transfers[0][1]:#010x}", seen, transfers[0][0])


@RULES.rule(
    "formats-own-types",
    "docs/context-formats.md, 4 and 5",
    MUST,
    "pAR",
    "IKE_SA and IPsec_SA contexts have a presence vector; manifest and continuation have none",
    moment=Moment.RECORD,
)
def own_types(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    types = case.context_types
    for context in contexts_of(item, case):
        kind = context.feature_profile_type
        if kind in (types.ike_sa, types.ipsec_sa):
            yield expect(context.presence_vector is not None, item, "P = 1", f"P = 0 for {kind:#06x}")
        elif kind == types.transfer_manifest:
            yield expect(context.presence_vector is None, item, "P = 0", f"P = 1 for {kind:#06x}")


@RULES.rule(
    "B-listener",
    "Appendix B",
    MUST,
    "pAR",
    "a multicast listener context is a subnet prefix of 8 octets and one IPv6 multicast address",
    rows=("B-a", "B-b"),
)
def listener(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    for context, what in decoded(item, case):
        if context.feature_profile_type != FeatureProfileType.IPV6_MULTICAST_LISTENER:
            continue
        if not isinstance(what, RemoteError):
            yield HOLDS
        elif not any(context.data[24:]) or len(context.data) < 24:
            yield Fault((item.number,), "24 octets, the last 16 a multicast address", str(what))
