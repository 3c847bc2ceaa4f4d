"""A planned move that is cut at every step: by a node whose program dies before any of its changes to kernel or disk.

However far it came, no more than one kernel can send; the program that died comes back, and the session is in use at
exactly one of the two, with every number on the wire used once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_helpers import until

from cxtp.adapters.xfrm import Direction, PolicyAction, XfrmClient
from cxtp.adapters.xfrm.values import SecurityPolicyId
from cxtp.kernel_sink import XfrmSink
from cxtp.node import Node
from cxtp.store.records import SessionState
from kernel.gateways import numbers_on_the_wire
from kernel.network import Network
from kernel.test_xfrm_sink import Echo, Gateways, gateways


class Died(Exception):
    """The program is no more; what it would have done next is not done."""


class Steps:
    """Counts the changes that a node makes, and lets it die before one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.fatal = 0
        self.dead: str | None = None
        self.said: list[str] = []

    def watch(self, name: str, node: Node) -> None:
        sink = node.sessions._sinks[0]
        assert isinstance(sink, XfrmSink)
        client, writer = sink.client, node.sessions.writer
        client.execute = self._wrap(name, "kernel", client.execute)  # type: ignore[method-assign]
        put = writer.put

        async def watched(record: Any) -> None:
            self._step(name, f"disk {record.state.value}")
            await put(record)

        writer.put = watched  # type: ignore[method-assign]

    def _wrap(self, name: str, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(todo: Any) -> Any:
            if todo:
                self._step(name, f"{what} {todo[0].what}")
            return call(todo)

        return watched

    def _step(self, name: str, what: str) -> None:
        if self.dead == name:
            raise Died
        self.count += 1
        self.said.append(f"{name}: {what}")
        if self.count == self.fatal:
            self.dead = name
            raise Died


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("peer", "a", "b")
    yield made
    made.close()


def able_to_send(made: Gateways) -> list[str]:
    """Gateways with the outbound SA, and a policy out that leads to it."""
    found = []
    for name in ("a", "b"):
        with XfrmClient(name) as client:
            has = any(sa.spi == 0x2002 and not sa.is_larval for sa in client.security_associations())
            opens = any(
                policy.direction == Direction.OUT and policy.action == PolicyAction.ALLOW and policy.templates
                for policy in client.policies()
            )
        if has and opens:
            found.append(name)
    return found


def policies_of(name: str) -> list[SecurityPolicyId]:
    with XfrmClient(name) as client:
        return [policy.identifier for policy in client.policies()]


async def bury(made: Gateways, name: str) -> None:
    """The program is gone at once: nothing is finished."""
    node = made.nodes.pop(name)
    node._closed = True
    for task in list(node._tasks):
        task.cancel()
    await node.close()
    node.sessions.store.close()


def test_a_move_cut_at_every_step(network: Network, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            echo = Echo(made)
            here, fatal, cut = "a", 1, []
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                while True:
                    echo.ask(here, 3)
                    other = "b" if here == "a" else "a"
                    steps = Steps()
                    steps.fatal = fatal
                    for name, node in made.nodes.items():
                        steps.watch(name, node)
                    move = asyncio.create_task(made.nodes[here].move(made.mn, other))
                    while not move.done() and steps.dead is None:
                        await asyncio.sleep(0.005)
                    await asyncio.sleep(0.05)
                    assert len(able_to_send(made)) <= 1, steps.said
                    if steps.dead is None:
                        await move
                        break
                    cut.append(steps.said[-1])
                    dead = steps.dead
                    await bury(made, dead)
                    move.cancel()
                    await asyncio.gather(move, return_exceptions=True)
                    assert len(able_to_send(made)) <= 1, steps.said
                    # The other one is watched no more, and a program that comes back is a new one.
                    survivor = next(iter(made.nodes))
                    await bury(made, survivor)
                    for name in ("a", "b"):
                        await made.start(name)

                    def states() -> set[SessionState]:
                        held = [node.sessions.get(made.mn) for node in made.nodes.values()]
                        return {record.state for record in held if record is not None}

                    try:
                        await until(lambda: SessionState.FROZEN not in states())
                        await until(lambda: len(able_to_send(made)) == 1)
                    except AssertionError as error:
                        raise AssertionError(f"after {steps.said}: {states()}, {able_to_send(made)}") from error
                    (owner,) = (
                        name
                        for name, node in made.nodes.items()
                        if (record := node.sessions.get(made.mn)) and record.state is SessionState.OWNED
                    )
                    assert able_to_send(made) == [owner], steps.said
                    left = "b" if owner == "a" else "a"
                    await until(lambda left=left: not policies_of(left))  # type: ignore[misc]
                    if owner != here:
                        made.give_address(owner, here)
                        here = owner
                    fatal += 1
            echo.close()
            print("\n".join(f"cut before {step}" for step in cut))
            assert len(cut) > 10  # what goes to a kernel in one call is one step
            assert {"a", "b"} == {step[0] for step in cut}
            numbers = numbers_on_the_wire(capture)[0x2002]
            assert len(numbers) == len(set(numbers))
            assert numbers == sorted(numbers)
            assert len(numbers) >= 3 * len(cut)

    asyncio.run(main())
