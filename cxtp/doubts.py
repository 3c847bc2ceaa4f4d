"""Transfers whose outcome is not known: when to ask after each of them again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from .messages import IPAddress

_MOST_DOUBLINGS = 32


class Doubts:
    """One timer for each session in doubt; the waits double from ``interval`` to ``longest``, in seconds.

    ``ask(mn_address, transfer_id)`` is called when it is time.  Nothing but an answer ends it.
    """

    def __init__(self, interval: float, longest: float, ask: Callable[[IPAddress, int], None]) -> None:
        self._interval = interval
        self._longest = longest
        self._ask = ask
        self._asked: Counter[IPAddress] = Counter()
        self._timers: dict[IPAddress, asyncio.TimerHandle] = {}

    def ask_later(self, mn_address: IPAddress, transfer_id: int) -> None:
        """Ask once more, after a wait longer than the one before."""
        delay = min(self._interval * 2 ** min(self._asked[mn_address], _MOST_DOUBLINGS), self._longest)
        self._asked[mn_address] += 1
        self._cancel(mn_address)
        loop = asyncio.get_running_loop()
        self._timers[mn_address] = loop.call_later(delay, self._on_timer, mn_address, transfer_id)

    def answered(self, mn_address: IPAddress) -> None:
        """The doubt is over."""
        self._asked.pop(mn_address, None)
        self._cancel(mn_address)

    def close(self) -> None:
        """Ask no more."""
        for mn_address in list(self._timers):
            self._cancel(mn_address)

    def _cancel(self, mn_address: IPAddress) -> None:
        timer = self._timers.pop(mn_address, None)
        if timer is not None:
            timer.cancel()

    def _on_timer(self, mn_address: IPAddress, transfer_id: int) -> None:
        del self._timers[mn_address]
        self._ask(mn_address, transfer_id)
