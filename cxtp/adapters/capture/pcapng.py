"""The same in pcapng (draft-ietf-opsawg-pcapng), where every packet may say what it is."""

from __future__ import annotations

import struct

from contexts.values import IPAddress

from .files import PathLike
from .writer import PcapWriter

_SECTION_HEADER, _INTERFACE_DESCRIPTION, _ENHANCED_PACKET, _DECRYPTION_SECRETS = 0x0A0D0D0A, 1, 6, 10
_TLS_KEY_LOG = 0x544C534B
_COMMENT = 1
_ETHERNET = 1
_SNAP_LENGTH = 262_144


class PcapngWriter(PcapWriter):
    """As :class:`PcapWriter`.  ``comment`` goes with the packets written from then on; ``hardware`` names the
    machine (its own IP address) that has another address for now.

    scapy's writer was looked at: it puts no comment into a packet that is given as octets.
    """

    def __init__(self, path: PathLike, *, mtu: int = 1500) -> None:
        self.hardware: dict[IPAddress, IPAddress] = {}
        super().__init__(path, mtu=mtu)

    def hardware_address(self, address: IPAddress) -> bytes:
        """As it is now: an address may move from one machine to another."""
        return super().hardware_address(self.hardware.get(address, address))

    def write_secrets(self, key_log: str) -> None:
        """A Decryption Secrets Block, from which Wireshark decrypts without being told more."""
        octets = key_log.encode("ascii")
        head = struct.pack("<II", _TLS_KEY_LOG, len(octets))
        self._put(_block(_DECRYPTION_SECRETS, head + octets + bytes(-len(octets) % 4)))

    def _beginning(self) -> bytes:
        header = _block(_SECTION_HEADER, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        return header + _block(_INTERFACE_DESCRIPTION, struct.pack("<HHI", _ETHERNET, 0, _SNAP_LENGTH))

    def _record(self, microseconds: int, frame: bytes) -> bytes:
        head = struct.pack("<IIIII", 0, microseconds >> 32, microseconds & 0xFFFFFFFF, len(frame), len(frame))
        options = b""
        if self.comment:
            text = self.comment.encode()
            options = struct.pack("<HH", _COMMENT, len(text)) + text + bytes(-len(text) % 4) + bytes(4)
        return _block(_ENHANCED_PACKET, head + frame + bytes(-len(frame) % 4) + options)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length
