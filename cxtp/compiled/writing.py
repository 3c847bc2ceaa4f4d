"""From values to octets: what each kind of declaration becomes."""

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

from .code import Code, Inline, Scopes, Value, as_python, expression, member, only_octets, only_padding


def writer(format_: Construct) -> Callable[..., Any]:
    """``write(value, context)``: the value's octets.  :raises TypeError: as :func:`reader`."""
    code = Code(reads=False)
    code.line("parts = []")
    _write(format_, code, "value", ())
    return code.function("def write(value, context):", "return b''.join(parts)")


@singledispatch
def _write(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    """Gives what the struct around it is to hold under the member's name."""
    raise TypeError(f"{type(format_).__name__} can't be compiled")


@_write.register(Renamed)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    return _write(format_.subcon, code, value, scopes)


@_write.register(Default)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    given = expression(value)
    default = as_python(format_.value, scopes)
    value = default if given == "None" else code.assign(f"{default} if ({given}) is None else ({given})")
    return _write(format_.subcon, code, value, scopes)


@_write.register(Rebuild)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    return _write(format_.subcon, code, code.assign(as_python(format_.func, scopes)), scopes)


@_write.register(FormatField)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    return code.fixed(format_.fmtstr, expression(value))


@_write.register(Bytes)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    length = as_python(format_.length, scopes)
    octets = code.assign(expression(value))
    code.give_up(f"type({octets}) is not bytes or len({octets}) != {length}")
    if isinstance(format_.length, int):
        return code.fixed(f">{length}s", octets)
    return _write_octets(code, octets)


def _write_octets(code: Code, octets: str) -> str:
    code.flush()
    code.line(f"parts.append({octets})")
    return octets


@_write.register(type(GreedyBytes))
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    octets = code.assign(expression(value))
    code.give_up(f"type({octets}) is not bytes")
    return _write_octets(code, octets)


@_write.register(type(Terminated))
@_write.register(type(Tell))
@_write.register(type(Pass))
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    return "None"


@_write.register(Padded)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    code.padding(only_padding(format_))
    return "None"


@_write.register(Prefixed)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    only_octets(format_)
    octets = code.assign(expression(value))
    code.give_up(f"type({octets}) is not bytes")
    _write(format_.lengthfield, code, f"len({octets})", scopes)
    return _write_octets(code, octets)


@_write.register(Array)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    items = code.assign(expression(value))
    code.give_up(f"len({items}) != {as_python(format_.count, scopes)}")
    item = code.name()
    with code.block(f"for {item} in {items}:"):
        _write(format_.subcon, code, item, scopes)
    return items


@_write.register(IfThenElse)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    with code.block(f"if {as_python(format_.condfunc, scopes)}:"):
        _write(format_.thensubcon, code, value, scopes)
    with code.block("else:"):
        _write(format_.elsesubcon, code, value, scopes)
    return value


@_write.register(Switch)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    value, key = code.assign(expression(value)), code.assign(as_python(format_.keyfunc, scopes))
    for number, case in format_.cases.items():
        with code.block(f"if {key} == {number!r}:"):
            _write(case, code, value, scopes)
    code.give_up(f"{key} not in {tuple(format_.cases)!r}")
    return value


@_write.register(Struct)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    if isinstance(value, str) and not value.isidentifier():
        value = code.assign(value)
    values = {part.name: _given(value, part) for part in format_.subcons if part.name}
    for part in format_.subcons:
        written = _write(part, code, values.get(part.name, "None"), (*scopes, values))
        if part.name:
            values[part.name] = written
    return values


def _given(value: Value, part: Any) -> Value:
    """What the struct's value has for a member; None where it need not have it."""
    if not part.flagbuildnone:
        return member(value, part.name)
    return f"{value}.get({part.name!r})" if isinstance(value, str) else value.get(part.name, "None")


@_write.register(Adapter)
def _(format_: Any, code: Code, value: Value, scopes: Scopes) -> Value:
    if isinstance(format_, Inline):
        inner = format_.compile_encode(value, code)
    else:
        inner = code.assign(f"{code.bind(format_._encode)}({expression(value)}, None, '')")
    _write(format_.subcon, code, inner, scopes)
    return value
