"""Records: what a store takes, and their octets."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxtp.errors import LocalError, StoreError
from cxtp.messages import EncodedContext
from cxtp.store.records import SessionRecord, SessionState, decode_contexts, encode_contexts

contexts = st.lists(
    st.builds(
        EncodedContext,
        st.integers(0, 0xFFFF),
        st.binary(max_size=40),
        st.none() | st.integers(0, 0xFFFF_FFFF),
    ),
    max_size=4,
).map(tuple)


def record(**changes: object) -> SessionRecord:
    values: dict[str, object] = {
        "mn_address": IPv4Address("192.0.2.1"),
        "state": SessionState.OWNED,
        "generation": 1,
        "updated": 1_700_000_000.25,
    }
    return SessionRecord(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mn_address", "192.0.2.1"),
        ("mn_address", IPv6Address("fe80::1%eth0")),
        ("state", "owned"),
        ("generation", -1),
        ("generation", 1 << 64),
        ("generation", True),
        ("generation", 1.0),
        ("transfer_id", 1 << 64),
        ("updated", math.nan),
        ("updated", math.inf),
        ("updated", -1.0),
        ("updated", "now"),
        ("peer", None),
        ("peer", "n" * 256),
        ("peer", "ü" * 128),
        ("peer", "a\0b"),
        ("peer", "\ud800"),
        ("contexts", (EncodedContext(1, b""),) * 65_537),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(LocalError):
        record(**{field: value})


def test_limits_are_included() -> None:
    assert record(generation=(1 << 64) - 1, transfer_id=(1 << 64) - 1, peer="n" * 255).peer == "n" * 255


def test_no_context_data_in_repr() -> None:
    secret = b"a key of the session"
    assert "a key" not in repr(record(contexts=(EncodedContext(0xFF01, secret),)))


def test_encoding_by_hand() -> None:
    # count 2 | 0xFF01, vector, 0x80000001, 3 octets | 0x0001, no vector, empty
    octets = bytes.fromhex("00000002 ff01 01 80000001 00000003 aabbcc 0001 00 00000000 00000000")
    expected = (EncodedContext(0xFF01, b"\xaa\xbb\xcc", 0x8000_0001), EncodedContext(1, b""))
    assert encode_contexts(expected) == octets
    assert decode_contexts(octets) == expected


@settings(derandomize=True, deadline=None)
@given(contexts)
def test_contexts_survive(value: tuple[EncodedContext, ...]) -> None:
    assert decode_contexts(encode_contexts(value)) == value


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=64))
def test_any_octets_give_contexts_or_the_typed_error(octets: bytes) -> None:
    try:
        value = decode_contexts(octets)
    except StoreError:
        return
    assert len(encode_contexts(value)) == len(octets)


def test_cut_at_every_length_and_a_trailing_octet() -> None:
    octets = encode_contexts((EncodedContext(0xFF01, b"abc", 7), EncodedContext(0xFF02, b"defg")))
    for end in range(len(octets)):
        with pytest.raises(StoreError):
            decode_contexts(octets[:end])
    with pytest.raises(StoreError):
        decode_contexts(octets + b"\0")
