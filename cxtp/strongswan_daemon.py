"""One strongSwan daemon as a place of sessions: told over its ``ha`` plugin, looked at over vici.

The plugin's messages are not confirmed, so that nothing here is done before it was seen: whatever is told is told again
until the daemon's own list (or the kernel) shows it.  Many sessions share one look and one activation.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import IkeSpis, IPAddress, MessageIds

from .adapters.strongswan_ha import activation, deletion, message_id, messages_of, resync
from .adapters.strongswan_ha.link import HaLink
from .adapters.strongswan_ha.outbound import child_name, connection_name
from .adapters.strongswan_vici import Connection, Daemon, DaemonError, IkeSa, Start, ha_version
from .constants import StatusCode
from .errors import RemoteError, TransportError
from .strongswan_contexts import children_of, ike_sas_of

log = logging.getLogger(__name__)

SEGMENTS = (1,)
"""Of ``ha``: one, which the daemon itself has (``cxtp gateway strongswan --print-config``)."""

ESTABLISHED, PASSIVE = "ESTABLISHED", "PASSIVE"
RESTING_CHILDREN = frozenset(("INSTALLED", "ROUTED"))
"""States of a CHILD_SA that nothing is being done to; one that was rekeyed goes after some seconds."""

FED_AT_ONCE = 16
"""Sessions that the daemon is told of and has not installed yet.  Its socket holds some 150 messages, by Linux's
default of 212,992 octets (net.core.rmem_default), and drops what comes beyond."""

ACTIVATION_DELAY = 0.005
"""Seconds that an activation waits for others: each makes the daemon go through all of its IKE_SAs."""

FEED_TIMEOUT = 2.0
"""Seconds until what was told is told anew."""

LOOKS = 4
"""That many are taken whatever the time: one at a thousand IKE_SAs may take a second."""

NEXT_IDS = 4
"""IKE_SAs that clients may have made while the daemon was told of one; beyond that its whole list is looked at."""

CONNECTIONS_KEPT = 1.0
"""Seconds that the daemon's list of connections is good for many sessions that come at once."""

ATTEMPTS = 3
ONCE_MORE = 0.1
"""Seconds after which an IKE_SA that was not listed is asked for again."""

QUIET_TIMEOUT = 12.0
"""Seconds that a session's exchanges may take before it leaves: the plugin deletes what was rekeyed after five."""

FAR = 1 << 20
"""Message IDs: further on than whoever asks the peer in the daemon's name goes."""

_POLL = 0.002
_LONGEST_POLL = 0.05


