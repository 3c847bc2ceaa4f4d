"""The wire formats: RFC 4067's boxes by hand, both directions; then properties over all that can arrive."""

from __future__ import annotations

import io
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import construct
import pytest
from helpers import interpreted_formats
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import MESSAGES, MN4, MN6, REPRODUCIBLE, messages, worked_examples

from cxtp import wire
from cxtp.compiled import Compiled
from cxtp.errors import LocalError, MalformedMessage
from cxtp.messages import (
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    Message,
    PredictiveContextTransferData,
)
from cxtp.wire import build, build_blocks, message_length, parse

EXAMPLES = worked_examples()

# The value twins of tests/vectors/messages.hex, in the RFC's words.
TWINS: dict[str, Message] = {
    "CTAR IPv4": ContextTransferActivateRequest(
        mn_previous_address=MN4,
        access_router_address=IPv4Address("198.51.100.1"),
        sequence_number=16909060,
        authorization_token=b"\xde\xad\xbe\xef",
        requested=(ContextRequest(0xFF01), ContextRequest(1, length=1)),
        acknowledge=True,
    ),
    "CTAR IPv6": ContextTransferActivateRequest(
        mn_previous_address=MN6,
        access_router_address=IPv6Address("2001:db8:1::1"),
        sequence_number=4294967295,
        authorization_token=b"\x00\x00\x00\x01",
    ),
    "CTAA IPv4": ContextTransferActivateAcknowledge(
        mn_previous_address=MN4, statuses=(ContextStatus(0xFF01, 6), ContextStatus(1, 1))
    ),
    "CTAA IPv6": ContextTransferActivateAcknowledge(mn_previous_address=MN6),
    "CTD IPv4": ContextTransferData(
        mn_previous_address=MN4,
        elapsed_time=200,
        blocks=(
            ContextBlock(
                1, IPv6Address("2001:db8:2::").packed[:8] + IPv6Address("ff0e::101").packed + bytes(4)
            ),
        ),
        acknowledge=True,
    ),
    "CTD IPv6": ContextTransferData(
        mn_previous_address=MN6,
        elapsed_time=0,
        blocks=(
            ContextBlock(0xFF01, b"\x11\x22\x33\x44\x55\x66\x77\x88", presence_vector=0x80000001),
            ContextBlock(0x1234, b"\xaa\xbb\xcc\xdd"),
        ),
    ),
    "PCTD IPv4": PredictiveContextTransferData(
        mn_previous_address=MN4,
        elapsed_time=0,
        key=b"key!!",
        algorithm=1,
        blocks=(ContextBlock(1, b"\x01\x02\x03\x04"),),
        acknowledge=True,
    ),
    "PCTD IPv6": PredictiveContextTransferData(
        mn_previous_address=MN6, elapsed_time=1000, key=bytes(range(20)), algorithm=1
    ),
    "CTDR IPv4": ContextTransferDataReply(mn_previous_address=MN4, success=True),
    "CTDR IPv6": ContextTransferDataReply(
        mn_previous_address=MN6, success=False, statuses=(ContextStatus(0xFF02, 5),)
    ),
    "CTC IPv4": ContextTransferCancel(mn_previous_address=MN4),
    "CTC IPv6": ContextTransferCancel(mn_previous_address=MN6),
    "CT-Req IPv4": ContextTransferRequest(
        mn_previous_address=MN4,
        sequence_number=16909060,
        authorization_token=b"\xde\xad\xbe\xef",
        requested=(ContextRequest(0xFF01),),
    ),
    "CT-Req IPv6": ContextTransferRequest(
        mn_previous_address=MN6, sequence_number=0, authorization_token=bytes(4)
    ),
}


def with_length(octets: bytes) -> bytes:
    """The same octets with a Length field that is right, so that what stands behind the header is reached."""
    return octets[:2] + struct.pack(">H", len(octets)) + octets[4:]


def value_or_malformed(octets: bytes) -> Message | MalformedMessage:
    """What ``parse`` makes of any octets; whatever it takes, it must give back octet for octet."""
    try:
        seen: Message | MalformedMessage = parse(octets)
    except MalformedMessage as error:
        seen = error
    if isinstance(seen, MalformedMessage):
        assert seen.field
        assert 0 <= seen.offset <= len(octets)
        assert seen.section.startswith("RFC 4067, 2.")
    else:
        assert build(seen) == octets
    return seen


