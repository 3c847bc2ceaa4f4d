"""A strongSwan gateway is gone under load - killed, its link cut - and its standby goes on; many clients at once;
daemons and nodes that are started anew."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from kernel.gateways import numbers_on_the_wire
from kernel.strongswan import Bed, bed
from kernel.strongswan_kinds import KINDS, Kind
from kernel.strongswan_nodes import Nodes, nodes, until
from kernel.test_strongswan_gateway import agree, child_spis, lives, spis

RATE = 200  # packets per second each way
OPTIONS = "delete_rekeyed_delay = 1\n    retransmit_timeout = 1"


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    with bed(("psk-gcm", "virtual-ip", "cbc"), ("a", "b"), options=OPTIONS) as started:
        yield started


async def cut_off(hosts: Nodes) -> None:
    """A is gone: its cable is pulled, its daemon killed.  Its node goes on, and does not know."""
    hosts.bed.network.set_link("a", up=False)
    hosts.bed.gateways["a"].kill()


async def bring_back(hosts: Nodes, kind: Kind) -> None:
    with suppress(Exception):  # whatever went wrong before
        await asyncio.to_thread(hosts.bed.client.terminate, ike=kind.name, force=True)
    await hosts.stop("a")
    hosts.bed.network.run("a", "ip", "xfrm", "state", "flush")
    hosts.bed.network.run("a", "ip", "xfrm", "policy", "flush")
    hosts.bed.network.set_link("a", up=True)
    await asyncio.to_thread(hosts.bed.gateways["a"].start)


@asynccontextmanager
async def gateway_and_standby(made: Bed, directory: Path, kind: Kind) -> AsyncIterator[Nodes]:
    async with nodes(made, directory, only=("b",)) as hosts:
        await hosts.start("a", standby="b", replica_interval=0.2, replica_packets=20)
        try:
            yield hosts
        finally:
            await bring_back(hosts, kind)


async def replicated(hosts: Nodes, kind: Kind) -> None:
    """The replica at b has all that a has: Message IDs too."""

    async def same() -> bool:
        at_a, at_b = await hosts.ike_rows("a", kind), await hosts.ike_rows("b", kind, "replica")
        numbers = [{(row["next_out"], row["next_in"]) for row in rows} for rows in (at_a, at_b)]
        return bool(at_a) and numbers[0] == numbers[1]

    await until(same, "a replica at b with a's Message IDs")


@pytest.mark.parametrize("name", ["psk-gcm", "virtual-ip"])
def test_the_standby_goes_on_when_the_gateway_is_gone(made: Bed, tmp_path: Path, name: str) -> None:
    kind, client = KINDS[name], made.client

    async def main() -> None:
        async with gateway_and_standby(made, tmp_path, kind) as hosts:
            await asyncio.to_thread(client.initiate, kind.child())
            await hosts.learned("a", kind)
            await replicated(hosts, kind)
            began = client.log().count("generating IKE_SA_INIT request")
            ike_sa, child_sas, before = spis(client, kind), child_spis(client, kind), hosts.replayed()
            hosts.echo(kind)
            with made.network.capture("client", tmp_path / "wire.pcap") as capture:
                sender = hosts.send(kind, RATE)
                await asyncio.sleep(1)
                await cut_off(hosts)
                await asyncio.sleep(0.2)
                taken = await hosts.ask("b", "takeover", mn_address=str(kind.client))
                assert taken["taken"], taken
                assert not taken["dropped"]
                await hosts.followed("b")
                await asyncio.sleep(0.5)
                told = await hosts.told(sender)
            lost = [told.sent[number] for number in told.lost]
            assert lost
            assert max(told.back) > max(told.lost)  # it goes on
            assert hosts.replayed() == before
            for numbers in numbers_on_the_wire(capture).values():
                assert all(one < other for one, other in itertools.pairwise(numbers))
            # The client noticed nothing: the same SAs, and nothing negotiated.
            assert (spis(client, kind), child_spis(client, kind)) == (ike_sa, child_sas)
            assert client.log().count("generating IKE_SA_INIT request") == began
            await lives(hosts, kind, "b")
            gap = max(lost) - min(lost)
            print(f"{name}: {len(lost)} of {len(told.sent)} lost in {gap:.2f} s")
            await asyncio.to_thread(client.terminate, ike=name)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ahead_out", "ahead_in"),
    [(0, 1), (1, 0), (-2, 0), (0, -2)],
    ids=["a request was announced and not answered", "a request did not reach the client", "two requests are not on "
         "record", "two of the client's are not on record"],
)  # fmt: skip
def test_message_ids_that_are_not_what_the_client_has(
    made: Bed, tmp_path: Path, ahead_out: int, ahead_in: int
) -> None:
    """The record is off by what a gateway can have done in its last moment; the client's next requests, and the
    gateway's, are answered nevertheless."""
    kind, client = KINDS["cbc"], made.client

    async def main() -> None:
        async with gateway_and_standby(made, tmp_path, kind) as hosts:
            await asyncio.to_thread(client.initiate, kind.child())
            await hosts.learned("a", kind)
            await lives(hosts, kind, "a")  # requests both ways, under the IKE_SA that the client began
            for daemon in (made.gateways["a"], client) * 3:
                old = child_spis(client, kind)
                await asyncio.to_thread(daemon.rekey, child=kind.child())
                await until(lambda old=old: child_spis(client, kind).isdisjoint(old), "rekeyed")
                await agree(client, made.gateways["a"], kind, 1)
            await hosts.learned("a", kind)
            await replicated(hosts, kind)
            began = client.log().count("generating IKE_SA_INIT request")
            await cut_off(hosts)
            await hosts.alter_message_ids("b", kind, ahead_out, ahead_in)
            taken = await hosts.ask("b", "takeover", mn_address=str(kind.client))
            assert taken["taken"], taken
            assert "agreed on Message IDs" in taken["ike_sas"][0]
            await lives(hosts, kind, "b")
            made.echo(kind, "b")
            assert client.log().count("generating IKE_SA_INIT request") == began
            await asyncio.to_thread(client.terminate, ike=kind.name)

    asyncio.run(main())
