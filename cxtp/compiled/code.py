"""The text of a compiled format's function while it is made."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union

from construct.core import GreedyBytes, Pass


class Uncertain(Exception):
    """The compiled format gives up; the interpreted one knows why."""


Value = Union[str, "dict[str, Value]"]
"""A value while code is made: an expression, or a struct's members by name, which become a dict only where one is
asked for."""

Scopes = Sequence[Mapping[str, Value]]
"""The members of the structs that are open, the innermost last."""


def expression(value: Value) -> str:
    """The value as Python."""
    if isinstance(value, str):
        return value
    return "{" + ", ".join(f"{name!r}: {expression(member)}" for name, member in value.items()) + "}"


def member(value: Value, name: str) -> Value:
    """One member of a struct."""
    return f"{value}[{name!r}]" if isinstance(value, str) else value[name]


class Code:
    """The text of one function, and the objects that it names.

    What has a fixed size waits in a run until something else must know where the octets go on.
    """

    def __init__(self, *, reads: bool) -> None:
        self.reads = reads
        self.names: dict[str, Any] = {"Uncertain": Uncertain, "len_": len}
        self._lines: list[str] = []
        self._indent = 1
        self._run: list[tuple[str, str]] = []
        self._order = ""
        self._after: list[str] = []

    def name(self, prefix: str = "v") -> str:
        """One that is new."""
        self.names[f"{prefix}{len(self.names)}"] = None
        return next(reversed(self.names))

    def bind(self, thing: Any, prefix: str = "o") -> str:
        """A name for an object from outside."""
        name = self.name(prefix)
        self.names[name] = thing
        return name

    def line(self, text: str) -> None:
        """A statement that may use what is in the run."""
        (self._after if self.reads and self._run else self._lines).append("    " * self._indent + text)

    def assign(self, text: str) -> str:
        """A new variable's name."""
        name = self.name()
        self.line(f"{name} = {text}")
        return name

    def give_up(self, condition: str) -> None:
        """Where the condition holds."""
        self.line(f"if {condition}: raise Uncertain")

    def fixed(self, codes: str, value: str = "") -> str:
        """So many octets, by struct's codes: read to a new variable, or written."""
        order = "" if codes[-1] in "sBb" else codes[0]
        if order and self._order and order != self._order:
            self.flush()
        self._order = self._order or order
        value = value or self.name()
        self._run.append((codes[1:], value))
        return value

    def padding(self, octets: int) -> None:
        """Skipped, or written as zero."""
        self._run.append((f"{octets}x", ""))

    def flush(self) -> None:
        """Nothing waits any more."""
        run, after, order = self._run, self._after, self._order
        self._run, self._after, self._order = [], [], ""
        if not run:
            return
        layout = struct.Struct((order or ">") + "".join(codes for codes, _ in run))
        values = ", ".join(filter(None, (value for _, value in run)))
        if self.reads:
            self.line(f"[{values}] = {self.bind(layout.unpack_from, 'unpack_')}(octets, position)")
            self.line(f"position += {layout.size}")
        else:
            self.line(f"parts.append({self.bind(layout.pack, 'pack_')}({values}))")
        self._lines += after

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What stands under a statement with a colon; outside of it nothing waits."""
        self.flush()
        self.line(head)
        self._indent += 1
        yield
        self.line("pass")  # where nothing else does
        self.flush()
        self._indent -= 1

    def function(self, head: str, *last: str) -> Callable[..., Any]:
        """What all this does.  Its text is made of declarations in this project's own source, never of input."""
        self.flush()
        for text in last:
            self.line(text)
        source = "\n".join([head, *self._lines])
        exec(compile(source, f"<compiled {head}>", "exec"), self.names)
        return self.names[head.removeprefix("def ").partition("(")[0]]  # type: ignore[no-any-return]


_THIS = re.compile(r"this((?:\['_'\])*)((?:\['\w+'\])+)")


def as_python(formula: Any, scopes: Scopes) -> str:
    """An expression of ``this``, whose ``repr`` is Python, of the variables that hold what it names."""

    def local(found: re.Match[str]) -> str:
        level = len(scopes) - 1 - found[1].count("_")
        names = re.findall(r"\w+", found[2])
        value: Value = scopes[level][names[0]] if level >= 0 else f"context[{names[0]!r}]"
        for name in names[1:]:
            value = member(value, name)
        return f"({expression(value)})"

    text = repr(formula)
    if callable(formula) and "this" not in text:
        raise TypeError(f"{text} is no expression of this")
    return _THIS.sub(local, text)


class Inline:
    """An adapter that writes itself into the code, in place of being called: what ``_decode`` and ``_encode`` do."""

    def compile_decode(self, inner: Value, code: Code) -> Value:
        """Of the subcon's value: the adapter's."""
        raise NotImplementedError

    def compile_encode(self, value: Value, code: Code) -> Value:
        """Of the adapter's value: the subcon's."""
        raise NotImplementedError


def only_octets(format_: Any) -> None:
    """A Prefixed holds nothing but octets.  :raises TypeError: it does."""
    if format_.subcon is not GreedyBytes:
        raise TypeError("a Prefixed of anything but GreedyBytes can't be compiled")


def only_padding(format_: Any) -> int:
    """How many octets of zero a Padded is.  :raises TypeError: it is something else."""
    if format_.subcon is not Pass or not isinstance(format_.length, int) or format_.pattern != b"\0":
        raise TypeError("a Padded of anything but Pass can't be compiled")
    return format_.length