# --- the RFC's boxes --------------------------------------------------------------------------------------------


def test_every_message_has_its_examples() -> None:
    assert list(EXAMPLES) == list(TWINS)
    assert {type(message) for message in TWINS.values()} == set(MESSAGES)


@pytest.mark.parametrize("name", TWINS)
def test_box_to_value(name: str) -> None:
    assert parse(EXAMPLES[name]) == TWINS[name]


@pytest.mark.parametrize("name", TWINS)
def test_value_to_box(name: str) -> None:
    assert build(TWINS[name]) == EXAMPLES[name]


@pytest.mark.parametrize("name", TWINS)
def test_length_is_read_from_the_header_alone(name: str) -> None:
    octets = EXAMPLES[name]
    assert message_length(octets) == message_length(octets[:4]) == len(octets)
    assert [message_length(octets[:count]) for count in range(4)] == [None] * 4


def test_data_is_padded_to_64_bits() -> None:
    # RFC 4067, 2.4.  The sender's 24 octets (Appendix B) come out as the 28 that fill the block.
    data = IPv6Address("2001:db8:2::").packed[:8] + IPv6Address("ff0e::101").packed
    unpadded = ContextTransferData(
        mn_previous_address=MN4, elapsed_time=200, blocks=(ContextBlock(1, data),), acknowledge=True
    )
    assert build(unpadded) == EXAMPLES["CTD IPv4"]


def test_records_alone() -> None:
    assert build_blocks([ContextStatus(0xFF01, 6, 9)]).hex() == "ff010609"
    assert build_blocks([ContextRequest(0xFF01, 0, 0x80), ContextRequest(2, 1)]).hex() == "ff010080" "0002010000000000"
    assert build_blocks([ContextBlock(7, b"\x01")]).hex() == "0007010001000000"
    assert build_blocks([ContextBlock(7, b"", 1, 0x7F)]).hex() == "000701ff00000001"


# --- malformed, by hand -----------------------------------------------------------------------------------------