class UnknownConnection(RemoteError):
    """The daemon has no connection, or no child of it, by a name that a session needs."""

    status = StatusCode.UNKNOWN_CONNECTION


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask again and again, ever less often; whether it came to hold in that time, or within LOOKS."""
    end, pause, looks = time.monotonic() + seconds, _POLL, 1
    while not await holds():
        if time.monotonic() >= end and looks >= LOOKS:
            return False
        looks += 1
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL)
    return True


class StrongswanDaemon:
    """``ha_local`` and ``ha_daemon``: the loopback addresses of our and of the daemon's end of its ``ha`` link.

    ``counters``: activations, looks, repetitions.  All methods raise DaemonError where it does not answer, or does not
    do what it was told.
    """

    def __init__(
        self,
        vici: Daemon,
        ha_local: IPAddress,
        ha_daemon: IPAddress,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises ConfigurationError, TransportError."""
        self.vici = vici
        self.link = HaLink(ha_local, ha_daemon, 0)
        self.counters: Counter[str] = Counter()
        self.in_kernel = True
        """Its CHILD_SAs are the kernel's, whose numbers can be read and set; else its own (kernel-libipsec)."""
        self._random = random
        self._start: Start | None = None
        self._ids: dict[IkeSpis, int] = {}
        self._highest = 0
        self._connections: Mapping[str, Connection] = {}
        self._connections_of = -math.inf
        self._feeding = asyncio.Semaphore(FED_AT_ONCE)
        self._look: asyncio.Task[dict[IkeSpis, IkeSa]] | None = None
        self._next_look: asyncio.Task[dict[IkeSpis, IkeSa]] | None = None
        self._activation: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find out who it is, and listen to it."""
        await self.is_another()
        self.link.start()

    async def close(self) -> None:
        """Say nothing more to it; it goes on."""
        for task in (self._look, self._next_look, self._activation):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.link.close()
        self.vici.close()

    async def is_another(self) -> bool:
        """Whether the daemon was started anew since the last time: it knows nothing then."""
        start = await self.vici.started()
        if self._start is not None and self._start.is_same(start):
            return False
        self._ids.clear()
        self._highest = 0
        version, plugins = await self.vici.version(), await self.vici.plugins()
        if "ha" not in plugins:
            raise DaemonError(
                "strongSwan runs without its plugin ha: see cxtp gateway strongswan --print-config; "
                "on Debian it is in the package libcharon-extra-plugins"
            )
        self.link.version = ha_version(version)
        self.in_kernel = "kernel-libipsec" not in plugins
        log.info("strongSwan %s, which speaks version %d of the ha messages", version, self.link.version)
        self._start = start
        return True

    # --- looking ----------------------------------------------------------------------------------------------------

    async def ike_sas(self) -> Mapping[IkeSpis, IkeSa]:
        """All that it has, as it is after this call began; callers share a look."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_task(self._look_after(self._look))
        return await asyncio.shield(self._next_look)

    async def _look_after(self, earlier: asyncio.Task[dict[IkeSpis, IkeSa]] | None) -> dict[IkeSpis, IkeSa]:
        if earlier is not None:
            await asyncio.wait([earlier])
        self._look, self._next_look = self._next_look, None  # who asks from here on wants one that begins later
        self.counters["looks"] += 1
        found = await self.vici.ike_sas()
        self._ids.clear()
        for sa in found:
            self._learn(sa)
        return {sa.spis: sa for sa in found}

    async def find(self, spis: Iterable[IkeSpis], *, surely: bool = False) -> dict[IkeSpis, IkeSa]:
        """Those of these IKE_SAs that it has: one by one, where their IDs are known, which no other ever gets.

        ``surely``: what it did not list is asked for once more, a moment later.  strongSwan 5.9.8 was seen to leave
        an IKE_SA out that was busy with the end of a CHILD_SA.
        """
        wanted = tuple(spis)
        found = await self._find(wanted)
        if surely and len(found) < len(wanted):
            self.counters["not_listed"] += 1
            await asyncio.sleep(ONCE_MORE)
            found |= await self._find(one for one in wanted if one not in found)
        return found

    async def _find(self, spis: Iterable[IkeSpis]) -> dict[IkeSpis, IkeSa]:
        found = {}
        for one in spis:
            if one not in self._ids:
                there = await self.ike_sas()
                found.update({one: there[one]} if one in there else {})
            elif (sa := await self._ask_for(self._ids[one])) is not None:
                found[one] = sa
        return found

    async def _ask_for(self, unique_id: int) -> IkeSa | None:
        self.counters["questions"] += 1
        for sa in await self.vici.ike_sas(unique_id):
            self._learn(sa)
            return sa
        return None

    def _learn(self, sa: IkeSa) -> None:
        self._ids[sa.spis] = sa.unique_id
        self._highest = max(self._highest, sa.unique_id)

    async def _identify(self, ike_sas: Sequence[IkeSaContext]) -> None:
        """IKE_SAs that it was told of just now: they have the next IDs, unless clients came in between."""
        unknown = {sa.spis for sa in ike_sas} - self._ids.keys()
        for unique_id in range(self._highest + 1, self._highest + 1 + len(unknown) + NEXT_IDS):
            if not unknown:
                return
            await self._ask_for(unique_id)
            unknown -= self._ids.keys()

    async def quiet(self, spis: Iterable[IkeSpis]) -> list[IkeSa]:
        """Wait until nothing is under way in these IKE_SAs: no exchange, no CHILD_SA that is being replaced; gives
        them as they are then."""
        wanted, busy, found = tuple(spis), "", list[IkeSa]()

        async def is_quiet() -> bool:
            nonlocal busy, found
            found = list((await self.find(wanted, surely=True)).values())
            busy = ", ".join(dict.fromkeys(what for sa in found for what in _under_way(sa)))
            return not busy

        if not await until(is_quiet, QUIET_TIMEOUT):
            raise DaemonError(f"something is under way in its IKE_SA ({busy}): try again when that has ended")
        return found

    async def check(self, contexts: Sequence[Context]) -> None:
        """Whether it can look up all names that a session needs.  Raises UnknownConnection, NotExpressible."""
        if time.monotonic() - self._connections_of < CONNECTIONS_KEPT:
            with suppress(UnknownConnection):  # it may have been loaded since
                return _look_up(contexts, self._connections)
        self._connections = await self.vici.connections()
        self._connections_of = time.monotonic()
        _look_up(contexts, self._connections)

    # --- telling ----------------------------------------------------------------------------------------------------

    async def feed(self, contexts: Sequence[Context], is_installed: Callable[[], Awaitable[bool]]) -> None:
        """Tell it a session, until ``is_installed`` says that it is there; its IKE_SAs are PASSIVE then.

        Raises NotExpressible for what can't be told.
        """
        messages = messages_of(expressible(contexts), self.link.version, self._random)
        async with self._feeding:
            for attempt in range(ATTEMPTS):
                if attempt:  # an IKE_ADD that comes again is another IKE_SA: what of it was taken goes first
                    self.counters["fed_again"] += 1
                    await self.forget(ike_sas_of(contexts))
                self._send(messages)
                if await until(is_installed, FEED_TIMEOUT):
                    break
            else:
                raise DaemonError("strongSwan has not installed what it was told of: the reason is in its log")
            await self._identify(ike_sas_of(contexts))
        self.know(contexts)

    def know(self, contexts: Sequence[Context]) -> None:
        """The daemon has it: so does what follows its messages."""
        for message in messages_of(expressible(contexts), self.link.version, self._random):
            self.link.tracker.apply(message, time.time())

    async def forget(self, ike_sas: Sequence[IkeSaContext]) -> None:
        """Have it drop IKE_SAs with their CHILD_SAs, without a word to the peer; done once it lists them no more.

        The daemon says nothing of it: what follows its messages has them until :meth:`unknow`.
        """
        messages = [deletion(sa.spis, sa.initiator, self.link.version) for sa in ike_sas]
        wanted = {sa.spis for sa in ike_sas}

        async def is_gone() -> bool:
            return not await self.find(wanted)

        for attempt in range(ATTEMPTS):
            self.counters["deletions"] += 1
            self._send(messages)
            if await until(is_gone, FEED_TIMEOUT if attempt else FEED_TIMEOUT / 4):
                break
        else:
            raise DaemonError("strongSwan does not drop an IKE_SA that it was told to: see its log")
        for spis in wanted:
            self._ids.pop(spis, None)

    def unknow(self, ike_sas: Iterable[IkeSaContext]) -> None:
        """The daemon has them no more: so does what follows its messages."""
        for sa in ike_sas:
            self.link.tracker.drop(sa.spis)

    async def activate(self, spis: Iterable[IkeSpis]) -> None:
        """Make PASSIVE IKE_SAs ESTABLISHED."""
        wanted, states = tuple(spis), ""

        async def are_established() -> bool:
            nonlocal states
            if self._activation is None:
                self._activation = asyncio.get_running_loop().create_task(self._activate())
            await asyncio.shield(self._activation)
            there = await self.find(wanted)
            found = [there[one].state if one in there else "missing" for one in wanted]
            states = ", ".join(found)
            return all(state == ESTABLISHED for state in found)

        if not await until(are_established, FEED_TIMEOUT):
            raise DaemonError(f"strongSwan does not use an IKE_SA that it was told of ({states}): see its log")

    async def _activate(self) -> None:
        await asyncio.sleep(ACTIVATION_DELAY)
        self._activation = None  # who comes from here on may come too late for this one
        self.counters["activations"] += 1
        self._send(activation(SEGMENTS, self.link.version))

    def set_message_ids(self, context: IkeSaContext) -> None:
        """The IKE_SA's next request to send, and to expect, from now on."""
        messages = message_id(context, self.link.version)
        self._send(messages)
        for message in messages:
            self.link.tracker.apply(message, time.time())

    def hold_requests(self, context: IkeSaContext) -> None:
        """Until :meth:`set_message_ids` the daemon's next request would have a Message ID that nobody else uses."""
        far = MessageIds(context.message_ids.next_request_to_send + FAR, 0)
        self._send(message_id(replace(context, message_ids=far), self.link.version))

    def expect(self, context: IkeSaContext, number: int) -> None:
        """The Message ID of the request that the peer of an IKE_SA sends next, or again."""
        expected = replace(context, message_ids=MessageIds(0, number))
        self._send(message_id(expected, self.link.version))

    def ask_for_all(self) -> None:
        """RESYNC: its IKE_SAs come again, and it rekeys their CHILD_SAs."""
        self.counters["resyncs"] += 1
        self._send([resync(SEGMENTS, self.link.version)])

    def _send(self, messages: Sequence[object]) -> None:
        try:
            self.link.send(messages, known=False)  # type: ignore[arg-type]
        except TransportError as error:
            raise DaemonError(str(error)) from error


