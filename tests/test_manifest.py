"""The transfer manifest and its receipt: by hand, cut, flipped, and planned into real messages."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import MN6, REPRODUCIBLE, encoded_contexts, unsigned

from cxtp.config import ContextTypes
from cxtp.constants import StatusCode
from cxtp.continuation import from_blocks
from cxtp.errors import LocalError, MalformedContext
from cxtp.manifest import TransferManifest, digest_of, plan_parts, receipt, split_receipt
from cxtp.messages import (
    ContextBlock,
    ContextStatus,
    ContextTransferData,
    EncodedContext,
    PredictiveContextTransferData,
)
from cxtp.wire import build, build_blocks, parse

DOCUMENT = Path(__file__).parent.parent / "docs" / "context-formats.md"

MANIFEST = TransferManifest(
    transfer_id=0x01020304,
    generation=0x1122334455667788,
    part=1,
    parts=3,
    contexts=5,
    digest=bytes.fromhex("000102030405060708090a0b0c0d0e0f"),
)

# By hand from the box in docs/context-formats.md, 6.1.
ENCODED = bytes.fromhex(
    "01"  # Format 1
    "00"  # Reserved
    "0001"  # Part 1, the second
    "0003"  # Parts 3
    "0000"  # Reserved
    "01020304"  # Transfer Identifier
    "00000005"  # Contexts 5
    "1122334455667788"  # Generation
    "000102030405060708090a0b0c0d0e0f"  # Digest
)


def malformed(data: bytes, presence_vector: int | None = None) -> MalformedContext:
    with pytest.raises(MalformedContext) as caught:
        TransferManifest.decode(EncodedContext(0xFF03, data, presence_vector))
    assert caught.value.context == "transfer manifest"
    assert caught.value.section == "docs/context-formats.md, 6"
    assert caught.value.status == (0x0B if caught.value.parameter == "format" else 0x03)
    return caught.value


def examples_of_the_document() -> list[bytes]:
    """The worked examples in docs/context-formats.md, 6.4: octets, and behind a semicolon what they are."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("### 6.4. Worked example")[2].partition("\n## ")[0]
    blocks = [part.partition("```")[0] for part in section.split("```hex\n")[1:]]
    return [bytes.fromhex("".join(line.partition(";")[0] for line in block.splitlines())) for block in blocks]


# --- the box ----------------------------------------------------------------------------------------------------


def test_by_hand_in_both_directions() -> None:
    assert MANIFEST.encode() == EncodedContext(0xFF03, ENCODED)
    assert TransferManifest.decode(EncodedContext(0xFF03, ENCODED)) == MANIFEST
    assert MANIFEST.encode(ContextTypes(transfer_manifest=0x7003)).feature_profile_type == 0x7003


def test_the_documents_example() -> None:
    block, records = examples_of_the_document()
    assert block == bytes.fromhex("ff030600") + ENCODED + bytes(4)
    assert block == build_blocks([ContextBlock(0xFF03, MANIFEST.encode().data)])
    assert records == build_blocks(receipt(MANIFEST.transfer_id))


def test_as_a_block() -> None:
    # 4 octets of header and 40 of manifest make 6 words of 8 octets, 4 of them padding.
    block = ContextBlock(0xFF03, ENCODED)
    assert build_blocks([block]) == bytes.fromhex("ff030600") + ENCODED + bytes(4)
    assert TransferManifest.decode(EncodedContext(0xFF03, block.padded.data)) == MANIFEST


@REPRODUCIBLE
@given(unsigned(32), unsigned(64), unsigned(16), unsigned(16), unsigned(32), st.binary(min_size=16, max_size=16))
def test_encode_then_decode(
    transfer_id: int, generation: int, part: int, more: int, contexts: int, digest: bytes
) -> None:
    parts = min(part + 1 + more, 0xFFFF)
    manifest = TransferManifest(
        transfer_id=transfer_id,
        generation=generation,
        part=min(part, parts - 1),
        parts=parts,
        contexts=contexts,
        digest=digest,
    )
    assert TransferManifest.decode(manifest.encode()) == manifest


def test_cut_at_every_length() -> None:
    for count in range(40):
        assert (malformed(ENCODED[:count]).parameter, malformed(ENCODED[:count]).offset) == ("length", count)


def test_behind_the_manifest_stands_padding_alone() -> None:
    for count in range(8):
        assert TransferManifest.decode(EncodedContext(0xFF03, ENCODED + bytes(count))) == MANIFEST
    for data in (ENCODED + bytes(8), ENCODED + b"\x01", ENCODED + bytes(3) + b"\x80"):
        assert malformed(data).parameter == "padding"


@pytest.mark.parametrize(
    ("data", "parameter", "offset"),
    [
        (b"\x00" + ENCODED[1:], "format", 0),
        (b"\x02" + ENCODED[1:], "format", 0),
        (ENCODED[:2] + b"\x00\x03" + ENCODED[4:], "part", 2),
        (ENCODED[:2] + b"\xff\xff\xff\xff" + ENCODED[6:], "part", 2),
        (ENCODED[:2] + bytes(4) + ENCODED[6:], "part", 2),
    ],
)
def test_the_error_names_parameter_and_offset(data: bytes, parameter: str, offset: int) -> None:
    assert (malformed(data).parameter, malformed(data).offset) == (parameter, offset)


