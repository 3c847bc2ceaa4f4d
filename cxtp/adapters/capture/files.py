"""Frames from a pcap or pcapng file, one at a time: scapy reads the records, its leniency is fenced here.

scapy ends quietly at a cut-off record, drops packets of interfaces it has not seen, keeps the interfaces of an
earlier pcapng section, and loads TLS secrets it finds into its own configuration.  None of that is wanted: a
file is either read whole or refused at the packet where it breaks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from cxtp.errors import ConfigurationError, RemoteError

PathLike = Union[str, "os.PathLike[str]"]

MAXIMUM_FRAME = 4 * 65535
"""Octets of one captured frame that are taken; scapy reads no more of a pcap record, libpcap's own limit is 2^18."""

_SECTION_HEADER = b"\x0a\x0d\x0d\x0a"
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_DECRYPTION_SECRETS = 10
_CAPTURED_LENGTH_AT = {2: 20, _SIMPLE_PACKET: 8, 6: 20}
"""Blocks that hold a packet (Packet, Simple Packet, Enhanced Packet): where their captured length stands."""


class CaptureError(RemoteError):
    """A capture file that is none, or that breaks off: ``path``, and ``packet``, the number (from 1) of the packet
    that could not be read (0: the file's own header)."""

    def __init__(self, path: str, packet: int, reason: str) -> None:
        super().__init__(f"{path}, {f'packet {packet}' if packet else 'file header'}: {reason}")
        self.path = path
        self.packet = packet
        self.reason = reason


@dataclass(frozen=True)
class CapturedPacket:
    """One frame: ``index`` from 1 as in Wireshark, ``time`` in seconds since 1970 (0.0 where the file tells none),
    ``link_type`` by the registry of tcpdump.org (1: Ethernet), ``octets`` as far as captured, ``original_length``
    what was on the wire."""

    index: int
    time: float
    link_type: int
    octets: bytes = field(repr=False)
    original_length: int


def read_packets(path: PathLike) -> Iterator[CapturedPacket]:
    """The frames of a pcap (micro- and nanoseconds, either byte order) or pcapng file, in the file's order.

    Raises :class:`CaptureError` at the packet where the file is broken or cut off (what stood before it has been
    handed on), :class:`ConfigurationError` when it can't be opened.
    """
    name = os.fspath(path)
    reader = _open(name)
    try:
        size = Path(name).stat().st_size
        frames = _pcapng_frames if hasattr(reader, "blocktypes") else _pcap_frames
        yield from frames(reader, name, size)
    finally:
        reader.close()


def _open(name: str) -> Any:
    from scapy.error import Scapy_Exception  # here: scapy takes half a second to import
    from scapy.utils import RawPcapReader

    try:
        with open(name, "rb") as file:
            magic = file.read(4)
        if magic[:2] == b"\x1f\x8b":
            raise CaptureError(name, 0, "is compressed (gzip): decompress it first")
        return RawPcapReader(name)
    except OSError as error:
        raise ConfigurationError(f"{name} can't be read: {error.strerror}") from error
    except (Scapy_Exception, EOFError, struct.error) as error:
        raise CaptureError(name, 0, "is no pcap or pcapng file") from error


def _pcap_frames(reader: Any, name: str, size: int) -> Iterator[CapturedPacket]:
    link_type = reader.linktype & 0x0FFFFFFF  # the high bits are the frame check sequence's length
    divisor = 1_000_000_000 if reader.nano else 1_000_000
    index = 0
    while (start := reader.f.tell()) < size:
        index += 1
        head = reader.f.read(16)
        reader.f.seek(start)
        if len(head) < 16:
            raise CaptureError(name, index, "the file ends within its record header")
        captured = struct.unpack(reader.endian + "8xI4x", head)[0]
        if captured > MAXIMUM_FRAME:
            raise CaptureError(name, index, f"claims {captured} octets, more than any frame has")
        if start + 16 + captured > size:
            raise CaptureError(name, index, f"the file ends within its {captured} octets")
        try:
            octets, about = reader._read_packet(size=MAXIMUM_FRAME)
        except (EOFError, OSError) as error:
            raise CaptureError(name, index, "can't be read") from error
        time = about.sec + about.usec / divisor
        yield CapturedPacket(index, time, link_type, octets, max(about.wirelen, len(octets)))


def _pcapng_frames(reader: Any, name: str, size: int) -> Iterator[CapturedPacket]:
    reader.blocktypes.pop(_DECRYPTION_SECRETS, None)
    index = 0
    while (start := reader.f.tell()) < size:
        kind = _check_block(reader, name, index + 1, start, size)
        try:
            frame = reader._read_block(size=MAXIMUM_FRAME)
        except Exception as error:  # of many types, scapy's own among them; all say the same
            raise CaptureError(name, index + 1, f"the block at octet {start} is broken or cut off") from error
        if kind == _INTERFACE_DESCRIPTION and reader.interfaces:
            link_type, snap_length, options = reader.interfaces[-1]
            reader.interfaces[-1] = (link_type, snap_length or MAXIMUM_FRAME, options)  # 0: no limit
        if frame is None:
            if kind in _CAPTURED_LENGTH_AT:
                raise CaptureError(name, index + 1, "names an interface that the file does not describe")
            continue
        index += 1
        octets, about = frame
        ticks = ((about.tshigh or 0) << 32) | (about.tslow or 0)
        whole, rest = divmod(ticks, about.tsresol)
        yield CapturedPacket(
            index, whole + rest / about.tsresol, about.linktype, octets, max(about.wirelen, len(octets))
        )


def _check_block(reader: Any, name: str, packet: int, start: int, size: int) -> int:
    """The type of the block at ``start``, once its lengths fit into the file and into each other: scapy would
    slice without a word what a block claims beyond its end."""
    head = reader.f.read(24)
    reader.f.seek(start)
    if head[:4] == _SECTION_HEADER:
        reader.interfaces.clear()  # interface numbers begin anew in each section
        return 0
    if len(head) < 12:
        raise CaptureError(name, packet, f"the file ends within the block at octet {start}")
    kind, length = struct.unpack(reader.endian + "II", head[:8])
    if start + length > size:
        raise CaptureError(name, packet, f"the file ends within a block of {length} octets")
    offset = _CAPTURED_LENGTH_AT.get(kind)
    if offset is not None:
        if length < offset + 8:
            raise CaptureError(name, packet, f"a packet block of {length} octets is too short")
        captured = struct.unpack(reader.endian + "I", head[offset : offset + 4])[0]
        fixed = offset + 12 if kind != _SIMPLE_PACKET else offset + 8  # original length; trailing length
        if kind == _SIMPLE_PACKET and reader.interfaces:
            captured = min(captured, reader.interfaces[0][1])
        if captured > min(length - fixed, MAXIMUM_FRAME):
            raise CaptureError(name, packet, f"claims {captured} octets in a block of {length}")
    return int(kind)
