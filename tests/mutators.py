"""Ways to spoil CXTP messages: named, one fault each.  Shared by whatever looks at how spoiled messages are taken."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutator = Callable[[bytes, random.Random], bytes]
"""Octets and chance in, octets out; what it can't spoil it returns as it is."""


def _at(octets: bytes, position: int, value: int) -> bytes:
    if position >= len(octets):
        return octets
    return octets[:position] + bytes((value & 0xFF,)) + octets[position + 1 :]


def _with_length(octets: bytes) -> bytes:
    """The Length field put right."""
    return octets[:2] + len(octets).to_bytes(2, "big")[-2:] + octets[4:] if len(octets) >= 4 else octets


def another_type(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 0, octets[0] & 0xE0 | rng.randrange(32)) if octets else octets


def another_version(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 0, octets[0] & 0x1F | rng.randrange(8) << 5) if octets else octets


def another_flag(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 1, octets[1] ^ 1 << rng.randrange(8)) if len(octets) > 1 else octets


def another_length(octets: bytes, rng: random.Random) -> bytes:
    length = rng.choice((0, 3, 4, len(octets) - 1, len(octets) + 1, 0xFFFF, rng.randrange(0x10000)))
    return octets[:2] + (length & 0xFFFF).to_bytes(2, "big") + octets[4:] if len(octets) >= 4 else octets


def cut(octets: bytes, rng: random.Random) -> bytes:
    return octets[: rng.randrange(len(octets) + 1)]


def cut_and_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(octets[: rng.randrange(4, len(octets) + 1)]) if len(octets) > 4 else octets


def a_trailing_octet(octets: bytes, rng: random.Random) -> bytes:
    return octets + bytes((rng.randrange(256),))


def a_trailing_octet_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(octets + bytes((rng.randrange(256),)))


def one_bit(octets: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(octets)) if octets else 0
    return _at(octets, at, octets[at] ^ 1 << rng.randrange(8)) if octets else octets


def one_octet(octets: bytes, rng: random.Random) -> bytes:
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return _at(octets, rng.randrange(len(octets)), value) if octets else octets


def a_slice_twice(octets: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(octets) + 1)
    end = rng.randrange(start, min(len(octets), start + 64) + 1)
    return octets[:end] + octets[start:end] + octets[end:]


def a_slice_gone(octets: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(octets) + 1)
    return octets[:start] + octets[rng.randrange(start, min(len(octets), start + 64) + 1) :]


def a_slice_gone_and_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(a_slice_gone(octets, rng))


def a_slice_twice_and_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(a_slice_twice(octets, rng)[:0xFFFF])


def a_number_at_its_edge(octets: bytes, rng: random.Random) -> bytes:
    """Some aligned 16 or 32 bits become the least or greatest number."""
    size = rng.choice((2, 4))
    if len(octets) < size:
        return octets
    at = rng.randrange(0, len(octets) - size + 1)
    value = rng.choice((b"\0" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\0" * (size - 1) + b"\1"))
    return octets[:at] + value + octets[at + size :]


# --- faults of one point, the same each time: what the rules of cxtp.conformance tell apart -----------------------


def version_2(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 0, octets[0] & 31 | 2 << 5) if octets else octets


def no_type(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 0, octets[0] & 0xE0 | 31) if octets else octets


def one_too_long(octets: bytes, rng: random.Random) -> bytes:
    """Length tells one octet more than there are."""
    return octets[:2] + (len(octets) + 1 & 0xFFFF).to_bytes(2, "big") + octets[4:] if len(octets) >= 4 else octets


def one_octet_less_and_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(octets[:-1]) if len(octets) > 4 else octets


def one_octet_more_and_told(octets: bytes, rng: random.Random) -> bytes:
    return _with_length(octets + b"\0")


def a_reserved_bit(octets: bytes, rng: random.Random) -> bytes:
    return _at(octets, 1, octets[1] | 1) if len(octets) > 1 else octets


def the_last_octet_set(octets: bytes, rng: random.Random) -> bytes:
    """The last record's reserved octet; the last block's padding."""
    return _at(octets, len(octets) - 1, 0xA5) if octets else octets


def random_octets(octets: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(128))


MUTATORS: dict[str, Mutator] = {
    function.__name__.replace("_", " "): function
    for function in (
        another_type,
        another_version,
        another_flag,
        another_length,
        cut,
        cut_and_told,
        a_trailing_octet,
        a_trailing_octet_told,
        one_bit,
        one_octet,
        a_slice_twice,
        a_slice_twice_and_told,
        a_slice_gone,
        a_slice_gone_and_told,
        a_number_at_its_edge,
        version_2,
        no_type,
        one_too_long,
        one_octet_less_and_told,
        one_octet_more_and_told,
        a_reserved_bit,
        the_last_octet_set,
        random_octets,
    )
}


def mutated(octets: bytes, rng: random.Random) -> bytes:
    """One to four faults."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        octets = rng.choice(list(MUTATORS.values()))(octets, rng)
    return octets
