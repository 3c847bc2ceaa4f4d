"""One seed's run: nodes, mobile nodes, an operator, faults, and what must hold after each step.

A step is one thing that happens: a message is sent, arrives or is lost; a record is on disk; a kernel takes a session,
gives it up or sends with it; a node dies or comes back; the network is cut or joined; somebody asks for a move.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from cxtp.config import Limits, ProtocolConfig, Timers
from cxtp.errors import CxtpError
from cxtp.messages import IPAddress
from cxtp.node import Node, NodeConfig
from cxtp.roles import MobileNode, Peer
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore
from cxtp.transports.endpoint import Receiver, Router
from cxtp.wire import build, parse

from .kernel import PADDING, Crashed, Kernel, KernelSink, Ledger, Violation, burst, context_of, counter_of
from .network import Network, Quality, SimulatedEndpoint
from .virtual_time import VirtualLoop

RESERVE = 64
LIMITS = Limits(transfers=8, remembered_requests=32, events=64, octets_under_way=1 << 16)
HOLDING = (SessionState.OWNED, SessionState.FROZEN, SessionState.STANDBY)
LADDER = 400
"""Lines of the past that a violation shows."""


class Disk:
    """A node's store: the product's own, whose commits may come too late for a node that died."""

    def __init__(self, world: World, name: str, path: Path) -> None:
        self.world, self.name = world, name
        key_file = path.with_suffix(".key")
        key = StoreKey.load(key_file) if key_file.exists() else StoreKey.create(key_file)
        self.store = SqliteStore.open(path, key)
        self.dead = False
        self.get, self.header, self.records, self.count = (
            self.store.get,
            self.store.header,
            self.store.records,
            self.store.count,
        )

    def put_many(self, records: Iterable[SessionRecord]) -> None:
        if self.dead:
            raise Crashed
        records = tuple(records)
        self.store.put_many(records)
        for record in records:
            self.world.durable[self.name][record.mn_address] = record
            if record.state is SessionState.FROZEN:
                self.world.frozen.add((self.name, record.transfer_id))
            what = f"{record.state.value} g{record.generation}"
            self.world.step(f"{self.name} has {record.mn_address} on disk: {what}", record.mn_address)

    def die(self) -> None:
        self.dead = True
        self.store.close()

    close = die


@dataclass
class Machine:
    """What a node runs on.  ``node`` is None while its program is down."""

    name: str
    router: Router
    kernel: Kernel
    skew: float
    offset: float
    node: Node | None = None
    disk: Disk | None = None
    endpoint: SimulatedEndpoint | None = None
    sink: KernelSink | None = None
    alive: list[bool] | None = None


class World:
    """``run`` gives the number of steps; it raises Violation, and :attr:`ladder` tells the story."""

    node_class: type[Node] = Node

    def __init__(self, seed: int, directory: Path, *, harsh: bool | None = None) -> None:
        """``harsh``: as bad as it gets in every respect; unless told otherwise, every fourth seed is."""
        harsh = seed % 4 == 3 if harsh is None else harsh
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.hostile = rng.random() < 0.7 or harsh
        self.directory = directory
        self.loop = VirtualLoop(lambda: (rng.uniform(0.0001, 0.02), rng.choice((0.0, 0.0, 0.005))))
        self.loop.set_exception_handler(lambda loop, context: self._loop_fault(context))
        quality = Quality(
            loss=rng.choice((0.0, 0.1, 0.3)) if self.hostile else 0.0,
            duplication=rng.choice((0.0, 0.2)) if self.hostile else 0.0,
            delay=(0.001, rng.choice((0.01, 0.1, 0.4))),
            late=rng.choice((0.0, 0.05, 0.2)) if self.hostile else 0.0,
            latest=rng.choice((1.0, 20.0, 60.0)),
        )
        if harsh:
            quality = Quality(loss=0.2, duplication=0.8, delay=(0.001, 0.1), late=0.6, latest=3.0)
        self.network = Network(rng, self.loop, quality, self.step)
        self.network.on_send = self._after_an_answer
        self.deadly_answers = 0.3 if harsh else 0.03
        self.reliable = rng.random() < 0.3 and not harsh
        self.ladder: deque[str] = deque(maxlen=LADDER)
        self.steps = 0
        self.fault: Violation | None = None
        self.is_over = False
        self.counters: Counter[str] = Counter()
        self.ledger = Ledger()
        self.keys: dict[IPAddress, bytes] = {}
        self.sessions = {ip_address(f"192.0.2.{n + 1}"): n for n in range(rng.choice((1, 2, 3)))}
        self.frozen: set[tuple[str, int | None]] = set()
        self.durable: dict[str, dict[IPAddress, SessionRecord]] = {}
        self.machines: dict[str, Machine] = {}
        for n in range(rng.choice((2, 3, 3, 4))):
            name = "abcd"[n]
            router = Router(name, ip_address(f"198.51.100.{n + 1}"))
            skew = rng.uniform(0.9, 1.1) if self.hostile else 1.0
            self.machines[name] = Machine(name, router, Kernel(self.ledger), skew, rng.uniform(0, 1e6))
            self.durable[name] = {}
        self.protocol = ProtocolConfig(
            timers=Timers(
                max_transfer_time=1.0 if harsh else rng.choice((0.2, 1.0)),
                max_handover_time=2.0 if harsh else rng.choice((2.0, 15.0)),
            ),
            limits=replace(LIMITS, message_octets=600 if harsh else rng.choice((600, 65_535))),
        )
        self.padding = PADDING if harsh else PADDING[: rng.choice((0, 3))]
        self.mobile = Mobile(self)
        self.tasks: set[asyncio.Task[None]] = set()
        self.moves: Counter[str] = Counter()

    # --- steps and invariants ----------------------------------------------------------------------------------------

    def step(self, what: str, mn_address: IPAddress | None = None) -> None:
        """One thing has happened: tell it, and look whether all still holds."""
        if self.is_over:
            return
        self.steps += 1
        self.ladder.append(f"{self.loop.now:12.6f}  {what}")
        try:
            for address in (mn_address,) if mn_address is not None else ():
                self._check_session(address)
            self._check_queues()
        except Violation as violation:
            self._fail(violation)
            raise

    def _fail(self, violation: Violation) -> None:
        if self.is_over:
            return
        if self.fault is None:
            self.fault = violation
            self.ladder.append(f"{self.loop.now:12.6f}  !!! {violation}")
        self.loop.stop()

    def _loop_fault(self, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Violation):
            self._fail(error)
        elif error is not None and not isinstance(error, (Crashed, CxtpError)):
            self._fail(Violation(f"an exception that nobody expected: {error!r}"))

    def _check_session(self, mn_address: IPAddress) -> None:
        number = self.sessions.get(mn_address)
        if number is None:
            return
        senders = [m.name for m in self.machines.values() if mn_address in m.kernel.sessions]
        if len(senders) > 1:
            raise Violation(f"{mn_address} is in use on {' and '.join(senders)}")
        records = [(name, durable.get(mn_address)) for name, durable in self.durable.items()]
        owners = [name for name, record in records if record is not None and record.state is SessionState.OWNED]
        if len(owners) > 1:
            raise Violation(f"{mn_address} is owned by {' and '.join(owners)}")
        highest = self.ledger.highest.get(number, 0)
        held = [record for _, record in records if record is not None and record.state in HOLDING]
        if not any(record.contexts and counter_of(record.contexts[0])[1] >= highest for record in held):
            raise Violation(f"{mn_address} is lost: no store can go on above {highest}")

    def _check_queues(self) -> None:
        for machine in self.machines.values():
            if machine.node is None:
                continue
            for role in (machine.node.router.previous, machine.node.router.new):
                sizes = {
                    "transfers": (len(role._transfers), LIMITS.transfers),
                    "events": (len(role._events), LIMITS.events + LIMITS.transfers),
                    "outgoing": (len(role._outgoing), LIMITS.events),
                    "activations": (len(role._activations._entries), LIMITS.remembered_requests),
                }
                for what, (size, limit) in sizes.items():
                    if size > limit:
                        raise Violation(f"{machine.name}: {size} {what}, {limit} are allowed")

    # --- machines ----------------------------------------------------------------------------------------------------

    async def start(self, machine: Machine) -> None:
        alive = [True]
        routers = {m.router.address: m.name for m in self.machines.values() if m is not machine}

        def make_endpoint(receiver: Receiver) -> SimulatedEndpoint:
            return SimulatedEndpoint(
                self.network, machine.router.address, routers, receiver, reliable=self.reliable
            )

        async def pause() -> None:
            await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.02)))
            if not alive[0]:
                raise Crashed

        def changed(what: str, mn_address: IPAddress) -> None:
            self.step(f"{machine.name}'s kernel has {mn_address} {what}", mn_address)

        def refuses(record: SessionRecord) -> bool:
            """Now and then a kernel will not have what comes from elsewhere (what was its own, it takes back)."""
            own = (machine.name, record.transfer_id) in self.frozen or machine.node is None
            no = not own and record.transfer_id is not None and self.hostile and self.rng.random() < 0.1
            if no:
                self.step(f"{machine.name}'s kernel refuses {record.mn_address}", record.mn_address)
            return no

        config = NodeConfig(
            machine.name,
            tuple(m.router for m in self.machines.values() if m is not machine),
            self.protocol,
            self.keys,
            resend_interval=0.5,
            resend_interval_max=4.0,
            sequence_reserve=RESERVE,
        )
        machine.alive = alive
        machine.disk = Disk(self, machine.name, self.directory / f"{machine.name}.db")
        machine.sink = KernelSink(machine.kernel, pause, changed, refuses)
        node = self.node_class(
            config,
            machine.disk,  # type: ignore[arg-type]
            make_endpoint,
            sinks=[machine.sink],
            clock=lambda: self.loop.now * machine.skew + machine.offset,
            wall_clock=lambda: machine.offset + self.loop.now,
            random=self.rng,
        )
        assert isinstance(node.endpoint, SimulatedEndpoint)
        machine.endpoint = node.endpoint
        await node.start()
        if alive[0]:
            machine.node = node

    def crash(self, machine: Machine, *, power: bool) -> None:
        """The program dies at once; with ``power``, its machine's kernel too."""
        node, machine.node = machine.node, None
        if machine.alive is not None:
            machine.alive[0] = False
        if machine.endpoint is not None:
            machine.endpoint.closed = True
        if machine.disk is not None:
            machine.disk.die()
        if node is not None:
            node._closed = True
            node._doubts.close()
        if power:
            machine.kernel.sessions.clear()
        self.step(f"{machine.name} {'loses power' if power else 'dies'}")

    def restart(self, machine: Machine) -> None:
        if machine.node is not None or (machine.alive is not None and machine.alive[0]):
            return
        self.step(f"{machine.name} starts")
        self.spawn(self.start(machine))

    def spawn(self, work: object) -> None:
        task = self.loop.create_task(work)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Violation):
            self._fail(error)
        elif error is not None and not isinstance(error, (CxtpError, Crashed)):
            self._fail(Violation(f"an exception that nobody expected: {error!r}"))

    # --- what happens ------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> int:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run(steps))
        except RuntimeError:  # the loop was stopped by a violation
            if self.fault is None:
                raise
        finally:
            for machine in self.machines.values():
                if machine.disk is not None:
                    machine.disk.die()
            self._end()
            asyncio.set_event_loop(None)
            self.loop.close()
        if self.fault is not None:
            raise self.fault
        return self.steps

    def _end(self) -> None:
        """What is under way is cancelled, and comes to its end, so that no task outlives its loop.  The run is over
        before: nothing of this is a step, or a fault."""
        self.is_over = True
        self.loop.stop()  # one turn: a stop that this run asked for may be waiting in the loop still
        self.loop.run_forever()
        while pending := asyncio.all_tasks(self.loop):
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))

    async def _run(self, steps: int) -> None:
        for machine in self.machines.values():
            await self.start(machine)
        for mn_address, number in self.sessions.items():
            machine = self.rng.choice(list(self.machines.values()))
            assert machine.node is not None
            await machine.node.sessions.load(mn_address, [context_of(number, 0), *self.padding])
        while self.steps < steps:
            await asyncio.sleep(self.rng.expovariate(20))
            self._something()
        await self._settle()

    def _something(self) -> None:
        rng = self.rng
        chance = rng.random()
        machine = rng.choice(list(self.machines.values()))
        mn_address = rng.choice(list(self.sessions))
        if chance < 0.5:
            self._traffic()
        elif chance < 0.75:
            self._move(machine, mn_address)
        elif chance < 0.85:
            self.mobile.goes(machine, mn_address)
        elif chance < 0.88:
            self.spawn(self._request(machine, mn_address))
        elif self.hostile and chance < 0.93:
            if machine.node is not None:
                self.crash(machine, power=rng.random() < 0.5)
                self.loop.call_later(rng.choice((0.01, 0.5, 5.0, 30.0)), self.restart, machine)
        elif self.hostile and chance < 0.95:
            self._cut()

    def _traffic(self) -> None:
        """Whoever has a session sends with it; a node whose program is up keeps ahead of what is sent."""
        for machine in self.machines.values():
            for mn_address, installed in list(machine.kernel.sessions.items()):
                count = machine.kernel.send(mn_address, burst(self.rng))
                if count:
                    what = f"{machine.name} sends {count} packets of {mn_address}, to {installed.last}"
                    self.step(what, mn_address)
                if machine.node is not None and installed.ceiling - installed.last < RESERVE // 2:
                    contexts = (context_of(installed.number, installed.last), *self.padding)
                    self.spawn(machine.node.sessions.raise_ceiling(mn_address, contexts))

    def _move(self, machine: Machine, mn_address: IPAddress) -> None:
        others = [m.name for m in self.machines.values() if m is not machine]
        if machine.node is not None:
            self.spawn(self._moved(machine.node, mn_address, self.rng.choice(others)))

    async def _moved(self, node: Node, mn_address: IPAddress, to: str) -> None:
        record = self.durable[node.config.name].get(mn_address)
        if record is None or record.state is not SessionState.OWNED:
            return
        self.step(f"the operator moves {mn_address} from {node.config.name} to {to}")
        try:
            ahead = self.rng.random() < 0.2
            if ahead:
                self.keys[mn_address] = self.rng.getrandbits(128).to_bytes(16, "big")
            await node.move(mn_address, to, ahead=ahead)
            self.moves["moved"] += 1
        except CxtpError as error:
            self.moves[type(error).__name__] += 1

    async def _request(self, machine: Machine, mn_address: IPAddress) -> None:
        if machine.node is not None:
            others = [m.name for m in self.machines.values() if m is not machine]
            self.step(f"{machine.name} asks for {mn_address}")
            await machine.node.request(mn_address, self.rng.choice(others))

    def _after_an_answer(self, sender: IPAddress, message: str) -> None:
        """Whoever has just given its word may die of it: nothing but its disk knows what it said."""
        if self.hostile and message.startswith("CTDR") and self.rng.random() < self.deadly_answers:
            machine = next(m for m in self.machines.values() if m.router.address == sender)
            self.loop.call_soon(self._die_and_come_back, machine)

    def _die_and_come_back(self, machine: Machine) -> None:
        if machine.node is not None and self.hostile:
            self.crash(machine, power=self.rng.random() < 0.5)
            self.loop.call_later(self.rng.choice((0.01, 0.2)), self.restart, machine)

    def _cut(self) -> None:
        addresses = [m.router.address for m in self.machines.values()]
        side = set(self.rng.sample(addresses, self.rng.randint(1, len(addresses) - 1)))
        self.network.cut = frozenset(
            frozenset((one, other)) for one in side for other in addresses if other not in side
        )
        self.step(f"the network is cut around {', '.join(sorted(map(str, side)))}")
        self.loop.call_later(self.rng.choice((0.3, 3.0, 25.0)), self._join)

    def _join(self) -> None:
        if self.network.cut:
            self.network.cut = frozenset()
            self.step("the network is joined")

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """No more faults: whatever is in doubt must come to an end, each session in use at one node."""
        self.hostile = False
        self.network.quality = Quality(0.0, 0.0, (0.001, 0.01), 0.0, 0.0)
        self._join()
        for _ in range(40):
            for machine in self.machines.values():
                self.restart(machine)
            await asyncio.sleep(5.0)
            if self._is_settled():
                break
            self._forget_overtaken()
        else:
            raise Violation(f"no end: {self._unsettled()}")
        for mn_address in self.sessions:
            self._check_session(mn_address)

    def _unsettled(self) -> list[str]:
        """What is not over yet."""
        found = []
        for machine in self.machines.values():
            node = machine.node
            if node is None:
                found.append(f"{machine.name} is down")
                continue
            for role in (node.router.previous, node.router.new):
                found += [f"{machine.name}: transfer of {address}" for address in role._transfers]
            found += [f"{machine.name}: move of {address}" for address in node._moves]
            for record in self.durable[machine.name].values():
                if record.state in (SessionState.FROZEN, SessionState.STANDBY):
                    found.append(f"{machine.name}: {record.mn_address} {record.state.value}")
        for mn_address in self.sessions:
            if sum(mn_address in m.kernel.sessions for m in self.machines.values()) != 1:
                found.append(f"{mn_address} is in use nowhere")
        return found

    def _is_settled(self) -> bool:
        return not self._unsettled()

    def _is_elsewhere(self, record: SessionRecord, other: SessionRecord) -> bool:
        return other.state in (SessionState.OWNED, SessionState.FROZEN) and other.generation > record.generation

    def _forget_overtaken(self) -> None:
        """The operator's part (MoveOvertaken): another node is seen to have it."""
        for machine in self.machines.values():
            for record in self.durable[machine.name].values():
                elsewhere = any(
                    self._is_elsewhere(record, other)
                    for name in self.machines
                    if name != machine.name
                    for other in [self.durable[name].get(record.mn_address)]
                    if other is not None
                )
                if machine.node is not None and record.state is SessionState.FROZEN and elsewhere:
                    self.counters["forgotten"] += 1
                    self.spawn(machine.node.sessions.forget(record.mn_address, frozen=True))