def expressible(contexts: Iterable[Context]) -> list[IkeSaContext | IpsecSaContext]:
    """Those that a daemon has; others stay in the record."""
    return [context for context in contexts if isinstance(context, (IkeSaContext, IpsecSaContext))]


def _look_up(contexts: Sequence[Context], loaded: Mapping[str, Connection]) -> None:
    for ike_sa in ike_sas_of(contexts):
        name = connection_name(ike_sa)
        if name not in loaded:
            raise UnknownConnection(
                f"strongSwan has no connection {name!r} here; loaded are: {', '.join(sorted(loaded)) or 'none'}"
            )
        for child in children_of(contexts):
            if child.ike_spis == ike_sa.spis and child_name(child) not in loaded[name].children:
                raise UnknownConnection(
                    f"strongSwan's connection {name!r} has no child {child_name(child)!r} here; it has: "
                    f"{', '.join(sorted(loaded[name].children)) or 'none'}"
                )


def _under_way(sa: IkeSa) -> Iterable[str]:
    yield from sa.tasks
    for child in sa.children:
        if child.state not in RESTING_CHILDREN:
            yield f"CHILD_SA {child.name} {child.state}"
    if sa.state not in (ESTABLISHED, PASSIVE):
        yield f"IKE_SA {sa.state}"


__all__ = ["DaemonError", "StrongswanDaemon", "UnknownConnection", "until"]
