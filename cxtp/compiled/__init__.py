"""Construct declarations, compiled to Python that reads octets where they lie: the same formats, many times faster.

Construct interprets: each field costs a container, a stream and a path for an error that hardly ever comes.
Its own generator (``Construct.compile``) keeps the stream, takes short reads in silence and leaves adapters as they
are.  Here a declaration becomes one function, two for both ways: members are local variables, and whatever has a
fixed size and stands side by side is one ``struct.unpack_from`` or ``pack``, across nested structs.  Of
``Struct("flags" / Int8ub, "count" / Int8ub, "items" / Array(this.count, Int16ub), Terminated)`` it makes::

    def read(octets, position, context):
        [v2, v3] = unpack_4(octets, position)
        position += 2
        v5 = []
        for _ in range((v3)):
            [v6] = unpack_7(octets, position)
            position += 2
            v5.append(v6)
        if position != len(octets): raise Uncertain
        return {'flags': v2, 'count': v3, 'items': v5}, position

The interpreted declaration stays what counts.  A function may only do what it does or give up: whatever it raises,
the interpreted one is asked again, and its answer, mostly an error that names field and octet, is the answer.
Tests hold the two against each other on sound and on damaged octets.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from construct import Construct, ConstructError

from .reading import reader
from .writing import writer

__all__ = ["Compiled", "NotParsed"]


class NotParsed(Exception):
    """What the interpreted format found (``error``), and how far it had read (``offset``, octets)."""

    def __init__(self, error: ConstructError, offset: int) -> None:
        super().__init__(type(error).__name__)  # construct's own text may repeat a value, which may be a key
        self.error = error
        self.offset = offset


class Compiled:
    """A format with its functions: compiled where all is well, interpreted where it is not.

    ``format`` is the declaration, for those whom :meth:`parse_quickly` leaves without an answer.
    """

    def __init__(self, format_: Construct) -> None:
        self.format = format_

    @cached_property
    def _read(self) -> Callable[[bytes, int, Mapping[str, Any]], tuple[Any, int]]:
        return reader(self.format)

    @cached_property
    def _write(self) -> Callable[[Any, Mapping[str, Any]], bytes]:
        return writer(self.format)

    def parse_quickly(self, octets: bytes, position: int = 0, **context: Any) -> tuple[Any, int] | None:
        """What stands at ``position``, a struct as a dict, and where it ends; None: ask the interpreted format.

        ``context`` is what Construct's own ``parse`` takes: the scope around the format's, its ``this._``.
        """
        read = self._read  # out here, so that a declaration that can't be compiled is an error and not merely slow
        try:
            found = read(octets, position, context)
        except Exception:  # whatever it was, the interpreted format says it better
            return None
        # A slice past the end is short and says nothing: it is here that this shows.
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
        write = self._write
        try:
            return write(value, context)
        except Exception:  # as above
            return None

    def build(self, value: Any, **context: Any) -> bytes:
        """The value's octets.  Raises as the format's own ``build`` does, from which all errors come."""
        octets = self.build_quickly(value, **context)
        return octets if octets is not None else bytes(self.format.build(value, **context))
