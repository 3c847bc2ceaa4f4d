"""Executables that are told of sessions that come and go, so that addresses and routes follow them.

Each is run with the session as one JSON object on its standard input and the event's name as its argument::

    {"event": "activated", "node": "a", "peer": "b", "mn_address": "192.0.2.9", "generation": 3,
     "ike_sas": [{"local": "203.0.113.1", "remote": "192.0.2.9", "local_id": "gateway", "remote_id": "client"}],
     "associations": [{"local": "203.0.113.1", "remote": "192.0.2.9", "inbound_spi": "c0000001",
                       "outbound_spi": "c0000002", "mode": "tunnel", "suite": "ESP:AES_GCM_16-256",
                       "local_selectors": ["10.1.0.0/16"], "remote_selectors": ["10.2.0.0/16"]}]}

There are no keys in it, and no IKE_SA where no IKE daemon told of one.  The events: ``releasing`` before a session
leaves (what holds its traffic back is done here),
``activated`` when it is in use here - also when it was to leave and stayed -, ``released`` when another node has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from contextlib import suppress
from ipaddress import summarize_address_range
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from contexts.base import decode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import TrafficSelector

from .config import ContextTypes
from .errors import ConfigurationError, LocalError
from .messages import IPAddress
from .store.records import SessionRecord

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that a hook may take; a session's traffic waits for it."""

AT_ONCE = 16
"""Hooks that run at the same time; the others wait."""

_SAID_LIMIT = 500


class HookFailed(LocalError):
    """A hook could not be run, took too long, or ended with something else than 0."""


class Hooks:
    """A :class:`cxtp.sessions.Listener` that runs executables; ``counters``: how many ran and failed, by event."""

    def __init__(
        self,
        node: str,
        activated: Path | None = None,
        released: Path | None = None,
        context_types: ContextTypes = ContextTypes(),
        timeout: float = TIMEOUT,
        *,
        releasing: Path | None = None,
    ) -> None:
        """Raises ConfigurationError for a path that can't be executed."""
        for path in (activated, released, releasing):
            if path is not None and not os.access(path, os.X_OK):
                raise ConfigurationError(f"the hook {path} is not there, or may not be executed")
        self._node = node
        self._executables = {"activated": activated, "released": released, "releasing": releasing}
        self._context_types = context_types
        self._timeout = timeout
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._orders: WeakValueDictionary[IPAddress, asyncio.Lock] = WeakValueDictionary()
        self.counters: Counter[str] = Counter()

    async def activated(self, record: SessionRecord) -> None:
        """Raises HookFailed."""
        await self._run("activated", record)

    async def releasing(self, record: SessionRecord) -> None:
        """Also waits for what runs for the session still: an address that is announced here after the session has left
        would stay with its neighbours.  Raises HookFailed."""
        async with self._order_of(record):
            pass
        await self._run("releasing", record)

    async def released(self, record: SessionRecord) -> None:
        """Raises HookFailed."""
        await self._run("released", record)

    async def _run(self, event: str, record: SessionRecord) -> None:
        executable = self._executables[event]
        if executable is None:
            return
        self.counters[event] += 1
        told = json.dumps({"event": event, "node": self._node, **describe(record, self._context_types)})
        # One session's events in their order: nobody waits for "activated", and it may have to leave soon after.
        try:
            async with self._order_of(record), self._slots:
                await self._call(executable, event, told.encode())
        except HookFailed:
            self.counters[f"{event}_failed"] += 1
            raise

    def _order_of(self, record: SessionRecord) -> asyncio.Lock:
        return self._orders.setdefault(record.mn_address, asyncio.Lock())

    async def _call(self, executable: Path, event: str, told: bytes) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                str(executable),
                event,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # so that its own children end with it
            )
        except OSError as error:
            raise HookFailed(f"the hook {executable} could not be run: {error.strerror}") from error
        try:
            _, said = await asyncio.wait_for(process.communicate(told), self._timeout)
        except asyncio.TimeoutError:
            raise HookFailed(f"the hook {executable} took longer than {self._timeout} seconds") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            text = said.decode("utf-8", "replace").strip()[:_SAID_LIMIT]
            raise HookFailed(f"the hook {executable} ended with {process.returncode}: {text or 'it said nothing'}")


def describe(record: SessionRecord, context_types: ContextTypes = ContextTypes()) -> dict[str, Any]:
    """A session for others than ourselves: all that is needed to move its traffic, and no key."""
    contexts = [decode(item, context_types) for item in record.contexts]
    return {
        "peer": record.peer,
        "mn_address": str(record.mn_address),
        "generation": record.generation,
        "ike_sas": [
            {
                "local": str(context.local_host.address),
                "remote": str(context.remote_host.address),
                "local_id": str(context.local_identity),
                "remote_id": str(context.remote_identity),
            }
            for context in contexts
            if isinstance(context, IkeSaContext)
        ],
        "associations": [
            {
                "local": str(context.local_host.address),
                "remote": str(context.remote_host.address),
                "inbound_spi": f"{context.inbound_spi:08x}",
                "outbound_spi": f"{context.outbound_spi:08x}",
                "mode": context.mode.name.lower(),
                "suite": context.proposal.name,
                "local_selectors": [text for item in context.local_selectors for text in _networks(item)],
                "remote_selectors": [text for item in context.remote_selectors for text in _networks(item)],
            }
            for context in contexts
            if isinstance(context, IpsecSaContext)
        ],
    }


def _networks(selector: TrafficSelector) -> list[str]:
    return [str(network) for network in summarize_address_range(selector.start_address, selector.end_address)]
