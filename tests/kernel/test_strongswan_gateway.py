"""``cxtp gateway strongswan``: unmodified daemons hand their sessions to each other, and their client notices nothing.

client - gateways a, b, c, each a charon with kernel ESP and a node beside it; each kind of session goes from a to b,
lives there as sessions do, goes on to c, and home to a.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.gateways import numbers_on_the_wire
from kernel.strongswan import Bed, Charon, bed
from kernel.strongswan_kinds import KINDS, Kind
from kernel.strongswan_nodes import Nodes, children, nodes, until

RATE = 200  # packets per second each way


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    with bed(options="delete_rekeyed_delay = 1") as started:
        yield started


def spis(daemon: Charon, kind: Kind) -> set[tuple[str, str]]:
    """Of its IKE_SAs; a while after a rekeying the old one is there too."""
    return {(sa["initiator-spi"], sa["responder-spi"]) for name, sa in daemon.ike_sas() if name == kind.name}


def child_spis(daemon: Charon, kind: Kind) -> set[tuple[str, str]]:
    return {(child["spi-in"], child["spi-out"]) for child in children(daemon.ike_sas(), kind)}


async def agree(client: Charon, gateway: Charon, kind: Kind, count: int) -> None:
    """Both daemons have the same IKE_SA, and the same CHILD_SAs, each other's other way round."""

    def same() -> bool:
        ours = {(one, other) for other, one in child_spis(gateway, kind)}
        ike_sas = [[sa for name, sa in daemon.ike_sas() if name == kind.name] for daemon in (client, gateway)]
        return (
            [len(found) for found in ike_sas] == [1, 1]
            and spis(client, kind) == spis(gateway, kind)
            and all(found[0]["state"] == "ESTABLISHED" for found in ike_sas)
            and len(ours) == count
            and ours == child_spis(client, kind)
        )

    await until(same, f"{kind.name} the same at both ends: {client.ike_sas()} {gateway.ike_sas()}")


async def lives(hosts: Nodes, kind: Kind, name: str, *, learned: bool = True) -> None:
    """What happens to a session in its life, from either side, at the gateway that has it."""
    client, gateway = hosts.bed.client, hosts.bed.gateways[name]
    for daemon in (client, gateway):
        before = child_spis(gateway, kind)
        daemon.rekey(child=kind.child())
        await until(lambda before=before: len(child_spis(gateway, kind) - before) == 1, "the CHILD_SA is rekeyed")
        await agree(client, gateway, kind, kind.children)
        old = spis(client, kind)
        daemon.rekey(ike=kind.name)
        await until(lambda old=old: spis(client, kind).isdisjoint(old), "the IKE_SA is rekeyed")
        await agree(client, gateway, kind, kind.children)
        hosts.bed.echo(kind, name, count=2)
    if learned:
        await hosts.learned(name, kind)


def complaints(daemon: Charon, kind: Kind) -> list[str]:
    """Lines of its log that say that something went wrong with such a session."""
    words = (
        "failed", "unable", "invalid", "retransmit", "giving up", "error", "expected", "no such", "mismatch",
        "not found", "rejected", "delete for unknown", "ignor",
    )  # fmt: skip
    lines = (line for line in daemon.log().splitlines() if f"<{kind.name}|" in line)
    return [line for line in lines if any(word in line.lower() for word in words)]


@pytest.mark.parametrize("name", KINDS)
def test_a_session_goes_from_gateway_to_gateway(made: Bed, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]

    async def main() -> None:
        async with nodes(made, tmp_path) as hosts:
            client = made.client
            for number in range(kind.children):
                await asyncio.to_thread(client.initiate, kind.child(number))
            await hosts.learned("a", kind)
            before = hosts.replayed()
            complained = {daemon.name: complaints(daemon, kind) for daemon in (client, *made.gateways.values())}
            ike_sa, child_sas = spis(client, kind), child_spis(client, kind)
            hosts.echo(kind)
            with made.network.capture("client", tmp_path / "wire.pcap") as capture:
                sender = hosts.send(kind, RATE)
                await asyncio.sleep(0.3)
                await hosts.move(kind, "a", "b")
                await asyncio.sleep(0.3)
                told = await hosts.told(sender)
                # The client has what it had, and its peer the same.
                assert (spis(client, kind), child_spis(client, kind)) == (ike_sa, child_sas)
                await agree(client, made.gateways["b"], kind, kind.children)
                assert not [sa for own, sa in made.gateways["a"].ike_sas() if own == name]
                (row, *_) = await hosts.rows("b", kind)
                assert {row["ike_sa"]} == {f"{initiator}_i {responder}_r" for initiator, responder in ike_sa}
                assert row["sent"] >= len(told.back)
                await lives(hosts, kind, "b")
                for source, target in (("b", "c"), ("c", "a")):
                    await hosts.move(kind, source, target)
                    await agree(client, made.gateways[target], kind, kind.children)
                    for child in range(kind.children):
                        made.echo(kind, target, count=3, child=child)
            (begin, end), *_ = hosts.moved
            assert not told.strays([(begin, end)]), told.story(hosts.moved)
            assert len(told.back) > RATE * 0.3
            assert hosts.replayed() == before
            for numbers in numbers_on_the_wire(capture).values():
                assert all(one < other for one, other in itertools.pairwise(numbers))
            # It ends as sessions do, from either side.
            enders: tuple[Charon, Charon] = (client, made.gateways["a"])
            await asyncio.to_thread(enders[kind.number % 2].terminate, ike=name)
            for daemon in enders:  # who is asked answers, and then lets go
                await until(lambda d=daemon: name not in {own for own, _ in d.ike_sas()}, f"{daemon.name} has none")
            await until(lambda: gone(hosts, kind), "it is off the records")
            for daemon in (client, *made.gateways.values()):
                assert complaints(daemon, kind) == complained[daemon.name]
            print({k: v for k, v in (await hosts.counters("b")).items() if k.startswith("strongswan")})
            print(f"{name}: {len(told.back)} answered, {len(told.lost)} lost; moved in {end - begin:.2f} s")

    asyncio.run(main())


async def gone(hosts: Nodes, kind: Kind) -> bool:
    rows: list[dict[str, Any]] = await hosts.rows("a", kind)
    return not rows