def test_a_manifest_has_no_presence_vector() -> None:
    assert malformed(ENCODED, 0).parameter == "presence vector"


def test_reserved_bits_are_ignored() -> None:
    octets = bytearray(ENCODED)
    octets[1], octets[6], octets[7] = 0xFF, 0xFF, 0xFF
    assert TransferManifest.decode(EncodedContext(0xFF03, bytes(octets))) == MANIFEST


@REPRODUCIBLE
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda octets: b"\x01" + octets), st.none() | unsigned(32))
def test_any_octets_give_a_manifest_or_the_typed_error(data: bytes, vector: int | None) -> None:
    try:
        manifest = TransferManifest.decode(EncodedContext(0xFF03, data, vector))
    except MalformedContext:
        return
    kept = manifest.encode().data
    assert kept[2:6] + kept[8:] == data[2:6] + data[8:40]


def test_each_single_bit_flipped() -> None:
    for bit in range(len(ENCODED) * 8):
        flipped = bytearray(ENCODED)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        reserved = bit // 8 in (1, 6, 7)
        try:
            manifest = TransferManifest.decode(EncodedContext(0xFF03, bytes(flipped)))
        except MalformedContext:
            assert bit // 8 in (0, 2, 3, 4, 5)
        else:
            assert (manifest == MANIFEST) == reserved


@pytest.mark.parametrize(
    "wrong",
    [
        {"part": 3},
        {"part": -1},
        {"parts": 0},
        {"parts": 0x10000},
        {"digest": bytes(15)},
        {"digest": bytes(17)},
        {"transfer_id": 1 << 32},
        {"transfer_id": -1},
        {"contexts": 1 << 32},
        {"generation": 1 << 64},
        {"generation": -1},
    ],
)
def test_values_that_no_box_holds(wrong: dict[str, int]) -> None:
    with pytest.raises(LocalError):
        replace(MANIFEST, **wrong)  # type: ignore[arg-type]


# --- the digest -------------------------------------------------------------------------------------------------


def test_digest_by_hand() -> None:
    contexts = [EncodedContext(0xFF01, b"\x01\x02\x03"), EncodedContext(0xFF02, b"\x01\x02\x03\x04\x05", 3)]
    octets = bytes.fromhex("ff01 01 00 01020300" "ff02 02 80 00000003 0102030405000000")
    assert digest_of(contexts) == hashlib.sha256(octets).digest()[:16]
    assert digest_of([]) == hashlib.sha256(b"").digest()[:16]


def test_digest_of_a_continued_context() -> None:
    octets = bytes.fromhex("ff01ff00") + b"a" * 2036 + bytes.fromhex("ff000100") + b"a\0\0\0"
    assert digest_of([EncodedContext(0xFF01, b"a" * 2037)]) == hashlib.sha256(octets).digest()[:16]


def test_digest_tells_contexts_apart() -> None:
    one, other = EncodedContext(0xFF01, b"one!"), EncodedContext(0xFF02, b"two!")
    sets = [[], [one], [other], [one, other], [other, one], [one, one], [replace(one, presence_vector=0)]]
    assert len({digest_of(contexts) for contexts in sets}) == len(sets)


TYPES = st.sampled_from((1, 0xFF01, 0xFF02, 0xABCD))


@REPRODUCIBLE
@given(st.lists(encoded_contexts(TYPES), max_size=6), st.sampled_from((3000, 8000, 65_535)))
def test_the_receiver_finds_the_same_digest(contexts: list[EncodedContext], octets: int) -> None:
    # The sender's contexts have their true lengths, the receiver's their blocks' padding.
    received: list[EncodedContext] = []
    try:
        parts = plan_parts(contexts, transfer_id=7, generation=1, octets=octets)
    except LocalError:
        assert any(len(context.data) > octets - 64 - 48 - 16 for context in contexts)
        return
    for blocks in parts:
        message = parse(build(ContextTransferData(mn_previous_address=MN6, elapsed_time=0, blocks=blocks)))
        assert isinstance(message, ContextTransferData)
        manifest, *others = from_blocks(message.blocks)
        assert TransferManifest.decode(manifest).contexts == len(contexts)
        received += others
    assert len(received) == len(contexts)
    assert digest_of(received) == TransferManifest.decode(manifest).digest


# --- the plan ---------------------------------------------------------------------------------------------------


