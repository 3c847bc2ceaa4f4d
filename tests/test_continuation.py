"""Contexts larger than a block (docs/decisions.md, 2): every border by hand, and what a peer may do wrong."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import MN6, REPRODUCIBLE, encoded_contexts

from contexts.base import encode
from contexts.multicast_listener import MulticastListenerContext
from cxtp.config import ContextTypes
from cxtp.continuation import from_blocks, to_blocks
from cxtp.errors import MalformedMessage
from cxtp.messages import ContextBlock, ContextTransferData, EncodedContext
from cxtp.wire import build, build_blocks, parse

# Octets of a context: the data of each of its blocks, and their Length fields.  A block of 255 words has 2,040
# octets: 4 of header and 2,036 of data, or 8 and 2,032 where there is a presence vector.
WITHOUT_VECTOR = {
    0: ([0], [1]),
    1: ([1], [1]),
    4: ([4], [1]),
    5: ([5], [2]),
    2031: ([2031], [255]),
    2032: ([2032], [255]),
    2033: ([2033], [255]),
    2035: ([2035], [255]),
    2036: ([2036], [255]),
    2037: ([2036, 1], [255, 1]),
    4068: ([2036, 2032], [255, 255]),
    4072: ([2036, 2036], [255, 255]),
    4073: ([2036, 2036, 1], [255, 255, 1]),
    60_000: ([2036] * 29 + [956], [255] * 29 + [120]),
}
WITH_VECTOR = {
    0: ([0], [1]),
    1: ([1], [2]),
    8: ([8], [2]),
    2031: ([2031], [255]),
    2032: ([2032], [255]),
    2033: ([2032, 1], [255, 1]),
    2036: ([2032, 4], [255, 1]),
    2037: ([2032, 5], [255, 2]),
    4068: ([2032, 2036], [255, 255]),
    4069: ([2032, 2036, 1], [255, 255, 1]),
    60_000: ([2032] + [2036] * 28 + [960], [255] * 29 + [121]),
}
SIZES = [
    *((octets, None, blocks, lengths) for octets, (blocks, lengths) in WITHOUT_VECTOR.items()),
    *((octets, 0x80000000, blocks, lengths) for octets, (blocks, lengths) in WITH_VECTOR.items()),
]


def data_of(octets: int) -> bytes:
    """Octets none of which is 0, so that padding is told apart."""
    return bytes(number % 255 + 1 for number in range(octets))


@pytest.mark.parametrize(("octets", "vector", "sizes", "lengths"), SIZES)
def test_sizes(octets: int, vector: int | None, sizes: list[int], lengths: list[int]) -> None:
    context = EncodedContext(0xFF01, data_of(octets), vector)
    blocks = to_blocks(context)
    assert [len(block.data) for block in blocks] == sizes
    assert [block.length for block in blocks] == lengths
    assert [block.feature_profile_type for block in blocks] == [0xFF01] + [0xFF00] * (len(sizes) - 1)
    assert [block.presence_vector for block in blocks] == [vector] + [None] * (len(sizes) - 1)
    assert b"".join(block.data for block in blocks) == context.data
    assert from_blocks(blocks) == (context,)


@pytest.mark.parametrize(("octets", "vector", "sizes", "lengths"), SIZES)
def test_over_the_wire_padding_stands_at_the_end_alone(
    octets: int, vector: int | None, sizes: list[int], lengths: list[int]
) -> None:
    context = EncodedContext(0xFF01, data_of(octets), vector)
    message = parse(build(ContextTransferData(mn_previous_address=MN6, elapsed_time=0, blocks=to_blocks(context))))
    assert isinstance(message, ContextTransferData)
    (seen,) = from_blocks(message.blocks)
    assert (seen.feature_profile_type, seen.presence_vector) == (0xFF01, vector)
    header = 4 * len(sizes) + (4 if vector is not None else 0)
    assert seen.data == context.data.ljust(sum(lengths) * 8 - header, b"\0")


@REPRODUCIBLE
@given(st.lists(encoded_contexts(st.sampled_from((1, 0xFF01, 0xFF02, 0xABCD))), max_size=5))
def test_many_contexts_keep_their_order(contexts: list[EncodedContext]) -> None:
    blocks = [block for context in contexts for block in to_blocks(context)]
    assert from_blocks(blocks) == tuple(contexts)
    received = from_blocks(block.padded for block in blocks)
    assert [context.feature_profile_type for context in received] == [c.feature_profile_type for c in contexts]
    for sent, seen in zip(contexts, received, strict=True):
        assert seen.data[: len(sent.data)] == sent.data
        assert not any(seen.data[len(sent.data) :])
        assert len(seen.data) - len(sent.data) < 8


def test_nothing() -> None:
    assert from_blocks(()) == ()


FULL = ContextBlock(0xFF01, bytes(2036))
FULL_WITH_VECTOR = ContextBlock(0xFF01, bytes(2032), 0)
REST = ContextBlock(0xFF00, b"rest")
WRONG = {
    "continues nothing": ((REST,), "blocks[0].feature_profile_type", 0),
    "continues a short block": ((ContextBlock(0xFF01, b"abcd"), REST), "blocks[1].feature_profile_type", 8),
    "continues a block that is one word short": (
        (ContextBlock(0xFF01, bytes(2028)), REST),
        "blocks[1].feature_profile_type",
        2032,
    ),
    "continues after the end": ((FULL, REST, REST), "blocks[2].feature_profile_type", 2048),
    "has a presence vector": ((FULL, ContextBlock(0xFF00, b"", 0)), "blocks[1].presence_vector", 2040),
    "behind a whole context": (
        (FULL, REST, ContextBlock(2, b""), REST),
        "blocks[3].feature_profile_type",
        2040 + 8 + 8,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_peer_may_do_wrong(name: str) -> None:
    blocks, field, offset = WRONG[name]
    with pytest.raises(MalformedMessage) as caught:
        from_blocks(blocks)
    assert (caught.value.field, caught.value.offset) == (field, offset)
    assert caught.value.section == "docs/decisions.md, 2"


def test_full_blocks_may_go_on() -> None:
    for first in (FULL, FULL_WITH_VECTOR):
        (context,) = from_blocks((first, ContextBlock(0xFF00, bytes(2036)), REST))
        assert context == EncodedContext(0xFF01, first.data + bytes(2036) + b"rest", first.presence_vector)


def test_a_full_context_needs_no_continuation() -> None:
    assert from_blocks((FULL, FULL, ContextBlock(7))) == (
        EncodedContext(0xFF01, bytes(2036)),
        EncodedContext(0xFF01, bytes(2036)),
        EncodedContext(7, b""),
    )


@REPRODUCIBLE
@given(
    st.lists(
        st.builds(
            ContextBlock,
            st.sampled_from((0xFF00, 0xFF01)),
            st.sampled_from((b"", b"abcd", bytes(2032), bytes(2036))),
        )
        | st.builds(ContextBlock, st.just(0xFF00), st.just(b""), st.just(0)),
        max_size=6,
    )
)
def test_any_blocks_give_contexts_or_the_typed_error(blocks: list[ContextBlock]) -> None:
    try:
        contexts = from_blocks(blocks)
    except MalformedMessage as error:
        rejected = error
    else:
        assert [block for context in contexts for block in to_blocks(context)] == blocks
        return
    assert rejected.field.startswith("blocks[")


def test_the_type_is_the_configs() -> None:
    types = ContextTypes(continuation=0x7777)
    blocks = to_blocks(EncodedContext(0xFF01, bytes(2037)), types)
    assert [block.feature_profile_type for block in blocks] == [0xFF01, 0x7777]
    assert from_blocks(blocks, types) == (EncodedContext(0xFF01, bytes(2037)),)
    # A receiver that does not know the type sees one more context of it, and says so in its CTDR.
    assert [context.feature_profile_type for context in from_blocks(blocks)] == [0xFF01, 0x7777]


def test_each_multicast_group_has_a_block_of_its_own() -> None:
    # RFC 4067, Appendix B: "one MLD context block per subscribed IPv6 multicast address"; FPT 1, Length 4
    # (4 header, 8 prefix, 16 address, 4 padding), no presence vector.
    prefix = bytes.fromhex("20010db800020000")
    groups = ("ff0e0000000000000000000000000101", "ff0e0000000000000000000000000102")
    for group in groups:
        context = MulticastListenerContext(subnet_prefix=prefix, group=IPv6Address(bytes.fromhex(group)))
        blocks = to_blocks(encode(context))
        assert build_blocks(blocks).hex() == "00010400" + prefix.hex() + group + "00000000"
