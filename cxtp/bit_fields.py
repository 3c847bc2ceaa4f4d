"""Bit fields of octets, as an RFC's box shows them, and how a format refuses what its fields do not allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from construct import Adapter, Construct, ValidationError

from .compiled.code import Code, Inline, Value, expression, member


class Refusal(ValidationError):  # type: ignore[misc]
    """A value that the format forbids; ``supported`` is False where another edition of it may allow it."""

    def __init__(self, reason: str, path: str, *, supported: bool = True) -> None:
        super().__init__(reason, path=path)
        self.reason = reason
        self.supported = supported


class BitFields(Adapter, Inline):  # type: ignore[misc]
    """An integer cut into named fields of so many bits, the most significant first, as an RFC's box shows them.

    Construct's BitStruct says the same and takes three times as long.  ``reserved`` bits are built as zero.
    """

    def __init__(self, integer: Construct, **widths: int) -> None:
        super().__init__(integer)
        if sum(widths.values()) != integer.sizeof() * 8:
            raise TypeError(f"the bit fields {', '.join(widths)} do not fill their integer")
        shift = integer.sizeof() * 8
        self.parts: list[tuple[str, int, int]] = []
        for name, width in widths.items():
            shift -= width
            self.parts.append((name, shift, (1 << width) - 1))

    def _decode(self, obj: int, context: Any, path: str) -> dict[str, int]:
        return {name: obj >> shift & mask for name, shift, mask in self.parts}

    def _encode(self, obj: Mapping[str, Any], context: Any, path: str) -> int:
        number = 0
        for name, shift, mask in self.parts:
            value = 0 if name == "reserved" else int(obj[name])
            if not 0 <= value <= mask:
                raise Refusal(f"not an integer of {mask.bit_length()} bits", f"{path} -> {name}")
            number |= value << shift
        return number

    def compile_decode(self, inner: Value, code: Code) -> Value:
        return {name: f"({expression(inner)} >> {shift} & {mask})" for name, shift, mask in self.parts}

    def compile_encode(self, value: Value, code: Code) -> Value:
        bits = []
        for name, shift, mask in self.parts:
            if name != "reserved":
                bit = code.assign(f"int({expression(member(value, name))})")
                code.give_up(f"not 0 <= {bit} <= {mask}")
                bits.append(f"{bit} << {shift}")
        return " | ".join(bits) or "0"
