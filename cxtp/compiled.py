"""Construct declarations, compiled to functions that read octets where they lie: the same formats, many times faster.

Construct interprets: each field costs a container, a stream and a path for an error that hardly ever comes.
Its own generator (``Construct.compile``) keeps the stream, takes short reads in silence and leaves adapters as they
are.  Here each declaration becomes a closure over octets, position and the struct's values so far; integers side by
side become one ``struct.unpack_from``.

The interpreted declaration stays what counts.  A closure may only do what it does or give up: whatever it raises,
the interpreted one is asked again, and its answer, mostly an error that names field and octet, is the answer.
Tests hold the two against each other on sound and on damaged octets.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import singledispatch
from typing import Any

from construct import (
    Adapter,
    Array,
    Bytes,
    Construct,
    ConstructError,
    Default,
    FormatField,
    IfThenElse,
    Prefixed,
    Rebuild,
    Renamed,
    Struct,
    Switch,
)
from construct.core import GreedyBytes, Pass, Tell, Terminated

Scope = dict[str, Any]
"""The values of the struct that is being read or written, by name; ``_`` is the scope around it."""

Read = Callable[[bytes, int, Scope], tuple[Any, int]]
"""Of octets, position and scope: the value and the position behind it, which may be past the end; then the value is
too short, and whoever called first sees it (:meth:`Compiled.parse_quickly`)."""

Write = Callable[[Any, Scope, list[bytes]], Any]
"""Of value, scope and the parts so far, to which it adds; gives what the scope is to hold under its name."""


class Uncertain(Exception):
    """The compiled format gives up; the interpreted one knows why."""


class NotParsed(Exception):
    """What the interpreted format found (``error``), and how far it had read (``offset``, octets)."""

    def __init__(self, error: ConstructError, offset: int) -> None:
        super().__init__(type(error).__name__)  # construct's own text may repeat a value, which may be a key
        self.error = error
        self.offset = offset


class Compiled:
    """A format with its closures: compiled where all is well, interpreted where it is not.

    ``format`` is the declaration, for those whom :meth:`parse_quickly` leaves without an answer.
    """

    def __init__(self, format_: Construct) -> None:
        self.format = format_
        self._read = reader(format_)
        self._write = writer(format_)

    def parse_quickly(self, octets: bytes, position: int = 0, **context: Any) -> tuple[Any, int] | None:
        """What stands at ``position``, a struct as a dict, and where it ends; None: ask the interpreted format.

        ``context`` is what Construct's own ``parse`` takes: the scope around the format's, its ``this._``.
        """
        try:
            found = self._read(octets, position, context)
        except Exception:
            return None
        return found if found[1] <= len(octets) else None

    def parse(self, octets: bytes) -> Any:
        """What the octets say from their first on, a struct as a dict.  :raises NotParsed: not what the format says."""
        found = self.parse_quickly(octets)
        if found is not None:
            return found[0]
        stream = io.BytesIO(octets)
        try:
            return self.format.parse_stream(stream)
        except ConstructError as error:
            raise NotParsed(error, stream.tell()) from None

    def build_quickly(self, value: Any, **context: Any) -> bytes | None:
        """The value's octets; None: ask the interpreted format."""
        parts: list[bytes] = []
        try:
            self._write(value, context, parts)
        except Exception:
            return None
        return b"".join(parts)

    def build(self, value: Any, **context: Any) -> bytes:
        """The value's octets.  Raises as the format's own ``build`` does, from which all errors come."""
        octets = self.build_quickly(value, **context)
        return octets if octets is not None else bytes(self.format.build(value, **context))


def _function(expression: Any) -> Callable[[Scope], Any]:
    """An expression of ``this`` as a function of the scope; Construct's ``repr`` of it is Python."""
    if not callable(expression):
        return lambda scope: expression
    source = repr(expression)
    if "this" not in source:
        raise TypeError(f"{source} is no expression of this")
    return eval(f"lambda this: {source}", {"len_": len})  # type: ignore[no-any-return]


# --- one field of each kind -------------------------------------------------------------------------------------


@singledispatch
def reader(format_: Construct) -> Read:
    """The function that reads ``format_``.  :raises TypeError: a kind of declaration that is not known here."""
    raise TypeError(f"no reader for {type(format_).__name__}")


