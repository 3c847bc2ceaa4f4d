"""Replicas of sessions that stay in use: take-over above the fence, whatever the network and the owner do meanwhile.

The long one is a simulation of its own: three nodes' real :class:`Sessions` over real stores, kernels that count, a
network that loses, repeats and delays questions and answers, machines that die, operators who take over from owners
that are alive.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from helpers import KEY
from node_helpers import MN, arrived_whole, lab, until
from simulation import scratch
from simulation.kernel import Kernel, KernelSink, Ledger, Violation, context_of, counter_of
from test_node import MobileNodePeer
from test_sessions import Kernel as RememberingKernel
from test_sessions import sessions

from contexts.base import decode, encode
from contexts.fence import highest_sequence_number
from contexts.ipsec import IpsecSaContext
from contexts.values import LifetimeLimits
from cxtp.constants import StatusCode
from cxtp.errors import CxtpError, LocalError, MalformedContext
from cxtp.messages import EncodedContext
from cxtp.replica import ReplicaKind, build_replica, find_replica
from cxtp.roles.events import ContextsReceived, Peer
from cxtp.session_replicas import TAKE_OVER_STEP, NotOwnerAnyMore, ReplicaUnconfirmed
from cxtp.sessions import Sessions
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore

RESERVE = 20
NAMES = ("a", "b", "c")


def question(record: SessionRecord, sender: str, rng: random.Random) -> ContextsReceived:
    peer = Peer(ip_address(f"127.0.0.{2 + NAMES.index(sender)}"), 5091, name=sender, is_router=True)
    return ContextsReceived(
        record.mn_address, record.contexts, record.generation, rng.getrandbits(32),
        predictive=True, activate=False, peer=peer,
    )  # fmt: skip


class World:
    """Three nodes and one session."""

    def __init__(self, directory: Path, seed: int, *, asks: bool = True) -> None:
        self.rng = random.Random(seed)
        self.directory, self.asks = directory, asks
        self.ledger = Ledger()
        self.kernels = {name: Kernel(self.ledger) for name in NAMES}
        self.nodes: dict[str, Sessions] = {}
        self.late: list[tuple[str, ContextsReceived, ReplicaKind]] = []
        self.partition: set[str] = set()

    async def start(self, name: str) -> None:
        key = StoreKey(bytes(32))
        store = SqliteStore.open(self.directory / f"{name}.db", key)

        async def pause() -> None:
            await asyncio.sleep(0)

        sink = KernelSink(self.kernels[name], pause, lambda what, who: None, lambda record: False)
        node = Sessions(store, lambda: 7.0, [sink], random=self.rng, sequence_reserve=RESERVE)
        if self.asks:
            node.confirm = lambda record: self.ask(name, record, ReplicaKind.KEEP)
        else:
            node.confirm = _nothing
        await node.open()
        self.nodes[name] = node

    async def stop(self, name: str) -> None:
        node = self.nodes.pop(name)
        await node.close()
        node.store.close()

    async def ask(self, sender: str, record: SessionRecord, kind: ReplicaKind) -> None:
        event = question(record, sender, self.rng)
        if self.rng.random() < 0.4:
            self.late.append((record.standby, event, kind))
        if {sender, record.standby} & self.partition or self.rng.random() < 0.2:
            raise ReplicaUnconfirmed("lost")
        verdict = await self.nodes[record.standby].keep_replica(event, kind, event.contexts)
        if self.rng.random() < 0.2:
            raise ReplicaUnconfirmed("its answer was lost")
        if not verdict.accepted:
            if verdict.statuses[0].status == StatusCode.STALE:
                await self.nodes[sender].depose(record.mn_address, record.generation)
                raise NotOwnerAnyMore("taken over")
            raise ReplicaUnconfirmed("refused")

    def record(self, name: str) -> SessionRecord | None:
        return self.nodes[name].get(MN)

    def owners(self) -> list[str]:
        held = {name: self.record(name) for name in self.nodes}
        return [name for name, record in held.items() if record and record.state is SessionState.OWNED]

    def in_use(self) -> list[str]:
        return [name for name, kernel in self.kernels.items() if MN in kernel.sessions]

    def now(self, name: str, record: SessionRecord) -> tuple[EncodedContext, ...]:
        installed = self.kernels[name].sessions[MN]
        return (context_of(installed.number, installed.last), *record.contexts[1:])

    # --- what may happen --------------------------------------------------------------------------------------------

    async def send(self) -> None:
        for name in self.in_use():
            self.kernels[name].send(MN, self.rng.choice((1, 3, 15, 60)))

    async def raise_ceiling(self) -> None:
        for name in self.owners():
            record = self.record(name)
            if record is not None and name in self.in_use():
                await self.nodes[name].raise_ceiling(MN, self.now(name, record))

    async def replicate(self) -> None:
        for name in self.owners():
            standby = self.rng.choice([other for other in NAMES if other != name])
            record = await self.nodes[name].assign_standby(MN, standby)
            if record is not None:
                await self.ask(name, record, ReplicaKind.KEEP)

    async def go_on(self) -> None:
        for name, node in self.nodes.items():
            if MN in node.waiting:
                await node.go_on(MN)
            elif name in self.owners() and name not in self.in_use():
                raise AssertionError(f"{name} owns what nobody uses")

    async def deliver_late(self) -> None:
        if self.late:
            standby, event, kind = self.rng.choice(self.late)
            await self.nodes[standby].keep_replica(event, kind, event.contexts)

    async def take_over(self) -> None:
        name = self.rng.choice(NAMES)
        await self.nodes[name].take_over(MN)

    async def move(self) -> None:
        for name in self.owners():
            node, record = self.nodes[name], self.record(name)
            target = self.rng.choice([other for other in NAMES if other != name])
            if record is None or {name, target} & self.partition:
                continue
            if record.standby not in ("", target):
                await self.ask(name, record, ReplicaKind.FORGET)
                await node.assign_standby(MN, "")
            frozen = await node.freeze(MN, target)
            event = replace(
                question(frozen, name, self.rng), transfer_id=frozen.transfer_id, predictive=False, activate=True
            )
            verdict = await self.nodes[target].receive(event)
            if verdict.accepted:
                await node.release(frozen)
            elif all(status.status != StatusCode.STALE for status in verdict.statuses):
                await node.reclaim(frozen)

    async def die(self) -> None:
        name = self.rng.choice(NAMES)
        if self.rng.random() < 0.5:
            self.kernels[name].sessions.clear()  # the whole machine
        await self.stop(name)
        await self.start(name)

    async def split(self) -> None:
        self.partition = set(self.rng.sample(NAMES, self.rng.choice((0, 0, 1))))

    async def run(self, steps: int) -> None:
        for name in NAMES:
            await self.start(name)
        try:
            await self.nodes["a"].load(MN, [context_of(1, 0)])
            doings = [self.send] * 4 + [self.raise_ceiling] * 3 + [self.replicate] * 3 + [self.go_on] * 2
            doings += [self.deliver_late] * 2 + [self.take_over, self.move, self.die, self.split]
            for _ in range(steps):
                try:
                    await self.rng.choice(doings)()
                except CxtpError:
                    continue
            await self.settle()
        finally:
            for name in list(self.nodes):
                await self.stop(name)

    async def settle(self) -> None:
        """All is well again: who owned in error learns of it, and the session lives."""
        self.partition = set()
        known = [record for name in NAMES if (record := self.record(name)) is not None]
        assert any(record.contexts for record in known), "lost"
        generations = [record.generation for name in self.owners() if (record := self.record(name)) is not None]
        assert len(set(generations)) == len(generations), "two owners of one generation"


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_no_number_is_used_twice(first: int) -> None:
    for seed in range(first, first + 20):
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            asyncio.run(World(Path(directory), seed).run(120))


async def _nothing(record: SessionRecord) -> None:
    """What a hurried implementer would do before a ceiling is raised."""


def test_it_would_be_found() -> None:
    """An owner that raises its ceiling without asking uses numbers that its successor uses too."""
    for seed in range(60):
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            try:
                asyncio.run(World(Path(directory), seed, asks=False).run(120))
            except Violation:
                return
    raise AssertionError("60 worlds did not find it")


def test_the_format() -> None:
    """docs/context-formats.md, 6.5: by hand."""
    assert build_replica(ReplicaKind.KEEP).data == bytes((1, 1, 0, 0))
    assert build_replica(ReplicaKind.FORGET).data == bytes((1, 2, 0, 0))
    other = EncodedContext(0x7001, b"x")
    assert find_replica([other]) is None
    assert find_replica([build_replica(ReplicaKind.FORGET), other]) == (ReplicaKind.FORGET, (other,))
    for data in (b"", b"\1\1\0", bytes((2, 1, 0, 0)), bytes((1, 3, 0, 0))):
        with pytest.raises(MalformedContext):
            find_replica([replace(build_replica(ReplicaKind.KEEP), data=data), other])


def test_over_the_wire(tmp_path: Path) -> None:
    """a -PCTD-> b, confirmed; a moves to c: b is told to forget; b's take-over then finds nothing."""

    async def main() -> None:
        async with lab(tmp_path, "udp", NAMES) as made:
            a, b = made.nodes["a"], made.nodes["b"]
            await a.sessions.load(MN, [context_of(1, 0)])
            record = await a.sessions.assign_standby(MN, "b")
            assert record is not None
            await a.replicas.ask(record)
            assert made.states() == {"a": SessionState.OWNED, "b": SessionState.REPLICA}
            held = b.sessions.get(MN)
            assert held is not None
            assert arrived_whole(held.contexts, record.contexts)
            await a.move(MN, "c")
            assert made.states() == {"a": SessionState.RELEASED, "b": SessionState.RELEASED, "c": SessionState.OWNED}
            with pytest.raises(LocalError, match="no replica"):
                await b.sessions.take_over(MN)
            await made.nodes["c"].move(MN, "a")
            again = await a.sessions.assign_standby(MN, "b")
            assert again is not None
            await a.replicas.ask(again)
            assert (await b.sessions.take_over(MN)).taken
            with pytest.raises(NotOwnerAnyMore):
                await a.replicas.ask(again)
            assert made.states()["a"] is SessionState.RELEASED
            assert made.states()["b"] is SessionState.OWNED

    asyncio.run(main())


