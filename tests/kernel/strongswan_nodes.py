"""``cxtp gateway strongswan`` beside the daemons of a :class:`kernel.strongswan.Bed`, as an operator runs it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contexts.base import decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.values import MessageIds
from cxtp.config import ProtocolConfig, Timers
from cxtp.control import ControlClient
from cxtp.gateway import GatewayConfig, StrongswanConfig
from cxtp.service import Service, ServiceConfig
from cxtp.transports.endpoint import Router

from .answers import Answers
from .strongswan import Bed
from .strongswan_kinds import SHARED, Kind

HOOK = Path(__file__).parents[2] / "examples" / "hooks" / "virtual_address.py"
TRAFFIC = Path(__file__).with_name("traffic.py")
# A slow kernel: four daemons and as many nodes share one processor.
PROTOCOL = ProtocolConfig(timers=Timers(max_transfer_time=10.0, max_handover_time=20.0))
REPLAYED = ("XfrmInStateSeqError", "XfrmInStateProtoError", "XfrmInStateInvalid", "XfrmInStateModeError")
"""Counted where a packet came again or too late, or its integrity check failed."""


@dataclass
class Nodes:
    """Services by name; ``moved``: when each move began and had ended, ``time.monotonic``."""

    bed: Bed
    directory: Path
    services: dict[str, Service] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    moved: list[tuple[float, float]] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def routers(self) -> dict[str, Router]:
        return {name: Router(name, self.bed.network.address(name, 4)) for name in self.bed.names}

    async def start(self, name: str, *, reserve: int = 20_000, **options: Any) -> None:
        own, state, hook = self.routers[name], self.directory / f"state-{name}", self._hook(name)
        others = tuple(router for router in self.routers.values() if router.name != name)
        daemon = StrongswanConfig(self.bed.gateways[name].vici)
        config = ServiceConfig(
            name, (own.address, own.port), others, state, state / "control.sock", "udp", protocol=PROTOCOL,
            allow_cleartext_keys_on_the_network=True, kernel=True, sequence_reserve=reserve,
            gateway=GatewayConfig(hook, hook, name, strongswan=daemon, **options),
        )  # fmt: skip
        with self.bed.network.inside(name):
            service = self.services[name] = Service(config)
            ready = asyncio.Event()
            self.tasks[name] = asyncio.create_task(service.run(ready.set))
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait([waiting, self.tasks[name]], return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), await self.tasks[name]

    async def stop(self, name: str) -> None:
        await self.ask(name, "stop")
        await self.tasks.pop(name)
        del self.services[name]

    async def bury(self, name: str) -> None:
        """The program is gone at once: what it had begun is not finished."""
        service, task = self.services.pop(name), self.tasks.pop(name)
        service.node._closed = True
        for under_way in list(service.node._tasks):
            under_way.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _hook(self, name: str) -> Path:
        path = self.directory / f"hook-{name}"
        path.write_text(
            f"#!/bin/sh\nexport CXTP_VIRTUAL_ADDRESSES={self.directory}/virtual-{name}\n"
            f'exec ip netns exec {name} {HOOK} "$@"\n'
        )
        path.chmod(0o755)
        return path

    async def ask(self, name: str, command: str, **values: object) -> dict[str, Any]:
        async with ControlClient(self.directory / f"state-{name}" / "control.sock") as client:
            return await client.ask(command, **values)

    async def rows(self, name: str, kind: Kind, state: str = "owned") -> list[dict[str, Any]]:
        """Its CHILD_SAs, of ``cxtp sessions``."""
        return await self.rows_of(name, str(kind.client), state)

    async def rows_of(self, name: str, peer: str, state: str = "owned") -> list[dict[str, Any]]:
        """Those with a peer at that address."""
        answer = await self.ask(name, "gateway-sessions")
        return [row for row in answer["sessions"] if row["peer"] == peer and row["state"] == state]

    async def ike_rows(self, name: str, kind: Kind, state: str = "owned") -> list[dict[str, Any]]:
        """Its IKE_SAs, of ``cxtp sessions``."""
        answer = await self.ask(name, "gateway-sessions")
        return [row for row in answer["ike_sas"] if row["peer"] == str(kind.client) and row["state"] == state]

    async def alter_message_ids(self, name: str, kind: Kind, out: int, expected: int) -> None:
        """Its replica of the session says so much more of what was sent, and what was received."""
        store = self.services[name].store
        record = store.get(kind.client)
        assert record is not None
        contexts = []
        for context in map(decode, record.contexts):
            if isinstance(context, IkeSaContext):
                ids = context.message_ids
                ids = MessageIds(ids.next_request_to_send + out, ids.next_request_expected + expected)
                context = replace(context, message_ids=ids)
            contexts.append(encode(context))
        store.put(replace(record, contexts=tuple(contexts)))

    async def counters(self, name: str) -> dict[str, int]:
        found = (await self.ask(name, "status"))["counters"]
        assert isinstance(found, dict)
        return found

    async def learned(self, name: str, kind: Kind) -> None:
        """The node has on record what its daemon has, all of it."""

        async def is_learned() -> bool:
            there = {child["spi-in"] for child in children(self.bed.gateways[name].ike_sas(), kind)}
            rows = await self.rows(name, kind)
            return len(there) == kind.children and {row["spi_in"] for row in rows} == there

        await until(is_learned, f"{kind.name} learned at {name}")

    async def move(self, kind: Kind, source: str, target: str) -> None:
        """And wait until the address has followed, and the client knows."""
        begin = time.monotonic()
        await self.ask(source, "move", mn_address=str(kind.client), to=target)
        await self.followed(target, kind.version)
        self.moved.append((begin, time.monotonic()))

    async def followed(self, name: str, version: int = 4) -> None:
        """Until the address is there, and the client, where it has sent before, sends there."""
        await until(lambda: self.has_address(name, version), f"the address at {name}")
        shown = self.bed.network.run(name, "ip", "-br", "link", "show", "dev", "eth0")

        def is_known() -> bool:
            told = self.bed.network.run("client", "ip", "neigh", "show", str(SHARED[version]), "dev", "eth0")
            return shown.split()[2] in told or "lladdr" not in told

        await until(is_known, f"the client knows that {SHARED[version]} is at {name}")

    def has_address(self, name: str, version: int = 4) -> bool:
        return f" {SHARED[version]}/" in self.bed.network.run(name, "ip", "addr", "show", "dev", "eth0")

    def put_address(self, name: str) -> None:
        """At that gateway, and at no other."""
        for gateway in self.bed.names:
            for address, width in ((SHARED[4], 32), (SHARED[4], 24), (SHARED[6], 128), (SHARED[6], 64)):
                where = f"{address}/{width}", "dev", "eth0"
                self.bed.network.run(gateway, "ip", "addr", "del", *where, check=False)
        for address, width in ((SHARED[4], "32"), (SHARED[6], "128 nodad")):  # as the hook has them
            where = f"{address}/{width} dev eth0".split()
            self.bed.network.run(name, "ip", "addr", "add", where[0], *where[-2:], *where[1:-2])
        self.bed.network.run("client", "ip", "neigh", "flush", "dev", "eth0")

    # --- traffic ----------------------------------------------------------------------------------------------------

    def echo(self, kind: Kind, child: int = 0) -> None:
        """Whoever has the session answers."""
        _, outside = self.bed.ends(kind, child)
        for name in self.bed.names:
            self._process(name, "echo", outside)

    def send(self, kind: Kind, rate: float, child: int = 0) -> subprocess.Popen[str]:
        inside, outside = self.bed.ends(kind, child)
        return self._process("client", "send", inside, outside, str(rate))

    def _process(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        made = self.bed.network.start(
            name, sys.executable, "-SE", str(TRAFFIC), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.processes.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        return made

    async def told(self, sender: subprocess.Popen[str]) -> Answers:
        text, _ = await asyncio.to_thread(sender.communicate)
        self.end_traffic()
        return Answers.read(text)

    def end_traffic(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes.clear()

    def replayed(self) -> dict[str, int]:
        """The kernels' counters of packets that came again, or could not be authenticated."""
        return {name: n for name, n in self.bed.errors().items() if name.split()[1] in REPLAYED}

    async def close(self) -> None:
        self.end_traffic()
        for name in list(self.tasks):
            if self.tasks[name].done():
                await self.tasks[name]
            else:
                await self.stop(name)


@asynccontextmanager
async def nodes(
    bed: Bed, directory: Path, *, only: tuple[str, ...] | None = None, **options: Any
) -> AsyncIterator[Nodes]:
    """Nodes beside all gateways, or ``only`` some; the address is at the first gateway."""
    made = Nodes(bed, directory)
    # Linux holds to what it heard of a neighbour for a second; no operator moves an address to and fro so fast.
    locktime = "/proc/sys/net/ipv4/neigh/eth0/locktime"
    bed.network.run("client", "sh", "-c", f"echo 0 > {locktime}")
    made.put_address(bed.names[0])
    try:
        for name in bed.names if only is None else only:
            await made.start(name, **options)
        yield made
    finally:
        await made.close()


async def until(holds: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """``holds`` may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


def children(ike_sas: list[tuple[str, dict[str, Any]]], kind: Kind) -> list[dict[str, Any]]:
    """Those that are installed, as vici lists them."""
    found = [child for name, sa in ike_sas if name == kind.name for child in sa["child-sas"].values()]
    return [child for child in found if child["state"] == "INSTALLED"]