@singledispatch
def writer(format_: Construct) -> Write:
    """The function that writes ``format_``.  :raises TypeError: a kind of declaration that is not known here."""
    raise TypeError(f"no writer for {type(format_).__name__}")


@reader.register(Renamed)
@reader.register(Default)
@reader.register(Rebuild)
def _(format_: Any) -> Read:
    return reader(format_.subcon)


@writer.register(Renamed)
def _(format_: Renamed) -> Write:
    return writer(format_.subcon)


@writer.register(Default)
def _(format_: Default) -> Write:
    write, default = writer(format_.subcon), _function(format_.value)
    return lambda value, scope, parts: write(default(scope) if value is None else value, scope, parts)


@writer.register(Rebuild)
def _(format_: Rebuild) -> Write:
    write, rebuilt = writer(format_.subcon), _function(format_.func)
    return lambda value, scope, parts: write(rebuilt(scope), scope, parts)


@reader.register(FormatField)
def _(format_: FormatField) -> Read:
    layout = struct.Struct(format_.fmtstr)
    unpack, length = layout.unpack_from, layout.size
    return lambda octets, position, scope: (unpack(octets, position)[0], position + length)


@writer.register(FormatField)
def _(format_: FormatField) -> Write:
    pack = struct.Struct(format_.fmtstr).pack

    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        parts.append(pack(value))
        return value

    return write


@reader.register(Bytes)
def _(format_: Bytes) -> Read:
    length_of = _function(format_.length)

    def read(octets: bytes, position: int, scope: Scope) -> tuple[bytes, int]:
        length = length_of(scope)
        if length < 0:
            raise Uncertain
        end = position + length
        return octets[position:end], end

    return read


@writer.register(Bytes)
def _(format_: Bytes) -> Write:
    length_of = _function(format_.length)

    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        if type(value) is not bytes or len(value) != length_of(scope):
            raise Uncertain
        parts.append(value)
        return value

    return write


@reader.register(type(GreedyBytes))
def _(format_: Construct) -> Read:
    return lambda octets, position, scope: (octets[position:], len(octets))


@writer.register(type(GreedyBytes))
def _(format_: Construct) -> Write:
    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        if type(value) is not bytes:
            raise Uncertain
        parts.append(value)
        return value

    return write


@reader.register(type(Terminated))
def _(format_: Construct) -> Read:
    def read(octets: bytes, position: int, scope: Scope) -> tuple[None, int]:
        if position != len(octets):
            raise Uncertain
        return None, position

    return read


@reader.register(type(Tell))
def _(format_: Construct) -> Read:
    return lambda octets, position, scope: (position, position)


@reader.register(type(Pass))
def _(format_: Construct) -> Read:
    return lambda octets, position, scope: (None, position)


@writer.register(type(Terminated))
@writer.register(type(Pass))
def _(format_: Construct) -> Write:
    return lambda value, scope, parts: value


@writer.register(type(Tell))
def _(format_: Construct) -> Write:
    return lambda value, scope, parts: sum(map(len, parts))


# --- what holds others ------------------------------------------------------------------------------------------


@reader.register(Prefixed)
def _(format_: Prefixed) -> Read:
    read_length, read_value = reader(format_.lengthfield), reader(format_.subcon)

    def read(octets: bytes, position: int, scope: Scope) -> tuple[Any, int]:
        length, position = read_length(octets, position, scope)
        end = position + length
        return read_value(octets[position:end], 0, scope)[0], end

    return read


@writer.register(Prefixed)
def _(format_: Prefixed) -> Write:
    write_length, write_value = writer(format_.lengthfield), writer(format_.subcon)

    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        inner: list[bytes] = []
        result = write_value(value, scope, inner)
        write_length(sum(map(len, inner)), scope, parts)
        parts += inner
        return result

    return write


@reader.register(Array)
def _(format_: Array) -> Read:
    read_item, count_of = reader(format_.subcon), _function(format_.count)

    def read(octets: bytes, position: int, scope: Scope) -> tuple[list[Any], int]:
        items = []
        for _ in range(count_of(scope)):
            item, position = read_item(octets, position, scope)
            items.append(item)
        return items, position

    return read


@writer.register(Array)
def _(format_: Array) -> Write:
    write_item, count_of = writer(format_.subcon), _function(format_.count)

    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        if len(value) != count_of(scope):
            raise Uncertain
        return [write_item(item, scope, parts) for item in value]

    return write


