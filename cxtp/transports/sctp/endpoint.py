"""The SCTP endpoint: one socket, one association with each router, one message per SCTP user message.

RFC 4067, 3.1 asks for one stream, unordered delivery, no bundling, no multihoming, the PPID of CXTP, and PR-SCTP with
the lifetime CT_MAX_TRANSFER_TIME.  The kernel repeats what is lost meanwhile; what it gives up, or loses with an
association, the node asks after again.

SCTP proves no peer and hides nothing: off loopback, ESP has to (RFC 4067, 6.2; :mod:`cxtp.path_protection`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from ...constants import MAXIMUM_MESSAGE, PAYLOAD_PROTOCOL_IDENTIFIER
from ...errors import ConfigurationError, TransportError
from ...messages import IPAddress
from ...roles.events import Peer
from ..endpoint import AssociationLost, AssociationUp, EventReceiver, Receiver, Router, SendFailed, no_events
from . import socket_api as api

log = logging.getLogger(__name__)

WAITING_OCTETS = 16 * 1024 * 1024
"""Octets that wait for one router while the kernel takes no more; beyond that, messages are dropped and counted."""

READS_AT_ONCE = 64
"""Pieces read before others get their turn."""

RETRY = 0.005
"""Seconds until a full kernel is asked again: of a socket with many associations it does not tell which has room."""


@dataclass(frozen=True)
class SctpSettings:
    """Times in seconds.  The kernel's defaults repeat a lost packet after one second at the earliest: five times
    CT_MAX_TRANSFER_TIME.  These repeat it well within."""

    lifetime: float = 0.2
    """PR-SCTP: a message is given up so long after it was sent (RFC 4067, 3.1: CT_MAX_TRANSFER_TIME)."""

    retransmission_initial: float = 0.1
    retransmission_minimum: float = 0.05
    retransmission_maximum: float = 1.0
    """Bounds of the retransmission timer (RFC 9260, 6.3.1); between them it follows the measured round trip."""

    sack_delay: float = 0.01
    """Well below the peer's retransmission timer, or it would repeat what has arrived."""

    retransmissions: int = 8
    """In a row without an answer: then the association is lost.  With the timers above some five seconds."""

    heartbeat: float = 5.0
    """How often an idle association is asked whether it lives."""

    initial_attempts: int = 4
    initial_timeout: float = 0.5
    """INIT is sent so often, at most so far apart."""


@dataclass
class _Association:
    """``skipping``: the message that arrives is too large, the rest of it is thrown away."""

    number: int
    peer: Peer
    buffer: bytearray = field(default_factory=bytearray)
    skipping: bool = False


@dataclass
class _Queue:
    """Messages for one router that the kernel did not take, each with the time when it is no longer of use."""

    peer: Peer
    messages: deque[tuple[float, bytes]] = field(default_factory=deque)
    octets: int = 0


