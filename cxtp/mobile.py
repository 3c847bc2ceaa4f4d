"""A mobile node as a program: its role, a transport, the clock (RFC 4067, 2.1 and 3.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import SystemRandom

from .config import ProtocolConfig
from .constants import PORT
from .errors import MalformedMessage
from .messages import ContextRequest, ContextStatus, IPAddress, Message
from .roles.events import ActivationAcknowledged, ActivationFailed, Dropped, Peer, Random
from .roles.mobile_node import MobileNode
from .transports.endpoint import Endpoint, Receiver
from .wire import build, parse


@dataclass(frozen=True)
class Rung:
    """One message of the ladder: seconds since the first was sent, which way, and with whom."""

    at: float
    outgoing: bool
    router: IPAddress
    message: Message = field(repr=False)


@dataclass(frozen=True)
class Activation:
    """How asking ended.  ``statuses`` are of what was not transferred, by the router that says so; ``answered``: the
    new router gave an answer within CT_RETRY_MAX (None: none was asked for)."""

    sequence_number: int
    answered: bool | None
    statuses: tuple[tuple[IPAddress, ContextStatus], ...]
    ladder: tuple[Rung, ...]

    @property
    def is_complete(self) -> bool:
        """Everything asked for is at the new router, as far as anybody said."""
        return self.answered is not False and not self.statuses


class MobileNodeClient:
    """Drives the role.  ``make_endpoint`` gives the transport for a receiver of messages."""

    def __init__(
        self,
        make_endpoint: Callable[[Receiver], Endpoint],
        config: ProtocolConfig = ProtocolConfig(),
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        port: int = PORT,
    ) -> None:
        self.role = MobileNode(random or SystemRandom(), config)
        self.endpoint = make_endpoint(self._received)
        self._clock = clock
        self._port = port
        self._ladder: list[Rung] = []
        self._started = 0.0
        self._statuses: list[tuple[IPAddress, ContextStatus]] = []
        self._done: asyncio.Future[bool] | None = None
        self._new_router: IPAddress | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the transport.  Raises TransportError."""
        await self.endpoint.start()

    async def close(self) -> None:
        """Stop; an activation that still waits has no answer."""
        if self._timer is not None:
            self._timer.cancel()
        await self.endpoint.close()

    async def activate(
        self,
        mn_previous_address: IPAddress,
        previous_router: IPAddress,
        new_router: IPAddress,
        key: bytes,
        requested: Sequence[ContextRequest] = (),
        *,
        predictive: bool = False,
        acknowledge: bool = True,
    ) -> Activation:
        """Send the CTARs, repeat them, and wait for the new router's answer; one activation at a time.

        Arguments as :meth:`cxtp.roles.MobileNode.activate`.  Raises LocalError as that does.
        """
        self._ladder, self._statuses, self._new_router = [], [], new_router
        self._started = self._clock()
        self._done = asyncio.get_running_loop().create_future()
        sequence_number = self.role.activate(
            mn_previous_address,
            Peer(previous_router, self._port),
            Peer(new_router, self._port),
            self._started,
            key,
            requested,
            predictive=predictive,
            acknowledge=acknowledge,
        )
        self._pump()
        answered = await self._done if acknowledge else None
        return Activation(sequence_number, answered, tuple(self._statuses), tuple(self._ladder))

    def _received(self, octets: bytes, peer: Peer) -> None:
        try:
            message = parse(octets)
        except MalformedMessage:
            return
        self._ladder.append(Rung(self._clock() - self._started, False, peer.address, message))
        self.role.receive(message, peer, self._clock())
        self._pump()

    def _pump(self) -> None:
        while (event := self.role.next_event()) is not None:
            if isinstance(event, Dropped) or self._done is None or self._done.done():
                continue
            if isinstance(event, ActivationAcknowledged):
                self._statuses += [(event.router.address, status) for status in event.statuses]
                if event.router.address == self._new_router:
                    self._done.set_result(True)
            elif isinstance(event, ActivationFailed):
                self._done.set_result(False)
        now = self._clock()
        for outgoing in self.role.to_send(now):
            self._ladder.append(Rung(now - self._started, True, outgoing.peer.address, outgoing.message))
            self.endpoint.send(build(outgoing.message), outgoing.peer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.role.deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.role.handle_timer(self._clock())
        self._pump()
