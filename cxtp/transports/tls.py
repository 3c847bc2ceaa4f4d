"""CXTP over TLS 1.3 and TCP with mutual certificates: the default between nodes.

A stream of messages, each framed by its own Length field (RFC 4067, 2.5): the first four octets tell where the
next one begins.  A peer is who its certificate says: one of its SAN DNS names must be a router that we know,
and the certificate must come from the cluster's authority (``cxtp pki``).

One connection serves both directions.  Whoever has something to send and no connection makes one; messages
wait meanwhile, up to a limit.  A frame that can't be is the end of its connection, for the stream is lost.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections import Counter, deque
from collections.abc import Coroutine, Iterable
from ipaddress import ip_address

from ..constants import MAXIMUM_MESSAGE
from ..errors import ConfigurationError, TransportError
from ..messages import IPAddress
from ..pki import CertificatePaths
from ..roles.events import Peer
from ..wire import HEADER_OCTETS, message_length
from .endpoint import Receiver, Router

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds for TCP and TLS together."""

WAITING_OCTETS = 16 * 1024 * 1024
"""Octets that wait for one peer, before and behind the connection; more is dropped and counted."""


def tls_context(files: CertificatePaths, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 alone, and the other side must show a certificate of the authority.  Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = not server
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.certificate, files.private_key)
    except (OSError, ssl.SSLError) as error:
        names = f"{files.authority}, {files.certificate}, {files.private_key}"
        raise ConfigurationError(f"can't use {names}: {error.strerror or error}; make them with 'cxtp pki'") from error
    return context


def certificate_names(connection: asyncio.BaseTransport) -> tuple[str, ...]:
    """The DNS names in the other side's certificate (verified before by TLS)."""
    certificate = connection.get_extra_info("peercert") or {}
    return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")


def _is_about_certificates(error: Exception) -> bool:
    """Whether a handshake failed for either side's certificate, or for there being none."""
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    return isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in reason or "UNKNOWN_CA" in reason


