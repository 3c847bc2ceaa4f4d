"""Compiled formats against the interpreted declarations: the same values, octets and errors, and never given up on
what is sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from construct import (
    Adapter,
    Array,
    Byte,
    Bytes,
    BytesInteger,
    Default,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int16ul,
    Int32ub,
    Pass,
    Prefixed,
    Rebuild,
    Struct,
    Switch,
    Tell,
    Terminated,
    len_,
    this,
)
from context_examples import VALUES
from context_strategies import contexts
from helpers import interpreted_formats
from hypothesis import given, settings

from contexts.base import Context, _decode, encode
from cxtp.bit_fields import BitFields
from cxtp.compiled import Compiled, NotParsed
from cxtp.compiled.reading import reader
from cxtp.compiled.writing import writer
from cxtp.config import ContextTypes
from cxtp.errors import InvalidContext, MalformedContext
from cxtp.messages import EncodedContext

often = settings(derandomize=True, deadline=None, max_examples=300)
decode = _decode.__wrapped__  # what is kept beside the octets would answer in the decoder's place


@contextmanager
def compiled_formats_alone() -> Iterator[None]:
    """Whoever asks the interpreted format fails the test."""

    def answered(method: Any) -> Any:
        def call(self: Compiled, *arguments: Any, **context: Any) -> Any:
            answer = method(self, *arguments, **context)
            assert answer is not None, "the compiled format gave up"
            return answer

        return call

    with (
        mock.patch.object(Compiled, "parse_quickly", answered(Compiled.parse_quickly)),
        mock.patch.object(Compiled, "build_quickly", answered(Compiled.build_quickly)),
    ):
        yield


def outcome(encoded: EncodedContext) -> Context | str:
    """The context, or the error with all that it says."""
    try:
        return decode(encoded, ContextTypes())  # type: ignore[no-any-return]
    except MalformedContext as error:
        return f"{type(error).__name__} {error} {error.offset} {error.status}"


def test_of_each_kind() -> None:
    layout = Compiled(
        Struct(
            "at" / Tell,
            "big" / Int16ub,
            "number" / Int32ub,
            "little" / Int16ul,
            "bits" / BitFields(Int8ub, high=1, reserved=3, low=4),
            "count" / Rebuild(Byte, len_(this["items"])),
            "reserved" / Default(Bytes(2), bytes(2)),
            "items" / Array(this.count, Struct("kind" / Byte, "body" / Switch(this.kind, {1: Byte, 2: Bytes(3)}))),
            "text" / Prefixed(Int16ub, GreedyBytes),
            "rest" / Bytes(this.bits["low"] - 1),
            Terminated,
        )
    )
    octets = bytes.fromhex("0102 03040506 0201 83 02 0000 01 07 02 616263 0003 787980 7a7a")
    values, end = layout.parse_quickly(octets) or ({}, 0)
    assert end == len(octets)
    assert (values["at"], values["big"], values["number"], values["little"]) == (0, 0x0102, 0x03040506, 0x0102)
    assert values["bits"] == {"high": 1, "reserved": 0, "low": 3}
    assert [item["body"] for item in values["items"]] == [7, b"abc"]
    assert (values["text"], values["rest"]) == (b"xy\x80", b"zz")
    sound = {key: value for key, value in values.items() if key not in ("reserved", "count")}
    assert layout.build_quickly(sound) == layout.format.build(sound) == octets
    for length in range(len(octets)):
        assert layout.parse_quickly(octets[:length]) is None
        with pytest.raises(NotParsed) as refused:
            layout.parse(octets[:length])
        assert 0 <= refused.value.offset <= length
    assert layout.parse_quickly(octets + b"\0") is None
    for wrong in ({"big": 1 << 16}, {"big": "1"}, {"rest": b"zzz"}, {"text": "text"}, {"bits": {"high": 2, "low": 3}}):
        assert layout.build_quickly({**sound, **wrong}) is None


def test_a_branch_that_holds_nothing() -> None:
    layout = Compiled(Struct("kind" / Byte, "body" / Switch(this.kind, {0: Pass, 1: Byte}), Terminated))
    for octets, body in ((b"\0", None), (b"\1\7", 7)):
        assert layout.parse_quickly(octets) == ({"kind": octets[0], "body": body}, len(octets))
        assert layout.build_quickly({"kind": octets[0], "body": body}) == octets
    assert layout.parse_quickly(b"\2") is None


def test_a_length_below_zero_is_given_up() -> None:
    layout = Compiled(Struct("length" / Byte, "value" / Bytes(this.length - 4)))
    assert layout.parse_quickly(b"\1abc") is None
    assert layout.parse_quickly(b"\5abc") is not None


def test_where_a_part_does_not_reach_its_end() -> None:
    """A slice past the end takes too little in silence; it must not be believed."""
    for layout in (Struct("value" / Bytes(4)), Struct("value" / Prefixed(Byte, GreedyBytes))):
        assert Compiled(layout).parse_quickly(b"\4ab") is None


def test_a_kind_that_is_not_known_is_no_silent_loss() -> None:
    for make in (reader, writer):
        with pytest.raises(TypeError, match="BytesInteger"):
            make(BytesInteger(3))
    with pytest.raises(TypeError, match="no expression of this"):
        reader(Array(lambda context: 1, Byte))
    odd = Compiled(BytesInteger(3))
    for call in (lambda: odd.parse(bytes(3)), lambda: odd.build(1)):
        with pytest.raises(TypeError, match="BytesInteger"):
            call()


def test_what_an_adapter_refuses_is_the_interpreted_format_s_to_say() -> None:
    class Even(Adapter):  # type: ignore[misc]
        def _decode(self, obj: int, context: Any, path: str) -> int:
            if obj % 2:
                raise ValueError(f"{obj}{path}")
            return obj

        _encode = _decode

    layout = Compiled(Struct("number" / Even(Byte)))
    assert layout.parse(b"\2")["number"] == 2
    for call in (lambda: layout.parse(b"\3"), lambda: layout.build({"number": 3})):
        with pytest.raises(ValueError, match="-> number"):
            call()


@often
@given(contexts)
def test_contexts_are_read_and_written_by_the_compiled_formats_alone(context: Context) -> None:
    with compiled_formats_alone():
        encoded = encode(context)
        assert decode(encoded, ContextTypes()) == context
    with interpreted_formats():
        assert encode(context) == encoded
        assert decode(encoded, ContextTypes()) == context


@pytest.mark.parametrize("name", ["ike-sa-case-3", "ipsec-sa-aes-gcm", "multicast-listener"])
def test_damaged_contexts_get_the_interpreted_formats_answer(name: str) -> None:
    """Each octet with another value, and each cut: the same context, or the same error to the letter."""
    encoded = encode(VALUES[name])
    damaged = [encoded.data[:length] for length in range(len(encoded.data))]
    for position, octet in enumerate(encoded.data):
        for value in {0, 0xFF, octet ^ 1, octet ^ 0x80} - {octet}:
            damaged.append(encoded.data[:position] + bytes([value]) + encoded.data[position + 1 :])
    candidates = [replace(encoded, data=data) for data in damaged]
    compiled = [outcome(candidate) for candidate in candidates]
    with interpreted_formats():
        assert compiled == [outcome(candidate) for candidate in candidates]
    kinds = {type(answer) is str for answer in compiled}
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ike-sa-case-3", {"initiator": 2}),
        ("ipsec-sa-aes-gcm", {"inbound_spi": 1 << 32}),
        ("ipsec-sa-aes-gcm", {"inbound_spi": "1"}),
        ("ipsec-sa-aes-gcm", {"local_selectors": ()}),
        ("ipsec-sa-aes-gcm", {"mode": 9}),
    ],
)
def test_what_can_not_be_written_gets_the_interpreted_formats_error(name: str, changes: dict[str, Any]) -> None:
    context: Any = replace(VALUES[name], **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidContext) as compiled:
        encode(context)
    with interpreted_formats(), pytest.raises(InvalidContext) as interpreted:
        encode(context)
    assert str(compiled.value) == str(interpreted.value)
