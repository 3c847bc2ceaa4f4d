"""Keeps what is on disk ahead of what a kernel sends: the ceiling of each session's sequence numbers (docs/safety.md).

The kernel stops at the ceiling by itself; this only has to come in time.  So it looks once in a while, and writes a
higher one for every session that has used half of its reserve.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from contexts.base import decode
from contexts.fence import is_spent
from contexts.ipsec import IpsecSaContext

from .errors import CxtpError, LocalError
from .messages import EncodedContext, IPAddress
from .sessions import Sessions
from .store.records import SessionRecord, SessionState

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between looks."""

REST = 5
"""How many times as long as a look took nothing is looked at."""


class Counting(Protocol):
    """A sink that can tell where its counters are while they run."""

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """The contexts of a session as they are now, in use."""


class KernelKeeper:
    """A task beside a node.  ``reserve`` is the node's, in sequence numbers."""

    def __init__(self, sessions: Sessions, sink: Counting, reserve: int, interval: float = INTERVAL) -> None:
        self._sessions = sessions
        self._sink = sink
        self._reserve = reserve
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def start(self) -> None:
        """Needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Look no more; the kernel goes on up to the ceilings that are set."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hurry(self) -> None:
        """The kernel told that an SA has used much: look at once."""
        self._hurry.set()

    async def look(self) -> int:
        """One look at all sessions in use; gives how many ceilings were raised."""
        raised = 0
        for record in self._sessions.store.records(on_damaged=lambda address, error: None):
            await asyncio.sleep(0)  # sessions that are being moved wait for nothing
            if record.state is not SessionState.OWNED or record.mn_address in self._sessions.waiting:
                continue
            try:
                current = self._sink.current(record)
                if record.mn_address in self._sessions.unconfirmed or self._is_near(record, current):
                    await self._sessions.raise_ceiling(record.mn_address, current)
                    raised += 1
            except LocalError as error:
                log.debug("%s", error)  # it left meanwhile, or changed: the next look sees it as it is then
            except CxtpError as error:
                self._sessions.counters["ceiling_not_raised"] += 1
                log.error("the ceiling of %s could not be raised: %s", record.mn_address, error)
        return raised

    async def _run(self) -> None:
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._interval)
            self._hurry.clear()
            started = time.monotonic()
            try:
                await self.look()
            except Exception as error:  # whatever it is, the other sessions need the next look
                self._sessions.counters["ceiling_not_raised"] += 1
                log.error("the ceilings could not be looked at: %s", error)
            # With many sessions a look takes long: most of the time belongs to others.
            await asyncio.sleep(REST * (time.monotonic() - started))

    def _is_near(self, record: SessionRecord, current: tuple[EncodedContext, ...]) -> bool:
        ceilings, now = _outbound(record.contexts), _outbound(current)
        return any(
            spi in ceilings and ceilings[spi] - number < self._reserve // 2 for spi, number in now.items()
        )


def _outbound(contexts: tuple[EncodedContext, ...]) -> Mapping[tuple[IPAddress, int], int]:
    """The last sequence number of each SA that has any left, by its address and inbound SPI."""
    decoded = (decode(item) for item in contexts)
    return {
        (context.local_host.address, context.inbound_spi): context.sequence_numbers.outbound
        for context in decoded
        if isinstance(context, IpsecSaContext) and not is_spent(context)
    }
