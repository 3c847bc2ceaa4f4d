"""CXTP over UDP: one datagram, one message.  Cleartext: for loopback, tests, and paths that ESP protects.

RFC 4067, 3.1 allows transports other than SCTP for experiments, with exponential back-off (the roles' matter);
the seed draft names "a simple UDP session".
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

from ..errors import TransportError
from ..messages import IPAddress
from ..roles.events import Peer
from .endpoint import Receiver, Router, refuse_cleartext_off_loopback

MAXIMUM_DATAGRAM = {4: 65_507, 6: 65_527}
"""Octets of payload: 65,535 less UDP's header, and IPv4's, which its Total Length counts."""

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Octets asked of the kernel for datagrams that wait; the kernel caps it at net.core.rmem_max."""


class UdpEndpoint(asyncio.DatagramProtocol):
    """A bound UDP socket.  Routers are told from others by address and port: over UDP nothing proves a name."""

    reliable = False

    def __init__(
        self,
        listen: tuple[IPAddress, int],
        routers: Iterable[Router],
        receiver: Receiver,
        *,
        allow_cleartext_keys_on_the_network: bool = False,
    ) -> None:
        self._routers = {(router.address, router.port): router for router in routers}
        for address, _ in (listen, *self._routers):
            refuse_cleartext_off_loopback(address, allow_cleartext_keys_on_the_network, "UDP address")
        self._listen = listen
        self._receiver = receiver
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()
        self._is_full = False
        self.maximum_message = MAXIMUM_DATAGRAM[listen[0].version]
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        """Bind.  Raises TransportError."""
        address, port = self._listen
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self, local_addr=(str(address), port)
            )
        except OSError as error:
            raise TransportError(f"can't listen on UDP {address} port {port}: {error.strerror}") from error
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    @property
    def address(self) -> tuple[IPAddress, int]:
        """Where the socket is bound, its true port included."""
        if self._transport is None:
            raise TransportError("the UDP endpoint is not started")
        host, port = self._transport.get_extra_info("sockname")[:2]
        return ip_address(host), port

    def send(self, octets: bytes, peer: Peer) -> None:
        """One datagram.  The kernel's buffer is the queue, and asyncio's few datagrams behind it."""
        if self._transport is None or self._transport.is_closing():
            self.counters["send_after_close"] += 1
        elif len(octets) > self.maximum_message:
            self.counters["send_too_large"] += 1
        elif self._is_full:
            self.counters["send_queue_full"] += 1
        else:
            self._transport.sendto(octets, (str(peer.address), peer.port))
            self.counters["sent"] += 1

    def obstacle(self, peer: Peer) -> str | None:
        """Nothing that is known here."""
        return None

    async def close(self) -> None:
        """Close the socket; the port is free on return."""
        if self._transport is not None:
            self._transport.close()
            await self._closed.wait()

    # --- asyncio.DatagramProtocol -------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Hand the datagram on with whoever has that source address."""
        source = (ip_address(addr[0]), addr[1])
        router = self._routers.get(source)
        self.counters["received"] += 1
        name = "" if router is None else router.name
        self._receiver(data, Peer(*source, name=name, reliable=False, is_router=router is not None))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._closed.set()

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_full = False

    def error_received(self, exc: Exception) -> None:
        """An ICMP error for something sent: retransmission is the roles' matter, here it is only counted."""
        number = exc.errno if isinstance(exc, OSError) and exc.errno is not None else 0
        self.counters[f"error_{errno.errorcode.get(number, 'unknown')}"] += 1