class Mobile:
    """All mobile nodes: each proves itself with a key that is new for every move (RFC 4067, 6.3)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.address = ip_address("203.0.113.1")
        self.role = MobileNode(world.rng, world.protocol)
        self.endpoint = SimulatedEndpoint(world.network, self.address, {}, self._receive, reliable=False)
        world.network.endpoints[self.address] = self.endpoint

    def _receive(self, octets: bytes, peer: Peer) -> None:
        self.role.receive(parse(octets), peer, self.world.loop.now)
        self._pump()

    def goes(self, machine: Machine, mn_address: IPAddress) -> None:
        """It leaves whoever has its session for this machine (flows 5.1 to 5.3), or somebody forges that."""
        world, rng = self.world, self.world.rng
        owners = [n for n, d in world.durable.items() if mn_address in d and d[mn_address].state in HOLDING]
        previous = world.machines[rng.choice(owners or list(world.machines))].router
        if previous is machine.router:
            return
        key = world.keys[mn_address] = rng.getrandbits(128).to_bytes(16, "big")
        if rng.random() < 0.1:
            key = b"a guess"
        world.step(f"{mn_address} goes from {previous.name} to {machine.name}")
        previous_router = Peer(previous.address, 5091)
        new_router = Peer(machine.router.address, 5091)
        try:
            self.role.activate(
                mn_address, previous_router, new_router, world.loop.now, key, predictive=rng.random() < 0.5
            )
        except CxtpError:  # it is on its way already
            return
        self._pump()

    def _pump(self) -> None:
        now = self.world.loop.now
        while self.role.next_event() is not None:
            pass
        for outgoing in self.role.to_send(now):
            self.endpoint.send(build(outgoing.message), outgoing.peer)
        deadline = self.role.deadline()
        if deadline is not None:
            self.world.loop.call_at(max(now, deadline), self._on_timer)

    def _on_timer(self) -> None:
        self.role.handle_timer(self.world.loop.now)
        self._pump()
