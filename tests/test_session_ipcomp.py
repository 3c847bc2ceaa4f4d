"""IPComp with DEFLATE (RFC 3173, RFC 2394)."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from session_examples import octets

from contexts.session.ipcomp import MAXIMUM_INFLATED, compress, decompress
from cxtp.errors import LocalError, ProtectionError, UnsupportedAlgorithm

CPI = 0x9ABC
TEXT = b"the same words, the same words, " * 20


def raw_deflate(data: bytes, window: int = -15) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, window)
    return stream.compress(data) + stream.flush()


def test_a_packet_by_hand() -> None:
    # RFC 3173, 3.3: next header, flags, CPI; DEFLATE of one stored block (RFC 1951, 3.2.4)
    stored = bytes.fromhex("01 0500 faff") + b"hello"
    assert decompress(b"\x04\x00\x9a\xbc" + stored, CPI, 2) == (4, b"hello")


def test_what_is_compressed_opens() -> None:
    packet = compress(TEXT, 4, CPI, 2)
    assert packet is not None
    assert packet[:4] == b"\x04\x00\x9a\xbc"
    assert len(packet) < len(TEXT)
    assert decompress(packet, CPI, 2) == (4, TEXT)
    # a second witness, with the window of 2^11 octets that Linux inflates with
    assert zlib.decompressobj(-11).decompress(packet[4:]) == TEXT


@pytest.mark.parametrize("window", [-9, -11, -15])
def test_every_window_is_inflated(window: int) -> None:
    data = octets(4000) * 3
    assert decompress(b"\x11\0\0\x02" + raw_deflate(data, window), CPI, 2) == (17, data)


def test_what_does_not_shrink_is_sent_as_it_is() -> None:
    assert compress(octets(20), 4, CPI, 2) is None
    assert compress(b"", 4, CPI, 2) is None


def test_another_cpi() -> None:
    packet = compress(TEXT, 4, CPI + 1, 2)
    assert packet is not None
    with pytest.raises(ProtectionError):
        decompress(packet, CPI, 2)


def test_a_bomb_is_not_inflated() -> None:
    for size, fits in ((MAXIMUM_INFLATED, True), (MAXIMUM_INFLATED + 1, False), (50_000_000, False)):
        packet = b"\x04\0\x9a\xbc" + raw_deflate(bytes(size))
        if fits:
            assert decompress(packet, CPI, 2) == (4, bytes(size))
        else:
            with pytest.raises(ProtectionError):
                decompress(packet, CPI, 2)


def test_a_bomb_takes_no_memory() -> None:
    packet = b"\x04\0\x9a\xbc" + raw_deflate(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ProtectionError):
            decompress(packet, CPI, 2)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_cut_at_every_length() -> None:
    packet = compress(TEXT, 4, CPI, 2)
    assert packet is not None
    for length in range(len(packet)):
        with pytest.raises(ProtectionError):
            decompress(packet[:length], CPI, 2)


def test_no_deflate_stream() -> None:
    with pytest.raises(ProtectionError):
        decompress(b"\x04\0\x9a\xbc\xff\xff\xff\xff", CPI, 2)


@pytest.mark.parametrize("algorithm", [0, 1, 3, 4, 99])
def test_other_transforms(algorithm: int) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        compress(TEXT, 4, CPI, algorithm)
    with pytest.raises(UnsupportedAlgorithm):
        decompress(TEXT, CPI, algorithm)


def test_numbers_out_of_range() -> None:
    for next_header, cpi in ((256, CPI), (4, 1 << 16), (-1, CPI)):
        with pytest.raises(LocalError):
            compress(TEXT, next_header, cpi, 2)