@reader.register(Switch)
def _(format_: Switch) -> Read:
    key_of = _function(format_.keyfunc)
    readers = {key: reader(case) for key, case in format_.cases.items()}
    return lambda octets, position, scope: readers[key_of(scope)](octets, position, scope)


@writer.register(Switch)
def _(format_: Switch) -> Write:
    key_of = _function(format_.keyfunc)
    writers = {key: writer(case) for key, case in format_.cases.items()}
    return lambda value, scope, parts: writers[key_of(scope)](value, scope, parts)


@reader.register(IfThenElse)
def _(format_: IfThenElse) -> Read:
    condition = _function(format_.condfunc)
    yes, no = reader(format_.thensubcon), reader(format_.elsesubcon)
    return lambda octets, position, scope: (yes if condition(scope) else no)(octets, position, scope)


@writer.register(IfThenElse)
def _(format_: IfThenElse) -> Write:
    condition = _function(format_.condfunc)
    yes, no = writer(format_.thensubcon), writer(format_.elsesubcon)
    return lambda value, scope, parts: (yes if condition(scope) else no)(value, scope, parts)


@reader.register(Adapter)
def _(format_: Any) -> Read:
    read_inner, decode = reader(format_.subcon), format_._decode

    def read(octets: bytes, position: int, scope: Scope) -> tuple[Any, int]:
        value, position = read_inner(octets, position, scope)
        return decode(value, scope, ""), position

    return read


@writer.register(Adapter)
def _(format_: Any) -> Write:
    write_inner, encode = writer(format_.subcon), format_._encode

    def write(value: Any, scope: Scope, parts: list[bytes]) -> Any:
        write_inner(encode(value, scope, ""), scope, parts)
        return value

    return write


# --- structs ----------------------------------------------------------------------------------------------------


def _runs(members: Iterable[Any]) -> Iterator[tuple[tuple[str, ...], str, Construct | None]]:
    """Members in their order: names and struct format of integers side by side, or one name and its declaration."""
    names: list[str] = []
    codes = ""
    for member in members:
        inner = member
        while isinstance(inner, Renamed):
            inner = inner.subcon
        if isinstance(inner, FormatField) and member.name and inner.fmtstr[0] == (codes or ">")[0]:
            names.append(member.name)
            codes = (codes or ">") + inner.fmtstr[1]
            continue
        if names:
            yield tuple(names), codes, None
        names, codes = [], ""
        yield (member.name or "",), "", member
    if names:
        yield tuple(names), codes, None


def _read_run(names: tuple[str, ...], codes: str) -> Read:
    layout = struct.Struct(codes)
    unpack, length = layout.unpack_from, layout.size

    def read(octets: bytes, position: int, scope: Scope) -> tuple[Any, int]:
        scope.update(zip(names, unpack(octets, position), strict=True))
        return None, position + length

    return read


def _write_run(names: tuple[str, ...], codes: str) -> Write:
    pack = struct.Struct(codes).pack

    def write(value: Mapping[str, Any], scope: Scope, parts: list[bytes]) -> Any:
        parts.append(pack(*[value[name] for name in names]))

    return write


@reader.register(Struct)
def _(format_: Struct) -> Read:
    steps = [
        ("", _read_run(names, codes)) if member is None else (names[0], reader(member))
        for names, codes, member in _runs(format_.subcons)
    ]

    def read(octets: bytes, position: int, scope: Scope) -> tuple[Scope, int]:
        values: Scope = {"_": scope}
        for name, step in steps:
            value, position = step(octets, position, values)
            if name:
                values[name] = value
        return values, position

    return read


@writer.register(Struct)
def _(format_: Struct) -> Write:
    steps = [
        ("", _write_run(names, codes), False)
        if member is None
        else (names[0], writer(member), member.flagbuildnone)
        for names, codes, member in _runs(format_.subcons)
    ]

    def write(value: Mapping[str, Any], scope: Scope, parts: list[bytes]) -> Any:
        values: Scope = {**value, "_": scope}
        for name, step, optional in steps:
            if not name:
                step(value, values, parts)
            else:
                values[name] = step(value.get(name) if optional else value[name], values, parts)
        return values

    return write
