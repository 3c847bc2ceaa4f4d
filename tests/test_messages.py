"""The message values: the RFC's numbers, what is refused, what is reported, what is never shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from message_strategies import MESSAGES, MN4, MN6, REPRODUCIBLE, context_blocks, messages

from cxtp.errors import LocalError
from cxtp.messages import (
    MESSAGE_CLASSES,
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    Message,
    PredictiveContextTransferData,
    unusual,
)

# RFC 4067, 2.5: Type, the name in the heading, the subsection, the reserved bits in its box.
RFC_4067 = {
    1: ("CTAR", "2.5.1", 6),
    2: ("CTAA", "2.5.2", 7),
    3: ("CTD", "2.5.3", 6),
    4: ("PCTD", "2.5.3", 6),
    5: ("CTDR", "2.5.4", 6),
    6: ("CTC", "2.5.5", 7),
    7: ("CT-Req", "2.5.6", 7),
}


def test_numbers_names_and_sections_are_the_rfcs() -> None:
    seen = {
        int(number): (cls.short_name, cls.section.removeprefix("RFC 4067, "), cls.reserved_bits)
        for number, cls in MESSAGE_CLASSES.items()
    }
    assert seen == RFC_4067
    assert list(MESSAGES) == list(MESSAGE_CLASSES.values())


def ctar(**changed: Any) -> Message:
    values = {"mn_previous_address": MN4, "access_router_address": MN4, "sequence_number": 0, **changed}
    return ContextTransferActivateRequest(**values)


def ctd(**changed: Any) -> Message:
    return ContextTransferData(**{"mn_previous_address": MN4, "elapsed_time": 0, **changed})


def pctd(**changed: Any) -> Message:
    return PredictiveContextTransferData(**{"mn_previous_address": MN4, "elapsed_time": 0, **changed})


REFUSED: dict[str, Callable[[], object]] = {
    "address as text": lambda: ContextTransferCancel(mn_previous_address="192.0.2.7"),  # type: ignore[arg-type]
    "two families": lambda: ctar(access_router_address=MN6),
    "two families, the other way": lambda: ctar(mn_previous_address=MN6),
    "7 reserved bits beside A": lambda: ctar(reserved=0x40),
    "8 reserved bits": lambda: ContextTransferCancel(mn_previous_address=MN4, reserved=0x80),
    "negative reserved bits": lambda: ContextTransferCancel(mn_previous_address=MN4, reserved=-1),
    "sequence number of 33 bits": lambda: ctar(sequence_number=1 << 32),
    "sequence number below 0": lambda: ctar(sequence_number=-1),
    "sequence number as text": lambda: ctar(sequence_number="1"),
    "token of 3 octets": lambda: ctar(authorization_token=b"abc"),
    "token of 5 octets": lambda: ctar(authorization_token=b"abcde"),
    "elapsed time of 33 bits": lambda: ctd(elapsed_time=1 << 32),
    "elapsed time below 0": lambda: ctd(elapsed_time=-1),
    "elapsed time with a fraction": lambda: ctd(elapsed_time=0.5),
    "algorithm of 17 bits": lambda: pctd(algorithm=1 << 16),
    "key of 65,536 octets": lambda: pctd(key=bytes(65_536)),
    "block type of 17 bits": lambda: ContextBlock(1 << 16),
    "block with 8 reserved bits": lambda: ContextBlock(1, reserved=0x80),
    "block with a vector of 33 bits": lambda: ContextBlock(1, presence_vector=1 << 32),
    "block with 2,037 octets": lambda: ContextBlock(1, bytes(2037)),
    "block with a vector and 2,033 octets": lambda: ContextBlock(1, bytes(2033), 0),
    "context type below 0": lambda: EncodedContext(-1, b""),
    "context with a vector of 33 bits": lambda: EncodedContext(1, b"", 1 << 32),
    "request of 2 words": lambda: ContextRequest(1, length=2),
    "request with flags of 9 bits": lambda: ContextRequest(1, flags=256),
    "request type of 17 bits": lambda: ContextRequest(1 << 16),
    "status of 9 bits": lambda: ContextStatus(1, 256),
    "status with 9 reserved bits": lambda: ContextStatus(1, 0, 256),
    "status type below 0": lambda: ContextStatus(-1, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_box_can_hold_is_refused(name: str) -> None:
    with pytest.raises(LocalError):
        REFUSED[name]()


def test_the_largest_values_are_taken() -> None:
    assert len(ContextBlock(0xFFFF, bytes(2036), None, 0x7F).data) == 2036
    assert len(ContextBlock(0xFFFF, bytes(2032), 0xFFFFFFFF, 0x7F).data) == 2032
    assert isinstance(pctd(key=bytes(65_535), algorithm=0xFFFF), PredictiveContextTransferData)
    assert ctar(reserved=0x3F, sequence_number=0xFFFFFFFF).reserved == 0x3F


@REPRODUCIBLE
@given(messages())
def test_messages_are_frozen(message: Message) -> None:
    for field in fields(message):
        with pytest.raises(FrozenInstanceError):
            setattr(message, field.name, None)


@pytest.mark.parametrize(
    ("octets", "vector", "length"),
    [
        *((0, None, 1), (4, None, 1), (5, None, 2), (12, None, 2), (2036, None, 255)),
        *((0, 0, 1), (1, 0, 2), (8, 0, 2), (9, 0, 3), (2032, 0, 255)),
    ],
)
def test_length_counts_words_of_8_octets(octets: int, vector: int | None, length: int) -> None:
    # RFC 4067, 2.4: "the size of the CDB in 8 octet words, including the first 4 octets starting from FPT".
    assert ContextBlock(1, bytes(octets), vector).length == length


@REPRODUCIBLE
@given(context_blocks(padded=False))
def test_padded_fills_the_block_with_zeros(block: ContextBlock) -> None:
    padded = block.padded
    assert padded.length == block.length
    assert (padded.header_octets + len(padded.data)) % 8 == 0
    assert padded.data.rstrip(b"\0") == block.data.rstrip(b"\0")
    assert padded.padded == padded


# --- unusual ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        (ContextTransferCancel(mn_previous_address=MN4), []),
        (
            ContextTransferCancel(mn_previous_address=MN4, reserved=0x41),
            ["reserved bits 0x41 set in the flags (RFC 4067, 2.5.5)"],
        ),
        (ctd(blocks=(ContextBlock(0xABCD), ContextBlock(1, reserved=3))), ["reserved bits 0x3 set in blocks[1]"]),
        (ctar(requested=(ContextRequest(1, flags=0x80), ContextRequest(2))), ["flags 0x80 set in requested[0]"]),
        (
            ContextTransferDataReply(
                mn_previous_address=MN4,
                success=False,
                statuses=(ContextStatus(1, 0x0F), ContextStatus(2, 0x11), ContextStatus(3, 0xFF, 9)),
            ),
            [
                "unknown status code 0x11 in statuses[1]",
                "reserved bits 0x9 set in statuses[2]",
                "unknown status code 0xff in statuses[2]",
            ],
        ),
        (
            ContextTransferActivateAcknowledge(mn_previous_address=MN6, statuses=(ContextStatus(1, 0x80),)),
            ["unknown status code 0x80 in statuses[0]"],
        ),
        (
            ContextTransferRequest(mn_previous_address=MN6, sequence_number=1, reserved=1),
            ["reserved bits 0x1 set in the flags (RFC 4067, 2.5.6)"],
        ),
    ],
)
def test_unusual_reports_what_is_legal_and_worth_a_look(message: Message, reported: list[str]) -> None:
    assert list(unusual(message)) == reported


# --- secrets ----------------------------------------------------------------------------------------------------


def test_no_key_and_no_context_data_in_a_repr() -> None:
    secret = b"hunter2hunter2"
    shown = repr(pctd(key=secret, blocks=(ContextBlock(1, secret),))) + repr(EncodedContext(1, secret))
    assert "hunter2" not in shown
    assert secret.hex() not in shown
    assert "feature_profile_type=1" in shown


def test_family_follows_the_mobile_nodes_address() -> None:
    assert ContextTransferCancel(mn_previous_address=MN4).is_ipv4
    # An IPv4-mapped address is an IPv6 address: V is about the field's size.
    assert not ContextTransferCancel(mn_previous_address=IPv6Address("::ffff:192.0.2.7")).is_ipv4