class SctpEndpoint:
    """A one-to-many SCTP socket.  Routers are told from others by their address, which ESP proves.

    ``reliable``: a role sends each message once per attempt and leaves its repetition to SCTP.
    """

    reliable = True
    maximum_message = MAXIMUM_MESSAGE

    def __init__(
        self,
        listen: tuple[IPAddress, int],
        routers: Iterable[Router],
        receiver: Receiver,
        *,
        events: EventReceiver = no_events,
        payload_protocol_identifier: int = PAYLOAD_PROTOCOL_IDENTIFIER,
        settings: SctpSettings = SctpSettings(),
        associations: int = 1024,
    ) -> None:
        if listen[0].is_unspecified:
            raise ConfigurationError("SCTP listens on one address, for one path (no multihoming): say which")
        self._listen = listen
        self._routers = {
            router.address: Peer(router.address, router.port, name=router.name, reliable=True, is_router=True)
            for router in routers
        }
        self._receiver = receiver
        self._events = events
        self._identifier = payload_protocol_identifier
        self._settings = settings
        self._limit = associations
        self._socket: socket.socket | None = None
        self._associations: dict[int, _Association] = {}
        self._queues: dict[IPAddress, _Queue] = {}
        self._retry: asyncio.TimerHandle | None = None
        self.counters: Counter[str] = Counter()

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind and listen.  Raises TransportError: where the kernel has no SCTP, with what to do about it."""
        address, port = self._listen
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_SEQPACKET, api.IPPROTO_SCTP)
        except OSError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                raise TransportError(f"can't open an SCTP socket: {error.strerror}") from error
            raise TransportError(
                "this kernel has no SCTP: load its module (modprobe sctp; some systems keep it in a package of extra "
                "modules, or on a blacklist in /etc/modprobe.d), or use the TLS transport (--transport tls)"
            ) from error
        try:
            sock.setblocking(False)
            self._configure(sock)
            # One address, so that the association has no other path (no multihoming).
            sock.bind((str(address), port))
            sock.listen(128)
        except OSError as error:
            sock.close()
            raise TransportError(f"can't listen on SCTP {address} port {port}: {error.strerror}") from error
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def _configure(self, sock: socket.socket) -> None:
        settings = self._settings
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        api.set_no_delay(sock)
        api.set_streams(sock, 1, settings.initial_attempts, _ms(settings.initial_timeout))
        api.set_retransmission(
            sock,
            _ms(settings.retransmission_initial),
            _ms(settings.retransmission_maximum),
            _ms(settings.retransmission_minimum),
        )
        api.set_maximum_retransmissions(sock, settings.retransmissions)
        api.set_sack_delay(sock, _ms(settings.sack_delay), 2)
        api.set_heartbeat(sock, _ms(settings.heartbeat))
        api.subscribe(sock)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)  # the kernel caps it

    @property
    def address(self) -> tuple[IPAddress, int]:
        """Where the socket is bound, its true port included."""
        if self._socket is None:
            raise TransportError("the SCTP endpoint is not started")
        host, port = self._socket.getsockname()[:2]
        return ip_address(host), port

    async def close(self) -> None:
        """Shut all associations down; what the kernel has taken it still tries to send."""
        if self._retry is not None:
            self._retry.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def obstacle(self, peer: Peer) -> str | None:
        """Nothing that is known here."""
        return None

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, octets: bytes, peer: Peer) -> None:
        """One user message over the association with the router, which the kernel makes where there is none."""
        if self._socket is None:
            self.counters["send_after_close"] += 1
        elif peer.address not in self._routers:
            self.counters["send_to_unknown_router"] += 1
        elif len(octets) > self.maximum_message:
            self.counters["send_too_large"] += 1
        elif peer.address in self._queues or not self._send_now(octets, peer, self._settings.lifetime):
            self._wait(octets, peer)
            self._associate(peer)

    def _send_now(self, octets: bytes, peer: Peer, lifetime: float) -> bool:
        """False where there is no association yet, or the kernel has no room for it now.

        Linux would set an association up for the message, but abandons one that has a lifetime as soon as the other
        side turns out to know PR-SCTP: it counts the time from its own start.
        """
        if self._socket is None or not self._has_association(peer):
            return False
        ancillary = api.sending(self._identifier, max(1, _ms(lifetime)))
        try:
            self._socket.sendmsg([octets], ancillary, socket.MSG_DONTWAIT, (str(peer.address), peer.port))
        except BlockingIOError:
            return False
        except OSError as error:
            self.counters[f"error_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
            self._events(SendFailed(peer, error.strerror or "unknown"))
        else:
            self.counters["sent"] += 1
        return True

    def _has_association(self, peer: Peer) -> bool:
        return any(association.peer.address == peer.address for association in self._associations.values())

    def _associate(self, peer: Peer) -> None:
        """Have the kernel set an association up, unless it does already."""
        if self._socket is None or self._has_association(peer):
            return
        try:
            self._socket.connect((str(peer.address), peer.port))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno not in (errno.EALREADY, errno.EISCONN):
                self._drop_waiting(peer, error.strerror or "unknown")

    def _drop_waiting(self, peer: Peer, reason: str) -> None:
        queue = self._queues.pop(peer.address, None)
        if queue is not None:
            self.counters["send_dropped"] += len(queue.messages)
            self._events(SendFailed(queue.peer, reason, len(queue.messages)))

    def _wait(self, octets: bytes, peer: Peer) -> None:
        queue = self._queues.get(peer.address) or _Queue(peer)
        if queue.octets + len(octets) > WAITING_OCTETS:
            self.counters["send_queue_full"] += 1
            return
        loop = asyncio.get_running_loop()
        self._queues[peer.address] = queue
        queue.messages.append((loop.time() + self._settings.lifetime, octets))
        queue.octets += len(octets)
        if self._retry is None:
            self._retry = loop.call_later(RETRY, self._send_waiting)

    def _send_waiting(self) -> None:
        self._retry = None
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        for address, queue in list(self._queues.items()):
            while queue.messages:
                until, octets = queue.messages[0]
                remaining = until - loop.time()
                if remaining > 0 and not self._send_now(octets, queue.peer, remaining):
                    break
                if remaining <= 0:
                    self.counters["abandoned"] += 1
                    self._events(SendFailed(queue.peer, "it waited longer than its lifetime"))
                queue.messages.popleft()
                queue.octets -= len(octets)
            if not queue.messages:
                del self._queues[address]
        if self._queues:
            self._retry = loop.call_later(RETRY, self._send_waiting)

    # --- receiving --------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(READS_AT_ONCE):
            if self._socket is None:
                return
            try:
                octets, ancillary, flags, source = self._socket.recvmsg(MAXIMUM_MESSAGE + 1, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # a pending error of some association; its notification follows
                self.counters[f"error_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                continue
            if flags & api.MSG_NOTIFICATION:
                self._notified(octets, source)
            else:
                self._piece(octets, api.parse_received(ancillary), complete=bool(flags & api.END_OF_RECORD))

    def _piece(self, octets: bytes, received: api.Received | None, *, complete: bool) -> None:
        """A whole message, or a part of one that the kernel delivers in parts."""
        association = self._associations.get(received.association) if received is not None else None
        if received is None or association is None:
            self.counters["no_association"] += 1
            return
        if association.skipping or len(association.buffer) + len(octets) > MAXIMUM_MESSAGE:
            self.counters["message_too_large"] += complete
            association.skipping = not complete
            association.buffer.clear()
            return
        association.buffer += octets
        if not complete:
            return
        message = bytes(association.buffer)
        association.buffer.clear()
        if received.payload_protocol_identifier != self._identifier:
            self.counters["other_payload_protocol"] += 1
        else:
            self.counters["received"] += 1
            self._receiver(message, association.peer)

    def _notified(self, octets: bytes, source: object) -> None:
        notification = api.parse_notification(octets)
        if isinstance(notification, api.AssociationChange):
            self._changed(notification, source)
        elif isinstance(notification, api.SendFailure):
            association = self._associations.get(notification.association)
            self.counters["send_failed"] += 1
            if association is not None:
                self._events(SendFailed(association.peer, "its lifetime is over, or the association is lost"))
        elif isinstance(notification, api.PartialDeliveryAborted):
            self.counters["partial_delivery_aborted"] += 1
            association = self._associations.get(notification.association)
            if association is not None:  # or the next message would be taken for the rest of this one
                association.buffer.clear()
                association.skipping = False
        else:
            name = "malformed" if notification is None else _name_of(notification.kind)
            self.counters[f"notification_{name}"] += 1

    def _changed(self, change: api.AssociationChange, source: object) -> None:
        state, number = change.state, change.association
        if state in (api.AssociationState.COMMUNICATION_UP, api.AssociationState.RESTART):
            self._came_up(state, number, source)
            return
        association = self._associations.pop(number, None)
        if state == api.AssociationState.CANNOT_START:
            self.counters["connect_failed"] += 1
            peer = self._router_at(source)
            if peer is not None:
                reason = "it can't be set up: no answer, or refused"
                self._drop_waiting(peer, reason)
                self._events(AssociationLost(peer, reason))
        elif association is not None:
            lost = state == api.AssociationState.COMMUNICATION_LOST
            self.counters["association_lost" if lost else "association_closed"] += 1
            reason = "no answer any more, or aborted" if lost else "the other side has closed it"
            self._events(AssociationLost(association.peer, reason))

    def _came_up(self, state: int, number: int, source: object) -> None:
        peer = self._router_at(source)
        if peer is None or len(self._associations) >= self._limit:
            self.counters["unknown_router" if peer is None else "too_many_associations"] += 1
            log.warning("an SCTP association with %s is refused", source)
            return self._abort(number)
        if state == api.AssociationState.RESTART:
            self.counters["association_restarted"] += 1
            self._events(AssociationLost(peer, "the other side has started anew"))
        else:
            self.counters["association_up"] += 1
        self._associations[number] = _Association(number, peer)
        self._events(AssociationUp(peer))
        if self._retry is not None:
            self._retry.cancel()
            self._send_waiting()

    def _abort(self, number: int) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendmsg([], api.aborting(number), socket.MSG_DONTWAIT)
        except OSError as error:
            self.counters[f"error_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1

    def _router_at(self, source: object) -> Peer | None:
        """The router of a notification's source address (host, port, ...)."""
        return self._routers.get(ip_address(source[0])) if isinstance(source, tuple) and source else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _name_of(kind: int) -> str:
    known = kind in api.NotificationType._value2member_map_
    return api.NotificationType(kind).name.lower() if known else f"{kind:#06x}"
