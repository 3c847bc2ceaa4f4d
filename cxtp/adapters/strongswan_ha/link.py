"""The socket between a daemon's ``ha`` plugin and us, who stand in for its peer.

Both ends are bound and connected; nothing is confirmed.  What the daemon says goes into a :class:`.HaTracker`, and so
does what we tell it: from then on it has that, too.  The link belongs on loopback: SK_* follow from what it carries.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable

from contexts.values import IPAddress
from cxtp.errors import ConfigurationError, TransportError

from .attributes import HA_PORT, HaMessage
from .codec import MAXIMUM_DATAGRAM, MalformedHaMessage, build_message, parse_message
from .inbound import HaTracker
from .outbound import heartbeat
from .state import HaReport, HaReportKind

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two of our STATUS messages, as the plugin's own."""

AT_ONCE = 1000
"""Datagrams taken before others get their turn."""

RECEIVE_BUFFER = 8 << 20
"""Octets that may wait for us: a resync comes without a pause."""


_RECEIVE_BUFFER_FORCE = 33  # SO_RCVBUFFORCE, which socket does not name


class HaLink:
    """One daemon.  ``heard`` is called with each of its messages, once the tracker knows it; ``counters``: datagrams
    sent, received and malformed."""

    def __init__(
        self,
        local: IPAddress,
        daemon: IPAddress,
        version: int,
        *,
        window: int = 32,
        heard: Callable[[HaMessage], None] = lambda message: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``local`` and ``daemon`` are loopback addresses, the plugin's ``remote`` and ``local``.

        Raises ConfigurationError, TransportError.
        """
        for address in (local, daemon):
            if not address.is_loopback:
                raise ConfigurationError(
                    f"{address} is no loopback address: ha messages carry keys in the clear, and stay on this machine"
                )
        self.version = version
        self.tracker = HaTracker(window=window)
        self.heard = heard
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        family = socket.AF_INET if local.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._enlarge()
            self._socket.bind((str(local), HA_PORT))
            self._socket.connect((str(daemon), HA_PORT))
        except OSError as error:
            self._socket.close()
            raise TransportError(f"the ha link {local} to {daemon}, port {HA_PORT}: {error.strerror}") from error

    def _enlarge(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, RECEIVE_BUFFER)
        except OSError:  # not as root: as much as the system gives
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def start(self) -> None:
        """Needs a running event loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self.receive)
        self._task = loop.create_task(self._beat())

    async def close(self) -> None:
        """Say nothing more, hear nothing more."""
        if self._task is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.close_socket()

    def close_socket(self) -> None:
        """Where it was never started."""
        self._socket.close()

    def receive(self) -> None:
        """Take what waits."""
        for _ in range(AT_ONCE):
            try:
                octets = self._socket.recv(MAXIMUM_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # nobody listens there: the daemon is down
                self.counters["refused"] += 1
                log.debug("the ha link: %s", error)
                continue
            self.counters["received"] += 1
            try:
                message = parse_message(octets)
            except MalformedHaMessage as error:
                self.counters["malformed"] += 1
                self.tracker.report(HaReport(HaReportKind.MALFORMED, self._clock(), None, None, str(error)))
                log.error("the daemon sent what is no ha message: %s", error)
                continue
            self.tracker.apply(message, self._clock())
            self.heard(message)

    def send(self, messages: Iterable[HaMessage], *, known: bool = True) -> None:
        """Tell the daemon; the caller looks whether it has taken it, for nothing is confirmed.  ``known``: the tracker
        is told, too.

        Raises TransportError, NotRepresentable.
        """
        for message in messages:
            octets = build_message(message)
            for attempt in (1, 2):
                try:
                    self._socket.send(octets)
                    break
                except ConnectionRefusedError:  # the answer to an earlier one, from when the daemon was down
                    if attempt == 2:
                        raise TransportError("the daemon's ha plugin does not listen") from None
                except OSError as error:
                    raise TransportError(f"the ha link: {error.strerror}") from error
            self.counters["sent"] += 1
            if known:
                self.tracker.apply(message, self._clock())

    async def _beat(self) -> None:
        while True:
            try:
                self.send([heartbeat(self.version)])
            except TransportError as error:
                log.debug("%s", error)
            await asyncio.sleep(HEARTBEAT_INTERVAL)
