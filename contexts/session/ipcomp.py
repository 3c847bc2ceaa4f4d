"""IPComp (RFC 3173) with DEFLATE (RFC 2394): what stands between ESP and the inner packet when it is on.

Next Header 8 | Flags 8 (zero) | Compression Parameter Index 16 | compressed octets
"""

from __future__ import annotations

import zlib

from cxtp.constants import IpCompTransform
from cxtp.errors import LocalError, ProtectionError, UnsupportedAlgorithm

HEADER = 4
MAXIMUM_INFLATED = 65_535
"""Octets that one packet may grow to: an IP packet's length has 16 bits."""

_INFLATE_WINDOW = -15
_DEFLATE_WINDOW = -11
"""Raw streams. Linux inflates with a window of 2^11 octets only, so nobody is sent more."""


def decompress(octets: bytes, cpi: int, algorithm: int) -> tuple[int, bytes]:
    """Next header and what was compressed.

    ``cpi`` is the SA's for that direction; a packet may also bear the transform's well-known one.  Raises
    ProtectionError; UnsupportedAlgorithm for transforms other than DEFLATE.
    """
    _check_algorithm(algorithm)
    if len(octets) < HEADER:
        raise ProtectionError("no room for the IPComp header", section="RFC 3173, 3.3")
    found = int.from_bytes(octets[2:4], "big")
    if found not in (cpi, algorithm):
        raise ProtectionError(f"CPI {found} is not the SA's", section="RFC 3173, 3.3")
    inflate = zlib.decompressobj(_INFLATE_WINDOW)
    try:
        payload = inflate.decompress(octets[HEADER:], MAXIMUM_INFLATED + 1)
    except zlib.error:
        raise ProtectionError("no DEFLATE stream", section="RFC 2394, 2") from None
    if len(payload) > MAXIMUM_INFLATED:
        raise ProtectionError(f"more than {MAXIMUM_INFLATED} octets come out", section="RFC 3173, 2")
    if not inflate.eof:
        raise ProtectionError("the DEFLATE stream is cut off", section="RFC 2394, 2")
    return octets[0], payload


def compress(payload: bytes, next_header: int, cpi: int, algorithm: int) -> bytes | None:
    """IPComp header and compressed octets; None where they would not be shorter: send it as it is (RFC 3173, 2.2).

    Raises LocalError for numbers out of range, UnsupportedAlgorithm as :func:`decompress`.
    """
    _check_algorithm(algorithm)
    if not 0 <= next_header <= 255 or not 0 <= cpi <= 0xFFFF:
        raise LocalError(f"next header {next_header} or CPI {cpi} out of range")
    deflate = zlib.compressobj(wbits=_DEFLATE_WINDOW)
    body = deflate.compress(payload) + deflate.flush()
    if HEADER + len(body) >= len(payload):
        return None
    return bytes([next_header, 0]) + cpi.to_bytes(2, "big") + body


def _check_algorithm(algorithm: int) -> None:
    if algorithm != IpCompTransform.DEFLATE:
        raise UnsupportedAlgorithm("IPComp transform", algorithm)
