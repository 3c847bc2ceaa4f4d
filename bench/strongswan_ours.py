"""The same sessions from one strongSwan to another over CXTP, confirmed and on disk at both ends."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from contexts.base import encode
from cxtp.config import ProtocolConfig, Timers
from cxtp.control import ControlClient
from cxtp.gateway import GatewayConfig, StrongswanConfig
from cxtp.service import Service, ServiceConfig
from cxtp.store.records import SessionState
from cxtp.strongswan_config import StrongswanSettings, strongswan_conf
from cxtp.transports.endpoint import Router

from .samples import clones
from .strongswan_lab import Lab, address, establish, ike_sas

AT_ONCE = 32
ALONE = 20
PATIENT = ProtocolConfig(Timers(max_transfer_time=120.0, max_handover_time=240.0, data_retry=10.0))
"""UDP's repetitions would be measured too: nothing is lost here."""


class Gap:
    """From the moment when a session is to leave one daemon to the one when the other uses it."""

    def __init__(self) -> None:
        self.left: dict[Any, float] = {}
        self.seconds: list[float] = []

    def watch(self, service: Service) -> None:
        """Of what leaves and what comes."""
        sink: Any = service.gateway.sinks[0]
        install, remove = sink.install, sink.remove

        async def installed(record: Any, ceiling: Any) -> None:
            await install(record, ceiling)
            if record.mn_address in self.left:
                self.seconds.append(time.perf_counter() - self.left.pop(record.mn_address))

        async def removed(record: Any) -> Any:
            self.left[record.mn_address] = time.perf_counter()
            return await remove(record)

        sink.install, sink.remove = installed, removed


class Inexact(logging.Handler):
    """Counts SAs whose last number did not come from the kernel: they went on at their ceiling."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One line of the sink's log."""
        self.count += "it goes on at its ceiling" in record.getMessage()


class Nodes:
    """Services a and b in this process, each beside its daemon, or with their stores alone.

    ``state``: where the stores are, if not in the lab's own directory, which is in memory.
    """

    def __init__(self, lab: Lab, *, daemons: bool = True, state: Path | None = None) -> None:
        self.lab = lab
        self.daemons = daemons
        self.directory = state or lab.directory
        self.routers = {name: Router(name, lab.network.ipv4(name)) for name in ("a", "b")}
        self.services: dict[str, Service] = {}
        self.gap = Gap()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Both."""
        for name, own in self.routers.items():
            others = tuple(router for other, router in self.routers.items() if other != name)
            state = self._state(name)
            config = ServiceConfig(
                name, (own.address, own.port), others, state, state / "control.sock", "udp", protocol=PATIENT,
                allow_cleartext_keys_on_the_network=True,
            )  # fmt: skip
            if self.daemons:
                strongswan = StrongswanConfig(self.lab.directory / f"{name}.vici")
                gateway = GatewayConfig(namespace=name, strongswan=strongswan)
                config = replace(config, kernel=True, gateway=gateway)
            with self.lab.network.inside(name):
                service = self.services[name] = Service(config)
                if self.daemons:
                    self.gap.watch(service)
                ready = asyncio.Event()
                task = asyncio.create_task(service.run(ready.set))
                self._tasks.append(task)
                waiting = asyncio.create_task(ready.wait())
                await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
            if not ready.is_set():
                await task

    async def stop(self) -> None:
        """Both; the daemons go on."""
        for name in self.services:
            async with ControlClient(self._state(name) / "control.sock") as client:
                await client.ask("stop")
        await asyncio.gather(*self._tasks)

    async def hold(self, name: str, count: int) -> None:
        """Wait until the node has so many sessions, each with its CHILD_SA."""
        records = self.services[name].node.sessions.store.records
        while sum(r.state is SessionState.OWNED and len(r.contexts) == 2 for r in records()) < count:
            await asyncio.sleep(0.2)

    async def move(self, source: str, target: str, addresses: Iterable[str], at_once: int) -> float:
        """Seconds that all of them took."""
        waiting, began = list(addresses), time.perf_counter()

        async def work() -> None:
            async with ControlClient(self._state(source) / "control.sock") as client:
                while waiting:
                    await client.ask("move", mn_address=waiting.pop(), to=target)

        await asyncio.gather(*(work() for _ in range(at_once)))
        return time.perf_counter() - began

    def _state(self, name: str) -> Path:
        return self.directory / f"state-{name}"


def ours(lab: Lab) -> dict[str, Any]:
    """A has all sessions, and its node; they go to B, then some back one by one."""
    return asyncio.run(_ours(lab))


async def _ours(lab: Lab) -> dict[str, Any]:
    for name in ("a", "b"):
        lab.daemon(name, strongswan_conf(StrongswanSettings(vici=lab.directory / f"{name}.vici")))
    client, nodes, everyone = lab.daemon("client"), Nodes(lab), list(range(lab.count))
    await nodes.start()
    await asyncio.to_thread(establish, client, everyone, 4)
    established = time.perf_counter()
    await nodes.hold("a", lab.count)
    learned = time.perf_counter() - established
    before, inexact = lab.child_sas("a"), Inexact()
    logging.getLogger("cxtp.strongswan_sink").addHandler(inexact)
    seconds = await nodes.move("a", "b", map(address, everyone), AT_ONCE)
    lab.give_address("b", "a")
    found = {
        "at_once": AT_ONCE,
        "seconds": seconds,
        "learned": learned,
        "answers": await asyncio.to_thread(lab.answers, "b"),
        "ike_sas": ike_sas(lab.running("b")).get("ESTABLISHED", 0),
        "exact": lab.count - inexact.count,
        "child_sas": len(before & lab.child_sas("b")),
    }
    nodes.gap.seconds.clear()
    await nodes.move("b", "a", map(address, everyone[:ALONE]), 1)
    await nodes.stop()
    lab.end("client", "a", "b")
    lab.give_address("a", "b")
    return {**found, "gaps": nodes.gap.seconds}


def contexts_alone(lab: Lab) -> dict[str, Any]:
    """What moving costs without daemon and kernel: as many recorded sessions from one store to the other."""
    with tempfile.TemporaryDirectory() as state:
        return asyncio.run(_contexts_alone(lab, Path(state)))


async def _contexts_alone(lab: Lab, state: Path) -> dict[str, Any]:
    nodes, addresses = Nodes(lab, daemons=False, state=state), []
    await nodes.start()
    for session in clones(lab.count):
        await nodes.services["a"].node.sessions.load(session.mn_address, map(encode, session.contexts))
        addresses.append(str(session.mn_address))
    seconds = await nodes.move("a", "b", addresses, AT_ONCE)
    had = nodes.services["b"].node.sessions.store.records
    owned = sum(record.state is SessionState.OWNED for record in had())
    await nodes.stop()
    return {"seconds": seconds, "owned": owned}
