"""IKE messages from an address and port that an IKE daemon has.

A raw socket: the daemon keeps its own, and is not asked.  Like the daemon's it has a policy of its own that lets its
messages pass whatever the kernel's policies protect (net/xfrm/xfrm_user.c, xfrm_compile_policy).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from contexts.values import HostAddress
from cxtp.constants import NAT_TRAVERSAL_PORT, NON_ESP_MARKER
from cxtp.errors import TransportError

from .xfrm.formats import build_policy
from .xfrm.layouts import POLICY
from .xfrm.netlink import Namespace, socket_in
from .xfrm.values import ANY, Direction, PolicyAction, SecurityPolicy

_UDP_HEADER = struct.Struct("!HHHH")
_IP_XFRM_POLICY, _IPV6_XFRM_POLICY = 17, 35
_IPV6_CHECKSUM = 7
_CHECKSUM_OFFSET = 6
_LARGEST = 65_535
AT_ONCE = 1000
"""Datagrams looked at by one :meth:`IkeSocket.receive`: ESP in UDP comes by here too."""


class IkeSocket:
    """Non-blocking, between two hosts with their ports.  ``fileno`` and ``close`` as a socket's."""

    def __init__(self, local: HostAddress, remote: HostAddress, namespace: Namespace = None) -> None:
        """Raises TransportError: the address is not here, no privilege (CAP_NET_RAW)."""
        self._local, self._remote = local, remote
        try:
            self._socket = socket_in(namespace, self._open)
        except OSError as error:
            raise TransportError(f"IKE from {local} to {remote}: {error.strerror}") from error

    def _open(self) -> socket.socket:
        ipv4 = self._local.address.version == 4
        opened = socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
        try:
            level, option = (
                (socket.IPPROTO_IP, _IP_XFRM_POLICY) if ipv4 else (socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY)
            )
            for direction in (Direction.OUT, Direction.IN):
                policy = build_policy(SecurityPolicy(direction, PolicyAction.ALLOW, 0, 0, ANY))[: POLICY.sizeof()]
                # A socket's policy names the family, also where its selector is for all.
                opened.setsockopt(level, option, _with_family(policy, opened.family))
            if not ipv4:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_OFFSET)
            opened.setblocking(False)
            opened.bind((str(self._local.address), 0))
            opened.connect((str(self._remote.address), 0))
        except OSError:
            opened.close()
            raise
        return opened

    def fileno(self) -> int:
        """For an event loop's add_reader."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def send(self, message: bytes) -> None:
        """``message`` from the IKE header.  Raises TransportError."""
        marker = NON_ESP_MARKER if self._local.port == NAT_TRAVERSAL_PORT else b""
        length = _UDP_HEADER.size + len(marker) + len(message)
        # IPv4 lets a checksum be left out (RFC 768); SK payloads have a better one.  IPv6's is the kernel's to fill in.
        header = _UDP_HEADER.pack(self._local.port, self._remote.port, length, 0)
        try:
            self._socket.send(header + marker + message)
        except OSError as error:
            raise TransportError(f"IKE from {self._local} to {self._remote}: {error.strerror}") from error

    def receive(self) -> list[bytes]:
        """The IKE messages that came since the last time, from the IKE header."""
        found = []
        for _ in range(AT_ONCE):
            try:
                octets = self._socket.recv(_LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                raise TransportError(f"IKE from {self._remote}: {error.strerror}") from error
            message = self._message(octets)
            if message is not None:
                found.append(message)
        return found

    def _message(self, octets: bytes) -> bytes | None:
        if isinstance(self._local.address, IPv4Address):
            octets = octets[(octets[0] & 15) * 4 :] if octets else b""
        if len(octets) < _UDP_HEADER.size:
            return None
        source, destination, length, _ = _UDP_HEADER.unpack_from(octets)
        if (source, destination) != (self._remote.port, self._local.port) or length > len(octets):
            return None
        message = octets[_UDP_HEADER.size : length]
        if self._local.port != NAT_TRAVERSAL_PORT:
            return message
        return message[len(NON_ESP_MARKER) :] if message.startswith(NON_ESP_MARKER) else None


_SELECTOR_FAMILY_OFFSET = 40
"""Of ``family`` in struct xfrm_selector (include/uapi/linux/xfrm.h)."""


def _with_family(policy: bytes, family: int) -> bytes:
    at = _SELECTOR_FAMILY_OFFSET
    return policy[:at] + struct.pack("=H", family) + policy[at + 2 :]
