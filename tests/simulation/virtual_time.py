"""An asyncio event loop whose time is virtual: it jumps to whatever happens next, and never asks the system."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class NothingLeft(Exception):
    """Everybody waits for what can't happen: a deadlock."""


class _NoSockets(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingLeft("nothing is scheduled, and nobody waits for the network")
        if timeout > 0 and self.loop is not None:
            self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``commit_delays`` gives, for each job that would go to a thread, the seconds until it is done and until its
    caller knows."""

    def __init__(self, commit_delays: Callable[[], tuple[float, float]]) -> None:
        self.now = 0.0
        self._commit_delays = commit_delays
        selector = _NoSockets()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """The store's thread: the job is done at one moment, its caller learns it at another."""
        future = self.create_future()
        until_done, until_known = self._commit_delays()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(until_known, settle, future.set_exception, error)
            else:
                self.call_later(until_known, settle, future.set_result, result)

        def settle(setter: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                setter(outcome)

        self.call_later(until_done, work)
        return future
