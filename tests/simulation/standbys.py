"""Worlds whose nodes have standbys: whole nodes replicate their sessions, and an operator takes replicas over, also
from owners that are alive after all (docs/safety.md, replicas)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cxtp import session_replicas
from cxtp.errors import CxtpError
from cxtp.messages import EncodedContext, IPAddress
from cxtp.node import Node
from cxtp.replica_questions import ReplicaQuestions
from cxtp.replicator import Replicator
from cxtp.sessions import Sessions
from cxtp.store.records import SessionRecord, SessionState

from .kernel import PADDING, Kernel, Violation, burst, context_of, counter_of
from .world import HOLDING, RESERVE, Machine, World


class Counters:
    """A kernel's, as :class:`cxtp.kernel_keeper.Counting` has them."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        installed = self.kernel.sessions.get(record.mn_address)
        if installed is None:
            return record.contexts
        return (context_of(installed.number, installed.last), *record.contexts[1:])


class StandbyWorld(World):
    """Each node's standby is the next one; of two, each is the other's."""

    def __init__(self, seed: int, directory: Path, *, harsh: bool | None = None) -> None:
        super().__init__(seed, directory, harsh=harsh)
        self.padding = PADDING[:0]  # a replica is one message
        names = list(self.machines)
        self.standby = dict(zip(names, names[1:] + names[:1], strict=True))
        self.replicators: dict[str, Replicator] = {}
        self.raising: set[tuple[str, IPAddress]] = set()
        self.taken_over: Counter[IPAddress] = Counter()

    async def start(self, machine: Machine) -> None:
        await super().start(machine)
        if machine.node is not None:
            interval = self.rng.choice((0.05, 0.5))
            standby = self.standby[machine.name]
            replicator = Replicator(
                machine.node, Counters(machine.kernel), standby, interval=interval, packets=20, refresh=10.0
            )
            self.replicators[machine.name] = replicator
            replicator.start()

    def crash(self, machine: Machine, *, power: bool) -> None:
        replicator = self.replicators.pop(machine.name, None)
        if replicator is not None and replicator._task is not None:
            replicator._task.cancel()
        super().crash(machine, power=power)

    def _something(self) -> None:
        chance = self.rng.random()
        if chance < 0.1:
            self._take_over()
        else:
            super()._something()

    def _take_over(self) -> None:
        """An operator says that an owner is gone: it is, or its network is, or it is not."""
        replicas = [
            (machine, record)
            for machine in self.machines.values()
            for record in self.durable[machine.name].values()
            if record.state is SessionState.REPLICA and machine.node is not None
        ]
        if not replicas:
            return
        machine, record = self.rng.choice(replicas)
        owner = self.machines[record.peer]
        if self.rng.random() < 0.7 and owner.node is not None and self.hostile:
            self.crash(owner, power=self.rng.random() < 0.7)
            self.loop.call_later(self.rng.choice((0.5, 5.0)), self.restart, owner)
        assert machine.node is not None
        self.spawn(self._taken(machine.node, record.mn_address))

    async def _taken(self, node: Node, mn_address: IPAddress) -> None:
        self.step(f"the operator has {node.config.name} take {mn_address} over")
        self.taken_over[mn_address] += 1
        try:
            outcome = await node.sessions.take_over(mn_address)
            self.moves["taken over" if outcome.taken else "given up"] += 1
        except CxtpError as error:
            self.moves[f"take-over: {type(error).__name__}"] += 1

    def _traffic(self) -> None:
        for machine in self.machines.values():
            for mn_address, installed in list(machine.kernel.sessions.items()):
                count = machine.kernel.send(mn_address, burst(self.rng))
                if count:
                    self.step(f"{machine.name} sends {count} of {mn_address}, to {installed.last}", mn_address)
                key = machine.name, mn_address
                low = installed.ceiling - installed.last < RESERVE // 2
                if machine.node is not None and low and key not in self.raising:
                    self.raising.add(key)
                    self.spawn(self._raise(machine.node, key, context_of(installed.number, installed.last)))

    async def _raise(self, node: Node, key: tuple[str, IPAddress], context: EncodedContext) -> None:
        try:
            await node.sessions.raise_ceiling(key[1], (context,))
        finally:
            self.raising.discard(key)

    def _check_session(self, mn_address: IPAddress) -> None:
        """No number twice is the ledger's part.  Two may send, and own, only after somebody took over: under different
        generations, and above what the other may come to."""
        number = self.sessions.get(mn_address)
        if number is None:
            return
        records = [record for durable in self.durable.values() if (record := durable.get(mn_address)) is not None]
        owned = [record.generation for record in records if record.state is SessionState.OWNED]
        senders = sum(mn_address in machine.kernel.sessions for machine in self.machines.values())
        if max(senders, len(owned)) > 1 and not self.taken_over[mn_address]:
            raise Violation(f"{mn_address} is in use at {senders} nodes, and owned by {len(owned)}")
        if len(set(owned)) < len(owned):
            raise Violation(f"{mn_address} has two owners of one generation: {sorted(owned)}")
        highest = self.ledger.highest.get(number, 0)
        held = [record for record in records if record.state in HOLDING]
        if not any(record.contexts and counter_of(record.contexts[0])[1] >= highest for record in held):
            raise Violation(f"{mn_address} is lost: no store can go on above {highest}")

    def _is_elsewhere(self, record: SessionRecord, other: SessionRecord) -> bool:
        """Its standby may have taken it over while it was being moved there."""
        return other.state is SessionState.OWNED and other.generation >= record.generation

    def _unsettled(self) -> list[str]:
        """Questions to standbys go on for ever, and each stays in its role for a while."""
        return [what for what in super()._unsettled() if ": transfer of" not in what]

    async def _settle(self) -> None:
        await super()._settle()
        for replicator in self.replicators.values():
            await replicator.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


# --- the protocol, broken on purpose ----------------------------------------------------------------------------------


async def _nobody_is_asked(*_: object) -> None:
    """As if the standby had confirmed."""


_raise_ceiling = Sessions.raise_ceiling


async def _raise_at_once(self: Sessions, mn_address: IPAddress, contexts: Iterable[EncodedContext]) -> None:
    """The kernel is told before the standby has confirmed."""
    self.confirm = _nobody_is_asked
    await _raise_ceiling(self, mn_address, contexts)


STANDBY_MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "ceilings raised at once": (Sessions, "raise_ceiling", _raise_at_once),
    "replicas stay behind": (ReplicaQuestions, "withdraw", _nobody_is_asked),
    "one generation ahead": (session_replicas, "TAKE_OVER_STEP", 1),
    "a refused generation asked for again": (Sessions, "step_up", _nobody_is_asked),
}
"""Owner, attribute and value; each is to be found within a hundred seeds."""
