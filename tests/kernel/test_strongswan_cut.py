"""A move between two strongSwans that is cut at every step: a node's program dies before any of its changes to kernel,
disk or daemon.

However far it came, no more than one gateway can send; the program comes back to the daemon that went on, and the
session is in use at exactly one of the two, with every number on the wire used once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxtp.adapters.xfrm import Direction, PolicyAction, XfrmClient
from cxtp.service import Service
from kernel.gateways import numbers_on_the_wire
from kernel.strongswan import Bed, bed
from kernel.strongswan_kinds import KINDS, Kind
from kernel.strongswan_nodes import Nodes, nodes, until
from kernel.test_strongswan_gateway import agree, child_spis, spis


class Died(Exception):
    """The program is no more; what it would have done next is not done."""


class Steps:
    """Counts the changes that a node makes, and lets it die before one of them."""

    def __init__(self, fatal: int) -> None:
        self.count, self.fatal = 0, fatal
        self.dead: str | None = None
        self.said: list[str] = []

    def watch(self, name: str, service: Service) -> None:
        gateway, writer = service.gateway, service.node.sessions.writer
        client, daemon, put = gateway.sinks[0].client, gateway._daemon, writer.put
        assert daemon is not None
        execute, send = client.execute, daemon._send

        async def writes(record: Any) -> None:
            self._step(name, f"disk {record.state.value}")
            await put(record)

        def asks(todo: Any) -> Any:
            if todo:
                self._step(name, f"kernel {todo[0].what.split(' SA')[0].split(' policy')[0]}")
            return execute(todo)

        def tells(messages: Any) -> None:
            self._step(name, f"daemon {messages[0].type.name}")
            send(messages)

        writer.put = writes  # type: ignore[method-assign]
        client.execute = asks  # type: ignore[method-assign]
        daemon._send = tells  # type: ignore[method-assign]

    def _step(self, name: str, what: str) -> None:
        if self.dead == name:
            raise Died
        if self.dead is None:
            self.count += 1
            self.said.append(f"{name}: {what}")
            if self.count == self.fatal:
                self.dead = name
                raise Died


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    with bed(("psk-gcm",), ("a", "b")) as started:
        yield started


def able_to_send(made: Bed, kind: Kind) -> list[str]:
    """Gateways that have the outbound SA, and no policy before the daemon's that blocks it."""
    (child,) = child_spis(made.client, kind)
    found = []
    for name in ("a", "b"):
        with XfrmClient(name) as client:
            has = any(f"{sa.spi:08x}" == child[0] and not sa.is_larval for sa in client.security_associations())
            out = [policy for policy in client.policies() if policy.direction == Direction.OUT]
        closed = any(policy.action == PolicyAction.BLOCK for policy in out)
        if has and not closed and any(policy.templates for policy in out):
            found.append(name)
    return found


def test_a_move_cut_at_every_step(made: Bed, tmp_path: Path) -> None:
    kind = KINDS["psk-gcm"]

    async def main() -> None:
        async with nodes(made, tmp_path) as hosts:
            await asyncio.to_thread(made.client.initiate, kind.child())
            await hosts.learned("a", kind)
            before = spis(made.client, kind), child_spis(made.client, kind)
            here, cut = "a", list[str]()
            with made.network.capture("client", tmp_path / "wire.pcap") as capture:
                for fatal in itertools.count(1):
                    made.echo(kind, here, count=3)
                    other = "b" if here == "a" else "a"
                    steps = Steps(fatal)
                    for name, service in hosts.services.items():
                        steps.watch(name, service)
                    move = asyncio.create_task(hosts.ask(here, "move", mn_address=str(kind.client), to=other))
                    while not move.done() and steps.dead is None:
                        await asyncio.sleep(0.002)
                    await asyncio.sleep(0.05)
                    assert len(able_to_send(made, kind)) <= 1, steps.said
                    if steps.dead is None:
                        await move
                        break
                    cut.append(steps.said[fatal - 1])
                    here = await come_back(hosts, kind, steps, move)
            assert (spis(made.client, kind), child_spis(made.client, kind)) == before
            await agree(made.client, made.gateways[other], kind, 1)
            print("\n".join(f"cut before {step}" for step in cut))
            assert {"a", "b"} == {step[0] for step in cut}
            for what in ("kernel", "disk", "daemon"):
                assert sum(f": {what} " in step for step in cut) >= 3
            ((inbound, _),) = before[1]
            sent = numbers_on_the_wire(capture)[int(inbound, 16)]
            assert all(one < following for one, following in itertools.pairwise(sent))
            assert len(sent) >= 3 * len(cut)

    asyncio.run(main())


async def come_back(hosts: Nodes, kind: Kind, steps: Steps, move: asyncio.Task[Any]) -> str:
    """Both programs are started anew; gives the gateway that has the session then, and its address."""
    made = hosts.bed
    assert steps.dead is not None
    for name in sorted(hosts.services, key=lambda name: name != steps.dead):
        await hosts.bury(name)
    move.cancel()
    await asyncio.gather(move, return_exceptions=True)
    assert len(able_to_send(made, kind)) <= 1, steps.said
    for name in ("a", "b"):
        await hosts.start(name)

    async def owners() -> list[str]:
        frozen = [name for name in ("a", "b") if await hosts.rows(name, kind, "frozen")]
        return [] if frozen else [name for name in ("a", "b") if await hosts.rows(name, kind)]

    async def one_owner() -> bool:
        found = await owners()
        return len(found) == 1 and able_to_send(made, kind) == found

    try:
        await until(one_owner, f"one owner after {steps.said}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {await owners()}, {able_to_send(made, kind)}") from error
    (owner,) = await owners()
    other = "b" if owner == "a" else "a"
    await until(lambda: hosts.has_address(owner) and not hosts.has_address(other), f"the address at {owner} alone")
    made.network.run("client", "ip", "neigh", "flush", "dev", "eth0")
    return owner