def test_a_replica_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Another owner's replica is kept at once; a mobile node that comes to the standby gets its session there."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b", "c"), names=NAMES) as made:
            a = await made.start("a", mobile_node_keys={MN: KEY})
            b, c = made.nodes["b"], made.nodes["c"]
            await c.sessions.load(MN, [context_of(1, 0)])
            for owner in (c, a):
                record = await owner.sessions.assign_standby(MN, "b")
                assert record is not None
                await owner.replicas.ask(record)
                assert not b.router.new.awaits(MN)
                if owner is c:
                    await c.move(MN, "a")
            assert made.states() == {"a": SessionState.OWNED, "b": SessionState.REPLICA, "c": SessionState.RELEASED}
            mobile = MobileNodePeer(made)
            await mobile.endpoint.start()
            mobile.activate(KEY, predictive=False)
            await until(lambda: made.states()["b"] is SessionState.OWNED)
            await until(lambda: made.states()["a"] is SessionState.RELEASED)
            await mobile.endpoint.close()

    asyncio.run(main())


def test_what_can_not_be_taken_over_is_given_up_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = RememberingKernel()
        async with sessions(tmp_path, kernel) as node:
            plain = decode(context_of(1, 7))
            assert isinstance(plain, IpsecSaContext)
            numbers = replace(plain.sequence_numbers, outbound=highest_sequence_number(plain.proposal))
            life = replace(plain.lifetime, seconds=LifetimeLimits(hard=60, used=60))
            used_up, old = replace(plain, sequence_numbers=numbers), replace(plain, lifetime=life)
            for generation, (contexts, reason) in enumerate(
                [((used_up,), "no sequence number left"), ((old,), "has lived its 60 seconds")], 1
            ):
                encoded = tuple(map(encode, contexts))
                record = SessionRecord(
                    mn_address=MN, state=SessionState.OWNED, generation=10 * TAKE_OVER_STEP * generation,
                    contexts=encoded, updated=1.0,
                )  # fmt: skip
                event = question(record, "a", random.Random(generation))
                assert (await node.keep_replica(event, ReplicaKind.KEEP, encoded)).accepted
                outcome = await node.take_over(MN)
                assert not outcome.taken
                assert reason in outcome.dropped[0]
            assert kernel.installed == []
            assert node.counters["associations_not_taken_over"] == node.counters["sessions_not_taken_over"] == 2
            assert node.counters["associations_not_taken_over.no_sequence_number"] == 1
            assert node.counters["associations_not_taken_over.lifetime_over"] == 1
            assert counter_of(context_of(1, 7)) == (1, 7)

    asyncio.run(main())