class _Connection(asyncio.Protocol):
    """One TLS connection: cuts the stream into messages."""

    def __init__(self, endpoint: TlsEndpoint, link: _Link | None = None) -> None:
        self._endpoint = endpoint
        self._buffer = bytearray()
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # narrows the type, not the input
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self.link is not None and (length := message_length(self._buffer)) is not None:
            if length < HEADER_OCTETS:
                self._endpoint.bad_frame(self, length)
                return
            if len(self._buffer) < length:
                return
            message = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._endpoint.received(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._endpoint.lost(self, exc, cut_short=bool(self._buffer))


class _Acceptor(asyncio.Protocol):
    """An accepted TCP connection until TLS is up.  It reads nothing: the first octet is TLS's."""

    def __init__(self, endpoint: TlsEndpoint) -> None:
        self._endpoint = endpoint

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        if sys.version_info >= (3, 11):
            # Python 3.10 starts reading after connection_made even so, and start_tls then believes it paused; there
            # the handshake task's first step, which pauses, comes before anything is read.
            transport.pause_reading()
        self._endpoint.accepted(transport)


class _Link:
    """All that concerns one known router: its connection, if any, and what waits for one."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.peer = Peer(router.address, router.port, name=router.name, reliable=True, is_router=True)
        self.waiting: deque[bytes] = deque()
        self.waiting_octets = 0
        self.connection: _Connection | None = None
        self.connecting: asyncio.Task[None] | None = None


class TlsEndpoint:
    """Listens for and makes TLS connections to known routers."""

    reliable = True
    maximum_message = MAXIMUM_MESSAGE

    def __init__(
        self,
        listen: tuple[IPAddress, int],
        routers: Iterable[Router],
        certificates: CertificatePaths,
        receiver: Receiver,
        *,
        connections: int = 1024,
    ) -> None:
        self._listen = listen
        self._links = {router.name: _Link(router) for router in routers}
        self._server_context = tls_context(certificates, server=True)
        self._client_context = tls_context(certificates, server=False)
        self._receiver = receiver
        self._limit = connections
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._handshakes = 0
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen.  Raises TransportError."""
        address, port = self._listen
        try:
            self._server = await asyncio.get_running_loop().create_server(lambda: _Acceptor(self), str(address), port)
        except OSError as error:
            raise TransportError(f"can't listen on TCP {address} port {port}: {error.strerror}") from error

    @property
    def address(self) -> tuple[IPAddress, int]:
        """Where the server listens, its true port included."""
        if self._server is None or not self._server.sockets:
            raise TransportError("the TLS endpoint is not started")
        host, port = self._server.sockets[0].getsockname()[:2]
        return ip_address(host), port

    def send(self, octets: bytes, peer: Peer) -> None:
        """Write to the peer's connection, or let the message wait while one is made."""
        link = self._links.get(peer.name)
        if link is None:
            self.counters["send_to_unknown_router"] += 1
        elif link.connection is not None:
            self._write(link.connection, octets)
        elif link.waiting_octets + len(octets) > WAITING_OCTETS:
            self.counters["send_queue_full"] += 1
        else:
            link.waiting.append(octets)
            link.waiting_octets += len(octets)
            if link.connecting is None:
                link.connecting = self._spawn(self._connect(link))

    def obstacle(self, peer: Peer) -> str | None:
        """Nothing that is known here."""
        return None

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _write(self, connection: _Connection, octets: bytes) -> None:
        transport = connection.transport
        if transport is None or transport.get_write_buffer_size() + len(octets) > WAITING_OCTETS:
            self.counters["send_queue_full"] += 1
        else:
            transport.write(octets)
            self.counters["sent"] += 1

    # --- how connections come about -----------------------------------------------------------------------------

    async def _connect(self, link: _Link) -> None:
        router = link.router
        try:
            _, connection = await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, link),
                    str(router.address),
                    router.port,
                    ssl=self._client_context,
                    server_hostname=router.name,
                ),
                CONNECT_TIMEOUT,
            )
        except (OSError, asyncio.TimeoutError) as error:
            # What waits is dropped: the roles send again or give up, each in its own time.
            self.counters["connect_failed"] += 1
            if _is_about_certificates(error):
                self.counters["certificate_rejected"] += 1
            self._drop_waiting(link)
            log.warning("no connection to %s (%s port %d): %s", router.name, router.address, router.port, error)
        else:
            self.counters["connected"] += 1
            self._attach(link, connection)
        finally:
            link.connecting = None

    def accepted(self, transport: asyncio.Transport) -> None:
        """A TCP connection came in: TLS next, unless there are too many already."""
        if len(self._connections) + self._handshakes >= self._limit:
            self.counters["too_many_connections"] += 1
            transport.abort()
        else:
            self._handshakes += 1
            self._spawn(self._shake_hands(transport))

    async def _shake_hands(self, plain: asyncio.Transport) -> None:
        connection = _Connection(self)
        source = plain.get_extra_info("peername")
        try:
            transport = await asyncio.get_running_loop().start_tls(
                plain, connection, self._server_context, server_side=True, ssl_handshake_timeout=CONNECT_TIMEOUT
            )
        except (OSError, asyncio.TimeoutError) as error:
            self.counters["certificate_rejected" if _is_about_certificates(error) else "handshake_failed"] += 1
            log.warning("TLS with %s failed: %s", source, error)
            return
        finally:
            self._handshakes -= 1
        if transport is None:
            self.counters["handshake_failed"] += 1
            return
        connection.transport = transport
        names = certificate_names(transport)
        link = next((self._links[name] for name in names if name in self._links), None)
        if link is None:
            self.counters["unknown_router"] += 1
            log.warning("%s refused: its certificate names %s, and we know no such router", source, names)
            transport.abort()
            return
        self.counters["accepted"] += 1
        connection.link = link
        self._attach(link, connection)
        connection.data_received(b"")  # what came before we knew who it is

    def _drop_waiting(self, link: _Link) -> None:
        self.counters["send_dropped"] += len(link.waiting)
        link.waiting.clear()
        link.waiting_octets = 0

    def _attach(self, link: _Link, connection: _Connection) -> None:
        if connection.is_lost:  # before we came to know that it stands: the other side refused us
            return self._drop_waiting(link)
        link.connection = connection
        self._connections.add(connection)
        while link.waiting:
            self._write(connection, link.waiting.popleft())
        link.waiting_octets = 0

    # --- what a connection says ---------------------------------------------------------------------------------

    def received(self, connection: _Connection, message: bytes) -> None:
        """A whole message."""
        if connection.link is not None:
            self.counters["received"] += 1
            self._receiver(message, connection.link.peer)

    def bad_frame(self, connection: _Connection, length: int) -> None:
        """A Length that no message has: where the next one begins can't be known."""
        self.counters["bad_frame"] += 1
        log.warning("a frame of length %d: connection closed", length)
        if connection.transport is not None:
            connection.transport.abort()

    def lost(self, connection: _Connection, error: Exception | None, *, cut_short: bool) -> None:
        """The connection is gone; the next message to its router makes a new one."""
        self._connections.discard(connection)
        if connection.link is not None and connection.link.connection is connection:
            connection.link.connection = None
        if isinstance(error, ssl.SSLError):
            # In TLS 1.3 a client learns only now that the server did not like its certificate.
            self.counters["tls_error"] += 1
            log.warning("a TLS connection failed: %s", error)
        else:
            self.counters["cut_short" if cut_short else "connection_lost" if error else "closed"] += 1
