"""CXTP between mobile nodes and routers, in ICMP (RFC 4067, 3.2; RFC 4065, 3, 4 and 8): CTARs and CTAAs alone.

Sent with hop limit 255 and taken with no other: whoever is further than one link away can't send one (RFC 4067, 3.2).
A message fits one packet, which is never fragmented.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from collections import Counter
from ipaddress import ip_address

from ..constants import ICMP_HOP_LIMIT, ICMP_TYPE_IPV4, ICMP_TYPE_IPV6, IcmpSubtype, MessageType
from ..errors import MalformedMessage, TransportError
from ..messages import IPAddress
from ..roles.events import Peer
from ..wire import IcmpMessage, build_icmp, parse_icmp
from .endpoint import Receiver

log = logging.getLogger(__name__)

MAXIMUM_MESSAGE = {4: 1500 - 20 - 8, 6: 1280 - 40 - 8}
"""Octets: what an Ethernet frame holds in IPv4, which Don't Fragment guards; what every link holds in IPv6."""

CARRIED = frozenset({MessageType.CONTEXT_TRANSFER_ACTIVATE_REQUEST, MessageType.CONTEXT_TRANSFER_ACTIVATE_ACKNOWLEDGE})
"""The messages between mobile node and router."""

READS_AT_ONCE = 64
"""Packets read before others get their turn."""

# Linux's numbers that Python's socket module does not name.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO = 10, 2
_IPV6_DONTFRAG = 62
_ICMP6_FILTER = 1
_SO_ATTACH_FILTER = 26


def open_icmp_socket(address: IPAddress) -> socket.socket:
    """A raw socket at this address, which gets ICMP messages of CXTP's type alone.

    It needs CAP_NET_RAW, its use does not.  Raises TransportError.
    """
    try:
        if address.version == 4:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        else:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    except PermissionError as error:
        raise TransportError(
            "ICMP needs a raw socket: run this as root or with the capability CAP_NET_RAW "
            "(systemd: AmbientCapabilities=CAP_NET_RAW)"
        ) from error
    except OSError as error:
        raise TransportError(f"can't open a raw socket for ICMP: {error.strerror}") from error
    try:
        sock.setblocking(False)
        if address.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ICMP_HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            _attach_filter(sock)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ICMP_HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
            blocked = bytearray(b"\xff" * 32)  # RFC 3542, 3.2: a set bit blocks its type; 32-bit words of the host
            word, bit = divmod(ICMP_TYPE_IPV6, 32)
            struct.pack_into("=I", blocked, 4 * word, 0xFFFF_FFFF ^ 1 << bit)
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
        sock.bind((str(address), 0))
    except OSError as error:
        sock.close()
        raise TransportError(f"can't use {address} for ICMP: {error.strerror}") from error
    return sock


def _attach_filter(sock: socket.socket) -> None:
    """ICMP_FILTER knows no type above 31, so the kernel is given a program: a flood of pings costs us nothing."""
    program = b"".join(
        struct.pack("=HBBI", code, if_true, if_false, value)
        for code, if_true, if_false, value in (
            (0xB1, 0, 0, 0),  # ldxb 4 * ([0] & 0xf): X is the IP header's length
            (0x50, 0, 0, 0),  # ldb [x + 0]: the ICMP type
            (0x15, 0, 1, ICMP_TYPE_IPV4),  # is it ours?
            (0x06, 0, 0, 0xFFFF),  # take it
            (0x06, 0, 0, 0),  # leave it
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 5, ctypes.addressof(buffer)))


class IcmpEndpoint:
    """A raw socket at one address.  Whoever sends is nobody that we know: a mobile node proves itself by its token."""

    reliable = False

    def __init__(self, listen: IPAddress, receiver: Receiver, *, sock: socket.socket | None = None) -> None:
        """``sock`` is what :func:`open_icmp_socket` gave, where that needed a privilege that is gone by now."""
        self._listen = listen
        self._receiver = receiver
        self._socket = sock
        self._type = ICMP_TYPE_IPV4 if listen.version == 4 else ICMP_TYPE_IPV6
        self.maximum_message = MAXIMUM_MESSAGE[listen.version]
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        """Open the socket, if there is none yet, and listen.  Raises TransportError."""
        if self._socket is None:
            self._socket = open_icmp_socket(self._listen)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def send(self, octets: bytes, peer: Peer) -> None:
        """One packet; the kernel's buffer is the queue."""
        if self._socket is None:
            self.counters["send_after_close"] += 1
        elif len(octets) > self.maximum_message:
            self.counters["send_too_large"] += 1
        elif not _is_carried(octets):
            self.counters["send_not_for_icmp"] += 1
        else:
            packet = build_icmp(IcmpMessage(self._type, octets), (self._listen, peer.address))
            try:
                self._socket.sendto(packet, (str(peer.address), 0))
            except (BlockingIOError, InterruptedError):
                self.counters["send_queue_full"] += 1
            except OSError as error:
                self.counters[f"error_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
            else:
                self.counters["sent"] += 1

    def obstacle(self, peer: Peer) -> str | None:
        """Nothing that is known here."""
        return None

    async def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        for _ in range(READS_AT_ONCE):
            if self._socket is None:
                return
            try:
                octets, ancillary, _, source = self._socket.recvmsg(65_535, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.counters[f"error_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                continue
            address = ip_address(str(source[0]).partition("%")[0])
            if self._listen.version == 4:
                # Linux gives IPv4 packets with their header: the TTL is its ninth octet.
                hop_limit, octets = octets[8], octets[4 * (octets[0] & 0x0F) :]
            else:
                hop_limit = _hop_limit(ancillary)
            self._packet(octets, address, hop_limit)

    def _packet(self, octets: bytes, source: IPAddress, hop_limit: int) -> None:
        """Parse, verify, hand on; each way to fail has its counter."""
        if hop_limit != ICMP_HOP_LIMIT:
            self.counters["hop_limit"] += 1
            return
        try:
            icmp = parse_icmp(octets, (source, self._listen))
        except MalformedMessage as error:
            field = error.field.removeprefix("icmp.")
            is_card = field == "subtype" and octets[4] == IcmpSubtype.CARD
            self.counters["card" if is_card else f"malformed_{field}"] += 1
            log.debug("from %s: %s", source, error)
        else:
            if not _is_carried(icmp.message):
                self.counters["not_for_icmp"] += 1
                return
            self.counters["received"] += 1
            self._receiver(icmp.message, Peer(source, 0))


def _is_carried(octets: bytes) -> bool:
    return bool(octets) and octets[0] & 0x1F in CARRIED


def _hop_limit(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, octets in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
            return int.from_bytes(octets[:4], "little" if struct.pack("=H", 1)[0] else "big")
    return -1


__all__ = ["IcmpEndpoint", "open_icmp_socket"]
