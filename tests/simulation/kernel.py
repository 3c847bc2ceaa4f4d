"""A gateway's kernel, which sends ESP with the sessions that are installed; and what was sent by anybody, ever."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from context_examples import IPSEC_SA

from contexts.base import decode, encode
from contexts.ipsec import IpsecSaContext
from contexts.values import IpsecKeys, SequenceNumbers
from cxtp.errors import LocalError
from cxtp.messages import EncodedContext, IPAddress
from cxtp.store.records import SessionRecord


class Violation(AssertionError):
    """What must never be was seen."""


class Crashed(Exception):
    """The node died at this step."""


@lru_cache(maxsize=4096)
def context_of(number: int, outbound: int) -> EncodedContext:
    """Session ``number``'s one SA, having sent ``outbound`` packets."""
    key = number.to_bytes(4, "big") * 9
    return encode(
        replace(
            IPSEC_SA,
            ike_spis=None,
            inbound_spi=0xC000_0000 + number,
            outbound_spi=0xD000_0000 + number,
            sequence_numbers=SequenceNumbers(outbound=outbound),
            keying=IpsecKeys(key, b"", key, b""),
        )
    )


@lru_cache(maxsize=4096)
def counter_of(encoded: EncodedContext) -> tuple[int, int]:
    """A context's session number, and the last sequence number sent."""
    context = decode(encoded)
    assert isinstance(context, IpsecSaContext)
    return context.outbound_spi - 0xD000_0000, context.sequence_numbers.outbound


class Ledger:
    """Every (key, sequence number) pair that was ever on the wire."""

    def __init__(self) -> None:
        self.used: dict[int, set[int]] = {}
        self.highest: dict[int, int] = {}

    def use(self, number: int, sequence_number: int) -> None:
        used = self.used.setdefault(number, set())
        if sequence_number in used:
            raise Violation(f"session {number}: sequence number {sequence_number} was used twice")
        used.add(sequence_number)
        self.highest[number] = max(self.highest.get(number, 0), sequence_number)


@dataclass
class Installed:
    number: int
    last: int
    ceiling: int


class Kernel:
    """It lives as long as its machine: a node's program may die and come back to it."""

    enforces_ceiling = True

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.sessions: dict[IPAddress, Installed] = {}

    def send(self, mn_address: IPAddress, packets: int) -> int:
        """Send, up to the ceiling; gives how many went out."""
        installed = self.sessions[mn_address]
        count = packets
        if self.enforces_ceiling:
            count = min(packets, installed.ceiling - installed.last)
        for _ in range(count):
            installed.last += 1
            self.ledger.use(installed.number, installed.last)
        return count


class KernelSink:
    """One node's hold on its kernel (:class:`cxtp.sessions.Sink`); each call takes time, and the node may die in it."""

    def __init__(
        self,
        kernel: Kernel,
        pause: Callable[[], Awaitable[None]],
        changed: Callable[[str, IPAddress], None],
        refuses: Callable[[SessionRecord], bool],
    ) -> None:
        self.kernel, self.pause, self.changed, self.refuses = kernel, pause, changed, refuses

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        await self.pause()
        if self.refuses(record):
            raise LocalError("the kernel will not have it")
        number, last = counter_of(record.contexts[0])
        _, limit = counter_of(ceiling.contexts[0])
        before = self.kernel.sessions.get(record.mn_address)
        if before is None:
            self.kernel.sessions[record.mn_address] = Installed(number, last, limit)
        else:
            before.ceiling = limit
        self.changed("installed", record.mn_address)
        await self.pause()

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        await self.pause()
        installed = self.kernel.sessions.pop(record.mn_address, None)
        self.changed("removed", record.mn_address)
        await self.pause()
        if installed is None:
            return record.contexts
        return (context_of(installed.number, installed.last), *record.contexts[1:])

    async def discard(self, record: SessionRecord) -> None:
        pass

    async def holds(self, record: SessionRecord) -> bool:
        await self.pause()
        return record.mn_address in self.kernel.sessions

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        await self.pause()
        _, limit = counter_of(ceiling.contexts[0])
        if ceiling.mn_address in self.kernel.sessions:
            self.kernel.sessions[ceiling.mn_address].ceiling = limit


PADDING = tuple(EncodedContext(0x7001 + n, bytes(300)) for n in range(3))
"""Contexts that nobody knows: with them a transfer takes several messages."""


def burst(rng: random.Random) -> int:
    return rng.choice((1, 1, 2, 3, 10, 40))