MALFORMED = {
    "nothing": ("", "version_and_type", 0, "2.5"),
    "no flags": ("26", "flags", 1, "2.5"),
    "half a length": ("2680 00", "length", 2, "2.5"),
    "version 0": ("0680 0008 c0000207", "version", 0, "2.5"),
    "version 2": ("4680 0008 c0000207", "version", 0, "2.5"),
    "version 7": ("e680 0008 c0000207", "version", 0, "2.5"),
    "type 0": ("2080 0008 c0000207", "type", 0, "2.5"),
    "type 8": ("2880 0008 c0000207", "type", 0, "2.5"),
    "type 31": ("3f80 0008 c0000207", "type", 0, "2.5"),
    "length below the octets": ("2680 0007 c0000207", "length", 2, "2.5"),
    "length above the octets": ("2680 0009 c0000207", "length", 2, "2.5"),
    "length without the header": ("2680 0004 c0000207", "length", 2, "2.5"),
    "length in words": ("2680 0002 c0000207", "length", 2, "2.5"),
    "CTC with more than it has": ("2680 0009 c0000207 00", "length", 2, "2.5.5"),
    "CTC of IPv6 with an IPv4 address": ("2600 0008 c0000207", "mn_previous_address", 4, "2.5.5"),
    "CTAR without its second address": ("2180 0008 c0000207", "access_router_address", 8, "2.5.1"),
    "CTAR, sequence number cut": ("2180 000e c0000207 c6336401 0102", "sequence_number", 12, "2.5.1"),
    "CTAR, token cut": ("2180 0013 c0000207 c6336401 01020304 aabbcc", "authorization_token", 16, "2.5.1"),
    "CTAR, request cut": (
        "2180 0017 c0000207 c6336401 01020304 aabbccdd ff0100",
        "requested[0].flags",
        23,
        "2.5.1",
    ),
    "CTAR, second request cut": (
        "2180 0019 c0000207 c6336401 01020304 aabbccdd ff010000 ff",
        "requested[1].feature_profile_type",
        24,
        "2.5.1",
    ),
    "CT-Req, request of 2 words": (
        "2780 0020 c0000207 01020304 aabbccdd ff010200 000000000000000000000000",
        "requested[0].length",
        18,
        "2.5.6",
    ),
    "CT-Req, request of 255 words, cut": (
        "2780 0014 c0000207 01020304 aabbccdd ff01ff00",
        "requested[0].length",
        18,
        "2.5.6",
    ),
    "CT-Req, request padded with ones": (
        "2780 0018 c0000207 01020304 aabbccdd ff010100 00000001",
        "requested[0].padding",
        20,
        "2.5.6",
    ),
    "CT-Req, request's padding cut": (
        "2780 0016 c0000207 01020304 aabbccdd ff010100 0000",
        "requested[0].padding",
        20,
        "2.5.6",
    ),
    "CTAA, status cut": ("2280 000a c0000207 ff01", "statuses[0].status", 10, "2.5.2"),
    "CTDR, second record cut": (
        "2580 000f c0000207 ff010600 000101",
        "statuses[1].reserved",
        15,
        "2.5.4",
    ),
    "CTD, elapsed time cut": ("2380 0007 000000", "elapsed_time", 4, "2.5.3"),
    "CTD without an address": ("2300 0008 00000000", "mn_previous_address", 8, "2.5.3"),
    "CTD, block of Length 0": ("2380 0010 00000000 c0000207 ff010000", "blocks[0].length", 14, "2.5.3"),
    "CTD, block longer than the message": (
        "2380 0014 00000000 c0000207 ff010200 00000000",
        "blocks[0].data",
        16,
        "2.5.3",
    ),
    "CTD, presence vector cut": (
        "2380 0012 00000000 c0000207 ff010180 8000",
        "blocks[0].presence_vector",
        16,
        "2.5.3",
    ),
    "CTD, octet behind the last block": (
        "2380 0015 00000000 c0000207 ff010100 00000000 ff",
        "blocks[1].feature_profile_type",
        20,
        "2.5.3",
    ),
    "PCTD, key longer than the message": (
        "2480 0012 00000000 c0000207 0001 0003 6b65",
        "key",
        16,
        "2.5.3",
    ),
    "PCTD without a key length": ("2480 000e 00000000 c0000207 0001", "key_length", 14, "2.5.3"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_the_error_names_field_offset_and_section(name: str) -> None:
    octets, field, offset, section = MALFORMED[name]
    with pytest.raises(MalformedMessage) as caught:
        parse(bytes.fromhex(octets))
    error = caught.value
    assert (error.field, error.offset, error.section) == (field, offset, f"RFC 4067, {section}")
    assert f"{field} at octet {offset}: " in str(error)
    assert error.status == 0x03


def test_the_error_does_not_repeat_a_key() -> None:
    octets = bytes.fromhex("2480 0016 00000000 c0000207 0001 0007") + b"secret"
    with pytest.raises(MalformedMessage) as caught:
        parse(octets)
    assert "secret" not in str(caught.value)
    assert b"secret".hex() not in str(caught.value)


# --- what survives ----------------------------------------------------------------------------------------------


def test_reserved_bits_are_not_flags() -> None:
    # CTAR, CTD, PCTD and CTDR have a second flag and 6 reserved bits, the others 7.
    for name, message in TWINS.items():
        octets = bytearray(EXAMPLES[name])
        octets[1] |= 0x3F
        assert parse(bytes(octets)).reserved == 0x3F
        octets[1] |= 0x40
        seen = parse(bytes(octets))
        if isinstance(message, (ContextTransferActivateRequest, ContextTransferData)):
            assert (seen.acknowledge, seen.reserved) == (True, 0x3F)  # type: ignore[union-attr]
        elif isinstance(message, ContextTransferDataReply):
            assert (seen.success, seen.reserved) == (True, 0x3F)  # type: ignore[union-attr]
        else:
            assert seen.reserved == 0x7F


def test_unknown_types_statuses_and_bits_survive() -> None:
    ctdr = bytes.fromhex("25bf 0010 c0000207 abcd fe 81 0000 00 ff")
    assert parse(ctdr) == ContextTransferDataReply(
        mn_previous_address=MN4,
        success=False,
        reserved=0x3F,
        statuses=(ContextStatus(0xABCD, 0xFE, 0x81), ContextStatus(0, 0, 0xFF)),
    )
    ctd = bytes.fromhex("23bf 0014 00000001 c0000207 abcd 01 7f 01020304")
    assert parse(ctd) == ContextTransferData(
        mn_previous_address=MN4,
        elapsed_time=1,
        reserved=0x3F,
        blocks=(ContextBlock(0xABCD, b"\x01\x02\x03\x04", None, 0x7F),),
    )
    request = bytes.fromhex("27ff 0014 c0000207 00000000 00000000 abcd 00 ff")
    assert parse(request) == ContextTransferRequest(
        mn_previous_address=MN4, sequence_number=0, reserved=0x7F, requested=(ContextRequest(0xABCD, 0, 0xFF),)
    )
    algorithm = bytes.fromhex("2480 0010 00000000 c0000207 fffe 0000")
    assert parse(algorithm) == PredictiveContextTransferData(
        mn_previous_address=MN4, elapsed_time=0, algorithm=0xFFFE, key=b""
    )


def test_presence_bit_and_reserved_bits_are_told_apart() -> None:
    for flags, vector, data, reserved in (
        ("00", None, "80000001" "11223344", 0),
        ("80", 0x80000001, "11223344", 0),
        ("7f", None, "80000001" "11223344", 0x7F),
        ("ff", 0x80000001, "11223344", 0x7F),
    ):
        octets = bytes.fromhex(f"2380 001c 00000000 c0000207 ff01 02 {flags} 80000001 11223344 00000000")
        (block,) = parse(octets).blocks  # type: ignore[union-attr]
        assert block == ContextBlock(0xFF01, bytes.fromhex(data + "00000000"), vector, reserved)


# --- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vector", "room"), [(None, 2036), (0, 2032)])
def test_the_largest_block(vector: int | None, room: int) -> None:
    block = ContextBlock(5, b"\xaa" * room, vector)
    octets = build_blocks([block])
    assert len(octets) == 2040
    assert octets[2] == 255
    data = ContextTransferData(mn_previous_address=MN4, elapsed_time=0, blocks=(block,))
    assert parse(build(data)) == data


def test_the_largest_message() -> None:
    # 4 header + 4 elapsed time + 4 address + 4 algorithm and key length + 239 key + 32 * 2,040 = 65,535
    full = PredictiveContextTransferData(
        mn_previous_address=MN4, elapsed_time=0, key=b"k" * 239, blocks=(ContextBlock(5, bytes(2036)),) * 32
    )
    octets = build(full)
    assert len(octets) == 65_535
    assert octets[2:4] == b"\xff\xff"
    assert parse(octets) == full


def test_a_message_that_does_not_fit_is_refused() -> None:
    above = PredictiveContextTransferData(
        mn_previous_address=MN4, elapsed_time=0, key=b"k" * 240, blocks=(ContextBlock(5, bytes(2036)),) * 32
    )
    with pytest.raises(LocalError, match="65536 octets"):
        build(above)


def test_more_octets_than_a_length_can_tell() -> None:
    for octets in (bytes.fromhex("2680ffff") + bytes(65_532), bytes.fromhex("26800000") + bytes(65_532)):
        with pytest.raises(MalformedMessage) as caught:
            parse(octets)
        assert (caught.value.field, caught.value.offset) == ("length", 2)


# --- properties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_class", MESSAGES, ids=lambda cls: cls.short_name)
def test_build_then_parse(message_class: type[Message]) -> None:
    @REPRODUCIBLE
    @given(MESSAGES[message_class])
    def holds(message: Message) -> None:
        octets = build(message)
        assert message_length(octets) == len(octets)
        assert parse(octets) == message

    holds()


@REPRODUCIBLE
@given(messages(padded=False))
def test_padding_is_all_that_is_added(message: Message) -> None:
    seen = parse(build(message))
    assert build(seen) == build(message)
    for sent, received in zip(getattr(message, "blocks", ()), getattr(seen, "blocks", ()), strict=True):
        padding = received.data[len(sent.data) :]
        assert received.data.startswith(sent.data)
        assert not any(padding)
        assert len(padding) < 8


@pytest.mark.parametrize("name", TWINS)
def test_cut_at_every_length(name: str) -> None:
    octets = EXAMPLES[name]
    for count in range(len(octets)):
        cut = value_or_malformed(octets[:count])
        assert isinstance(cut, MalformedMessage)


def test_cut_at_every_length_with_a_right_length_field() -> None:
    # A list that ends on a record's border is a shorter message; all else is refused where it was cut.
    kept = {
        name: [
            count
            for count in range(4, len(octets))
            if not isinstance(value_or_malformed(with_length(octets[:count])), MalformedMessage)
        ]
        for name, octets in EXAMPLES.items()
    }
    assert kept == {
        "CTAR IPv4": [20, 24],
        "CTAR IPv6": [],
        "CTAA IPv4": [8, 12],
        "CTAA IPv6": [],
        "CTD IPv4": [12],
        "CTD IPv6": [24, 40],
        "PCTD IPv4": [21],
        "PCTD IPv6": [],
        "CTDR IPv4": [],
        "CTDR IPv6": [20],
        "CTC IPv4": [],
        "CTC IPv6": [],
        "CT-Req IPv4": [16],
        "CT-Req IPv6": [],
    }


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("trailing", [0x00, 0x01, 0xFF])
def test_a_trailing_octet_is_refused(name: str, trailing: int) -> None:
    octets = EXAMPLES[name] + bytes((trailing,))
    unexpected = value_or_malformed(octets)
    assert isinstance(unexpected, MalformedMessage)
    assert (unexpected.field, unexpected.offset) == ("length", 2)
    assert isinstance(value_or_malformed(with_length(octets)), MalformedMessage)


@pytest.mark.parametrize("name", TWINS)
def test_each_single_bit_flipped(name: str) -> None:
    octets = EXAMPLES[name]
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        assert value_or_malformed(bytes(flipped)) != TWINS[name]
        assert value_or_malformed(with_length(bytes(flipped))) is not None


@REPRODUCIBLE
@given(st.binary(max_size=120))
def test_any_octets(octets: bytes) -> None:
    value_or_malformed(octets)


def framed() -> st.SearchStrategy[bytes]:
    """Any octets behind a header of a known type whose length is right."""
    header = st.tuples(st.integers(1, 7), st.integers(0, 255))
    return st.builds(
        lambda head, body: with_length(bytes((0x20 | head[0], head[1], 0, 0)) + body), header, st.binary(max_size=120)
    )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message with some octets replaced, inserted or taken out, and most often a right length."""
    octets = bytearray(build(draw(messages())))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(octets)))
        octets[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return with_length(bytes(octets)) if draw(st.integers(0, 3)) and len(octets) > 3 else bytes(octets)


@REPRODUCIBLE
@given(framed())
def test_any_octets_behind_a_header(octets: bytes) -> None:
    value_or_malformed(octets)


@REPRODUCIBLE
@given(mutated())
def test_mutated_messages(octets: bytes) -> None:
    value_or_malformed(octets)


# --- the compiled formats against the interpreted ones ------------------------------------------------------------

LAYOUTS = {name: layout for name, layout in vars(wire).items() if isinstance(layout, Compiled)}


def plain(value: Any) -> Any:
    """A container as plain data, without Construct's own ``_io`` and our ``_``."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("_io", "_")}
    return value


def interpreted(layout: Compiled, octets: bytes, ipv4: bool) -> Any:
    """The value and how many octets it took, or None where it is refused."""
    stream = io.BytesIO(octets)
    try:
        return plain(layout.format.parse_stream(stream, ipv4=ipv4)), stream.tell()
    except construct.ConstructError:
        return None


def test_all_layouts_are_compared() -> None:
    assert set(LAYOUTS) == {
        "HEADER",
        "ACTIVATE_REQUEST",
        "MN_ADDRESS_ALONE",
        "DATA",
        "PREDICTIVE_DATA",
        "TRANSFER_REQUEST",
        "CONTEXT_DATA_BLOCK",
        "REQUESTED_BLOCK",
        "STATUS_RECORD",
        "ICMP_HEADER",
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_compiled_reads_as_interpreted(name: str) -> None:
    layout = LAYOUTS[name]

    @REPRODUCIBLE
    @given(st.binary(max_size=64), st.booleans())
    def holds(octets: bytes, ipv4: bool) -> None:
        expected = interpreted(layout, octets, ipv4)
        found = layout.parse_quickly(octets, ipv4=ipv4)
        assert (found and (plain(found[0]), found[1])) == expected
        if expected is not None:
            value, taken = expected
            assert layout.build_quickly(value, ipv4=ipv4) == octets[:taken]
            assert layout.format.build(value, ipv4=ipv4) == octets[:taken]

    holds()


@REPRODUCIBLE
@given(st.one_of(mutated(), framed(), messages().map(build)))
def test_messages_read_and_written_the_same_interpreted(octets: bytes) -> None:
    compiled = value_or_malformed(octets)
    with interpreted_formats():
        slowly = value_or_malformed(octets)
    if isinstance(compiled, MalformedMessage):
        assert str(slowly) == str(compiled)
    else:
        assert slowly == compiled
