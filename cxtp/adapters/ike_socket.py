"""IKE messages from an address and port that an IKE daemon has.

A raw socket: the daemon keeps its own, and is not asked.  Like the daemon's it has a policy of its own that lets its
messages pass whatever the kernel's policies protect (net/xfrm/xfrm_user.c, xfrm_compile_policy).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, ip_address

from contexts.values import HostAddress, IPAddress
from cxtp.constants import IKE_PORT, NAT_TRAVERSAL_PORT, NON_ESP_MARKER
from cxtp.errors import TransportError

from .xfrm.formats import build_policy
from .xfrm.layouts import POLICY
from .xfrm.netlink import Namespace, socket_in
from .xfrm.values import ANY, Direction, PolicyAction, SecurityPolicy

_UDP_HEADER = struct.Struct("!HHHH")
_IP_XFRM_POLICY, _IPV6_XFRM_POLICY = 17, 35
_IPV6_CHECKSUM = 7
_CHECKSUM_OFFSET = 6
_SELECTOR_FAMILY = struct.Struct("=H")
_SELECTOR_FAMILY_OFFSET = 40
"""Of ``family`` in struct xfrm_selector (include/uapi/linux/xfrm.h)."""
_LARGEST = 65_535

AT_ONCE = 1000
"""Datagrams looked at by one :meth:`IkeSocket.receive`: ESP in UDP comes by here too."""


class IkeSocket:
    """Non-blocking, at one local address, for all of its peers and both of IKE's ports."""

    def __init__(self, local: IPAddress, namespace: Namespace = None) -> None:
        """Raises TransportError: the address is not here, no privilege (CAP_NET_RAW)."""
        self._local = local
        try:
            self._socket = socket_in(namespace, self._open)
        except OSError as error:
            raise TransportError(f"IKE at {local}: {error.strerror}") from error

    def _open(self) -> socket.socket:
        ipv4 = self._local.version == 4
        opened = socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
        try:
            level, option = (
                (socket.IPPROTO_IP, _IP_XFRM_POLICY) if ipv4 else (socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY)
            )
            for direction in (Direction.OUT, Direction.IN):
                opened.setsockopt(level, option, _pass_all(direction, opened.family))
            if not ipv4:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_OFFSET)
            opened.setblocking(False)
            opened.bind((str(self._local), 0))
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

    def send(self, message: bytes, port: int, remote: HostAddress) -> None:
        """``message`` from the IKE header, from the local ``port``.  Raises TransportError."""
        marker = NON_ESP_MARKER if port == NAT_TRAVERSAL_PORT else b""
        length = _UDP_HEADER.size + len(marker) + len(message)
        # IPv4 lets a checksum be left out (RFC 768); SK payloads have a better one.  IPv6's is the kernel's to fill in.
        header = _UDP_HEADER.pack(port, remote.port or IKE_PORT, length, 0)
        try:
            self._socket.sendto(header + marker + message, (str(remote.address), 0))
        except OSError as error:
            raise TransportError(f"IKE from {self._local} to {remote}: {error.strerror}") from error

    def receive(self) -> list[tuple[bytes, IPAddress]]:
        """The IKE messages that came since the last time, from the IKE header, and from where.  Raises
        TransportError."""
        found: list[tuple[bytes, IPAddress]] = []
        for _ in range(AT_ONCE):
            try:
                octets, source = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                raise TransportError(f"IKE at {self._local}: {error.strerror}") from error
            message = self._message(octets)
            if message is not None:
                found.append((message, ip_address(source[0].partition("%")[0])))
        return found

    def _message(self, octets: bytes) -> bytes | None:
        if isinstance(self._local, IPv4Address):  # an IPv4 raw socket gives the IP header too
            octets = octets[(octets[0] & 15) * 4 :] if octets else b""
        if len(octets) < _UDP_HEADER.size:
            return None
        _, port, length, _ = _UDP_HEADER.unpack_from(octets)
        message = octets[_UDP_HEADER.size : length]
        if port == IKE_PORT:
            return message
        if port == NAT_TRAVERSAL_PORT and message.startswith(NON_ESP_MARKER):
            return message[len(NON_ESP_MARKER) :]
        return None


def _pass_all(direction: Direction, family: int) -> bytes:
    """A socket's own policy; it names its family, also where its selector is for all."""
    policy = build_policy(SecurityPolicy(direction, PolicyAction.ALLOW, 0, 0, ANY))[: POLICY.sizeof()]
    end = _SELECTOR_FAMILY_OFFSET + _SELECTOR_FAMILY.size
    return policy[:_SELECTOR_FAMILY_OFFSET] + _SELECTOR_FAMILY.pack(family) + policy[end:]