def test_an_owner_goes_on_without_a_standby_that_was_dropped(tmp_path: Path) -> None:
    """Its machine was started anew while the standby was gone: it waits; then an operator decides."""

    async def main() -> None:
        world = World(tmp_path, 1)
        for name in NAMES:
            await world.start(name)
        node = world.nodes["a"]
        await node.load(MN, [context_of(1, 0)])
        await node.assign_standby(MN, "b")
        world.partition = {"b"}
        held = world.record("a")
        assert held is not None
        with pytest.raises(ReplicaUnconfirmed):
            await node.raise_ceiling(MN, world.now("a", held))
        assert node.unconfirmed == {MN}
        world.kernels["a"].send(MN, 1000)
        assert world.ledger.highest[1] == RESERVE  # no further than what the standby may know
        world.kernels["a"].sessions.clear()
        await world.stop("a")
        await world.start("a")
        node = world.nodes["a"]
        assert world.in_use() == []
        for _ in range(3):
            with pytest.raises(ReplicaUnconfirmed):
                await node.go_on(MN)
        assert world.in_use() == []
        await node.assign_standby(MN, "")
        assert await node.go_on(MN)
        assert world.in_use() == ["a"]
        world.kernels["a"].send(MN, 1000)
        assert world.ledger.highest[1] <= 4 * RESERVE  # however often it asked
        held = world.record("a")
        assert held is not None
        await node.raise_ceiling(MN, world.now("a", held))
        assert node.unconfirmed == set()
        for name in NAMES:
            await world.stop(name)

    asyncio.run(main())


def test_a_late_replica_with_other_associations_lowers_no_number(tmp_path: Path) -> None:
    """An SA was rekeyed meanwhile: what both have stays at the higher number."""

    async def main() -> None:
        async with sessions(tmp_path, RememberingKernel()) as node:
            rng = random.Random(1)

            async def keep(generation: int, *contexts: EncodedContext) -> bool:
                record = SessionRecord(
                    mn_address=MN, state=SessionState.OWNED, generation=generation, contexts=contexts, updated=1.0
                )
                event = question(record, "a", rng)
                return (await node.keep_replica(event, ReplicaKind.KEEP, contexts)).accepted

            assert await keep(5, context_of(1, 40), context_of(2, 20))
            assert await keep(5, context_of(1, 20))
            held = node.get(MN)
            assert held is not None
            assert [counter_of(item) for item in held.contexts] == [(1, 40), (2, 20)]
            assert await keep(6, context_of(2, 20))
            assert not await keep(5, context_of(1, 20))

    asyncio.run(main())
