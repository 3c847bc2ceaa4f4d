"""From octets to values: what each kind of declaration becomes."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

from construct import (
    Adapter,
    Array,
    Bytes,
    Construct,
    Default,
    FormatField,
    IfThenElse,
    Prefixed,
    Rebuild,
    Renamed,
    Struct,
    Switch,
)
from construct.core import GreedyBytes, Padded, Pass, Tell, Terminated

from .code import Code, Inline, Scopes, Value, as_python, expression, only_octets, only_padding


def reader(format_: Construct) -> Callable[..., Any]:
    """``read(octets, position, context)``: the value, and the position behind it, which may be past the end.

    :raises TypeError: a kind of declaration that is not known here.
    """
    code = Code(reads=True)
    value = expression(_read(format_, code, ()))
    return code.function("def read(octets, position, context):", f"return {value}, position")


@singledispatch
def _read(format_: Any, code: Code, scopes: Scopes) -> Value:
    raise TypeError(f"{type(format_).__name__} can't be compiled")


@_read.register(Renamed)
@_read.register(Default)
@_read.register(Rebuild)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    return _read(format_.subcon, code, scopes)


@_read.register(FormatField)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    return code.fixed(format_.fmtstr)


@_read.register(Bytes)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    if isinstance(format_.length, int):
        return code.fixed(f">{format_.length}s")
    length = code.assign(as_python(format_.length, scopes))
    code.give_up(f"{length} < 0")
    return _read_octets(code, length)


def _read_octets(code: Code, length: str) -> str:
    code.flush()
    octets = code.assign(f"octets[position:position + {length}]")
    code.line(f"position += {length}")
    return octets


@_read.register(type(GreedyBytes))
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    code.flush()
    octets = code.assign("octets[position:]")
    code.line("position = len(octets)")
    return octets


@_read.register(type(Terminated))
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    code.flush()
    code.give_up("position != len(octets)")
    return "None"


@_read.register(type(Tell))
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    code.flush()
    return code.assign("position")


@_read.register(type(Pass))
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    return "None"


@_read.register(Padded)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    code.padding(only_padding(format_))
    return "None"


@_read.register(Prefixed)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    only_octets(format_)
    return _read_octets(code, expression(_read(format_.lengthfield, code, scopes)))


@_read.register(Array)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    count = as_python(format_.count, scopes)
    code.flush()
    items = code.assign("[]")
    with code.block(f"for _ in range({count}):"):
        code.line(f"{items}.append({expression(_read(format_.subcon, code, scopes))})")
    return items


@_read.register(IfThenElse)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    value = code.name()
    with code.block(f"if {as_python(format_.condfunc, scopes)}:"):
        code.line(f"{value} = {expression(_read(format_.thensubcon, code, scopes))}")
    with code.block("else:"):
        code.line(f"{value} = {expression(_read(format_.elsesubcon, code, scopes))}")
    return value


@_read.register(Switch)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    value, key = code.name(), code.assign(as_python(format_.keyfunc, scopes))
    for number, case in format_.cases.items():
        with code.block(f"if {key} == {number!r}:"):
            code.line(f"{value} = {expression(_read(case, code, scopes))}")
    code.give_up(f"{key} not in {tuple(format_.cases)!r}")
    return value


@_read.register(Struct)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    values: dict[str, Value] = {}
    for part in format_.subcons:
        value = _read(part, code, (*scopes, values))
        if part.name:
            values[part.name] = value
    return values


@_read.register(Adapter)
def _(format_: Any, code: Code, scopes: Scopes) -> Value:
    inner = _read(format_.subcon, code, scopes)
    if isinstance(format_, Inline):
        return format_.compile_decode(inner, code)
    return code.assign(f"{code.bind(format_._decode)}({expression(inner)}, None, '')")