@REPRODUCIBLE
@given(
    st.lists(encoded_contexts(TYPES, octets=2800), max_size=8),
    st.integers(3000, 9000),
    st.binary(max_size=64),
)
def test_no_message_of_a_plan_is_too_large(contexts: list[EncodedContext], octets: int, key: bytes) -> None:
    plan = plan_parts(contexts, transfer_id=0xFFFFFFFF, generation=9, octets=octets, overhead=64 + len(key))
    sent: list[EncodedContext] = []
    for number, blocks in enumerate(plan):
        # The largest header that a plan must leave room for: IPv6, and a PCTD's key.
        message = PredictiveContextTransferData(mn_previous_address=MN6, elapsed_time=0, key=key, blocks=blocks)
        assert len(build(message)) <= octets
        manifest, *others = from_blocks(blocks)
        assert TransferManifest.decode(manifest) == TransferManifest(
            transfer_id=0xFFFFFFFF,
            generation=9,
            part=number,
            parts=len(plan),
            contexts=len(contexts),
            digest=digest_of(contexts),
        )
        sent += others
    assert sent == contexts


def test_a_plan_of_nothing_says_so() -> None:
    ((block,),) = plan_parts([], transfer_id=1, generation=0)
    manifest = TransferManifest.decode(EncodedContext(0xFF03, block.data))
    assert (manifest.part, manifest.parts, manifest.contexts) == (0, 1, 0)


def test_a_plan_fills_its_messages() -> None:
    # 65,535 - 64 for the header - 48 for the manifest leaves 65,423: 32 blocks of 2,040 octets (65,280), not 33.
    contexts = [EncodedContext(0xFF01, bytes(2036))] * 65
    assert [len(blocks) - 1 for blocks in plan_parts(contexts, transfer_id=1, generation=0)] == [32, 32, 1]


def test_a_context_is_never_torn() -> None:
    large = EncodedContext(0xFF02, bytes(40_000))
    plan = plan_parts([large, large, large], transfer_id=1, generation=0)
    assert [len(from_blocks(blocks)) for blocks in plan] == [2, 2, 2]
    # 32 full blocks are the most that a message holds beside a manifest.
    assert len(plan_parts([EncodedContext(0xFF02, bytes(32 * 2036))], transfer_id=1, generation=0)) == 1
    with pytest.raises(LocalError, match="0xff02"):
        plan_parts([EncodedContext(0xFF02, bytes(33 * 2036))], transfer_id=1, generation=0)


@pytest.mark.parametrize("number", [0xFF00, 0xFF03])
def test_a_context_that_would_be_read_as_something_else_is_refused(number: int) -> None:
    with pytest.raises(LocalError):
        plan_parts([EncodedContext(number, b"x")], transfer_id=1, generation=0)
    types = ContextTypes(continuation=0x7000, transfer_manifest=0x7003)
    assert len(plan_parts([EncodedContext(number, b"x")], transfer_id=1, generation=0, context_types=types)) == 1


def test_a_message_must_have_room_for_a_manifest() -> None:
    assert len(plan_parts([], transfer_id=1, generation=0, octets=64 + 48)) == 1
    with pytest.raises(LocalError):
        plan_parts([], transfer_id=1, generation=0, octets=64 + 47)


def test_a_plan_has_no_more_parts_than_a_manifest_numbers() -> None:
    contexts = [EncodedContext(0xFF01, b"")] * 65_536
    one_each = 64 + 48 + 8
    with pytest.raises(LocalError, match="65536 messages"):
        plan_parts(contexts, transfer_id=1, generation=0, octets=one_each)


# --- the receipt ------------------------------------------------------------------------------------------------


def test_receipt_by_hand() -> None:
    records = receipt(0x01A0FF00)
    assert build_blocks(records).hex() == "ff030100" "ff03a000" "ff03ff00" "ff030000"
    assert split_receipt(records) == (0x01A0FF00, ())


@REPRODUCIBLE
@given(unsigned(32), st.lists(st.builds(ContextStatus, TYPES, unsigned(8)), max_size=4), unsigned(3))
def test_a_receipt_is_found_among_other_statuses(
    transfer_id: int, others: list[ContextStatus], place: int
) -> None:
    statuses = [*others[:place], *receipt(transfer_id), *others[place:]]
    assert split_receipt(statuses) == (transfer_id, tuple(others))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8])
def test_another_number_of_records_is_no_receipt(count: int) -> None:
    # A foreign router reports the manifest's type as unknown, once per CTD or once per block.
    unknown = ContextStatus(0xFF03, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE)
    other = ContextStatus(0xFF01, StatusCode.MALFORMED)
    transfer_id, statuses = split_receipt([unknown] * count + [other])
    assert transfer_id is None
    assert sorted(status.feature_profile_type for status in statuses) == [0xFF01] + [0xFF03] * count


def test_a_foreign_success_for_the_manifest_is_left_out() -> None:
    assert split_receipt([ContextStatus(0xFF03, 0), ContextStatus(1, 0)]) == (None, (ContextStatus(1, 0),))


def test_the_receipts_type_is_the_configs() -> None:
    types = ContextTypes(transfer_manifest=0x7003)
    assert split_receipt(receipt(5, types), types) == (5, ())
    assert split_receipt(receipt(5, types)) == (None, receipt(5, types))
