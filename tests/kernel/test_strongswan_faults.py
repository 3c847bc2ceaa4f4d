"""What goes wrong between daemons, nodes and gateways: the session is where it was, or where it should be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from contexts.base import decode
from contexts.ipsec import IpsecSaContext
from cxtp.adapters.strongswan_ha import HaMessage, HaMessageType
from cxtp.adapters.strongswan_vici import IkeSa
from cxtp.adapters.xfrm import PolicyAction, SecurityAssociation, XfrmClient
from cxtp.control import CommandFailed
from kernel.strongswan import Bed, bed
from kernel.strongswan_kinds import KINDS, SHARED, Kind
from kernel.strongswan_nodes import Nodes, nodes, until
from kernel.test_strongswan_gateway import agree, child_spis, lives, spis

OPTIONS = "delete_rekeyed_delay = 1\n    retransmit_timeout = 1"


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    with bed(gateways=("a", "b"), options=OPTIONS) as started:
        yield started


@asynccontextmanager
async def emptied(made: Bed) -> AsyncIterator[None]:
    """In the end no daemon has any session."""
    try:
        yield
    finally:
        for daemon in (made.client, *made.gateways.values()):
            for name, _ in daemon.ike_sas():
                with suppress(Exception):  # it went by itself
                    await asyncio.to_thread(daemon.terminate, ike=name, force=True)


@asynccontextmanager
async def connected(
    made: Bed, directory: Path, kind: Kind, *, only: tuple[str, ...] | None = None
) -> AsyncIterator[Nodes]:
    """The session is at a, and known there; in the end it is nowhere."""
    async with emptied(made), nodes(made, directory, only=only) as hosts:
        for number in range(kind.children):
            await asyncio.to_thread(made.client.initiate, kind.child(number))
        if "a" in hosts.services:
            await hosts.learned("a", kind)
        yield hosts


async def stays(hosts: Nodes, kind: Kind, reason: str) -> None:
    """The move to b is refused for that reason; the session is in use at a as before, and nothing of it at b."""
    made = hosts.bed
    before = spis(made.client, kind), child_spis(made.client, kind)
    with pytest.raises(CommandFailed, match=reason):
        await hosts.ask("a", "move", mn_address=str(kind.client), to="b")
    await agree(made.client, made.gateways["a"], kind, kind.children)
    assert (spis(made.client, kind), child_spis(made.client, kind)) == before
    assert kind.name not in {name for name, _ in made.gateways["b"].ike_sas()}
    assert not await hosts.rows("b", kind)
    made.echo(kind, "a", count=3)


def test_a_target_without_the_connection(made: Bed, tmp_path: Path) -> None:
    kind, target = KINDS["psk-gcm"], made.gateways["b"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            with target.control() as session:
                session.unload_conn({"name": kind.name})
            await stays(hosts, kind, rf"b refused .*UNKNOWN_CONNECTION.*{kind.name}")
            # One with another child is none either.
            target.load({kind.name: {**target.connections[kind.name], "children": {"other": {}}}})
            await stays(hosts, kind, r"b refused .*UNKNOWN_CONNECTION")
            target.load({kind.name: target.connections[kind.name]})
            await hosts.move(kind, "a", "b")
            await lives(hosts, kind, "b")

    asyncio.run(main())


def test_a_target_with_other_proposals(made: Bed, tmp_path: Path) -> None:
    """The SAs go on as they are; a rekeying is refused by the target, as its configuration says, and ends nothing."""
    kind, target = KINDS["cbc"], made.gateways["b"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            connection = target.connections[kind.name]
            child = {**connection["children"][kind.child()], "esp_proposals": ["aes256gcm16"]}
            target.load({kind.name: {**connection, "children": {kind.child(): child}}})
            await hosts.move(kind, "a", "b")
            await agree(made.client, target, kind, 1)
            made.echo(kind, "b", count=3)
            refused = rf"{kind.name}\|\d+> received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built"
            made.client.rekey(child=kind.child())
            await asyncio.to_thread(made.client.wait_for, refused)
            await agree(made.client, target, kind, 1)
            made.echo(kind, "b", count=3)
            assert not await hosts.rows("a", kind)
            target.load({kind.name: connection})

    asyncio.run(main())


@pytest.mark.parametrize("outbound", [False, True])
def test_a_target_where_the_spi_is_taken(made: Bed, tmp_path: Path, outbound: bool) -> None:
    kind = KINDS["psk-gcm"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            record = hosts.services["a"].store.get(kind.client)
            assert record is not None
            (context,) = (c for c in map(decode, record.contexts) if isinstance(c, IpsecSaContext))
            with XfrmClient("a") as kernel:
                (there,) = (
                    sa
                    for sa in kernel.security_associations()
                    if sa.spi == (context.outbound_spi if outbound else context.inbound_spi)
                )
            assert there.aead is not None
            other = replace(there.aead, key=bytes(len(there.aead.key)))
            stranger: SecurityAssociation = replace(there, aead=other, order=())
            with XfrmClient("b") as kernel:
                kernel.add(stranger)
                try:
                    await stays(hosts, kind, r"b refused .*SPI_COLLISION")
                    assert kernel.security_association(stranger.identifier).aead == other  # nobody touched it
                finally:
                    kernel.delete(stranger.identifier)
            await hosts.move(kind, "a", "b")
            await lives(hosts, kind, "b")

    asyncio.run(main())


def test_ah_stays_where_it_is(made: Bed, tmp_path: Path) -> None:
    """No ha message names the protocol, and each CHILD_SA is taken for ESP: it is refused before anything ends."""
    kind, client = KINDS["psk-gcm"], made.client

    async def main() -> None:
        daemons = (client, *made.gateways.values())
        try:
            for daemon in daemons:
                child = {**daemon.connections[kind.name]["children"][kind.child()], "ah_proposals": ["sha256"]}
                del child["esp_proposals"]
                daemon.load({kind.name: {**daemon.connections[kind.name], "children": {kind.child(): child}}})
            async with connected(made, tmp_path, kind) as hosts:
                (row,) = await hosts.rows("a", kind)
                assert row["suite"].startswith("AH:")
                await stays(hosts, kind, "is AH: strongSwan's ha messages name no protocol")
        finally:
            for daemon in daemons:
                daemon.load({kind.name: daemon.connections[kind.name]})

    asyncio.run(main())


def test_nothing_leaves_the_target_before_its_counters_are_set(made: Bed, tmp_path: Path) -> None:
    """Its daemon's SAs are in the kernel, with numbers from 1, and the address is here already: the kernel blocks."""
    kind = KINDS["psk-gcm"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            made.echo(kind, "a", count=20)
            sink = hosts.services["b"].gateway.sinks[0]
            set_numbers, sent, packets = sink._set, [], []

            def slowly(pairs: object) -> None:
                with XfrmClient("b") as kernel:
                    guards = [policy for policy in kernel.policies() if policy.action == PolicyAction.BLOCK]
                    assert len(guards) >= 6  # out, in and forward, each in two halves of the ports
                    inside, outside = made.ends(kind)
                    with made.network.inside("b"):
                        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    with sender:
                        sender.bind((outside, 0))
                        for _ in range(5):
                            sent.append(1)
                            with suppress(OSError):  # EPERM: blocked
                                sender.sendto(b"too early", (inside, 9))
                    packets.extend(sa.usage.packets for sa in kernel.security_associations())
                set_numbers(pairs)

            sink._set = slowly
            await hosts.move(kind, "a", "b")
            assert len(sent) == 5
            assert packets
            assert set(packets) == {0}
            made.echo(kind, "b", count=3)
            (row,) = await hosts.rows("b", kind)
            assert row["sent"] >= 23

    asyncio.run(main())


@pytest.mark.parametrize("lost", ["everything", "CHILD_ADD", "IKE_UPDATE", "CHILD_DELETE"])
def test_ha_messages_that_are_lost(made: Bed, tmp_path: Path, lost: str) -> None:
    """What the daemon did not get through to its node is found out by comparing lists, and told anew."""
    kind = KINDS["two-children" if lost == "CHILD_DELETE" else "psk-gcm"]

    async def main() -> None:
        if lost == "everything":  # its node was not there
            async with connected(made, tmp_path, kind, only=("b",)) as hosts:
                await hosts.start("a")
                await hosts.learned("a", kind)
                assert (await hosts.counters("a"))["strongswan.resyncs"] == 1
                await hosts.move(kind, "a", "b")
                await lives(hosts, kind, "b")
            return
        async with emptied(made), nodes(made, tmp_path) as hosts:
            tracker = hosts.services["a"].gateway._daemon.link.tracker  # type: ignore[union-attr]
            apply, dropped = tracker.apply, []

            def lossy(message: HaMessage, time: float) -> None:
                if message.type is HaMessageType[lost] and not dropped:
                    dropped.append(message)
                else:
                    apply(message, time)

            tracker.apply = lossy  # type: ignore[method-assign]
            for number in range(kind.children):
                await asyncio.to_thread(made.client.initiate, kind.child(number))
            if lost == "CHILD_DELETE":
                await hosts.learned("a", kind)
                await asyncio.to_thread(made.client.terminate, child=kind.child(1))
            wanted = kind if lost != "CHILD_DELETE" else replace(kind, children=1)
            await hosts.learned("a", wanted)
            assert len(dropped) == 1

            async def is_noticed() -> bool:
                return (await hosts.counters("a")).get("sessions.messages_lost", 0) >= 1

            await until(is_noticed, "it is noticed")
            await agree(made.client, made.gateways["a"], wanted, 1)
            await hosts.move(kind, "a", "b")
            await lives(hosts, wanted, "b")
            await asyncio.to_thread(made.client.terminate, ike=kind.name)

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["its CHILD_DELETE is late", "a list without its IKE_SA"])
def test_a_child_sa_that_was_replaced_does_not_move(made: Bed, tmp_path: Path, fault: str) -> None:
    """The kernel told how it ended, and it is over: at the target it would be one that the client has no more.

    A daemon that is about to let it go may list no IKE_SA for a moment; nothing is at rest then."""
    kind = KINDS["psk-gcm"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            daemon = hosts.services["a"].gateway._daemon
            assert daemon is not None
            apply, ask, happened = daemon.link.tracker.apply, daemon.vici.ike_sas, []

            def late(message: HaMessage, time: float) -> None:
                if message.type is HaMessageType.CHILD_DELETE:
                    happened.append(message)
                else:
                    apply(message, time)

            async def lacking(unique_id: int | None = None) -> list[IkeSa]:
                found = await ask(unique_id)
                if unique_id is None or happened or all(c.state == "INSTALLED" for sa in found for c in sa.children):
                    return found
                happened.append(found)
                return []

            if fault == "its CHILD_DELETE is late":
                daemon.link.tracker.apply = late  # type: ignore[method-assign]
            else:
                daemon.vici.ike_sas = lacking  # type: ignore[method-assign]
            (old,) = child_spis(made.client, kind)
            made.client.rekey(child=kind.child())
            await until(lambda: child_spis(made.client, kind).isdisjoint({old}), "it is replaced")
            await hosts.move(kind, "a", "b")
            assert happened
            await agree(made.client, made.gateways["b"], kind, 1)
            assert old not in child_spis(made.client, kind)
            assert len(await hosts.rows("b", kind)) == 1
            await lives(hosts, kind, "b")

    asyncio.run(main())


def test_a_daemon_that_is_started_anew(made: Bed, tmp_path: Path) -> None:
    """Killed, it knows nothing more; its node brings the session back, its numbers from the kernel, and the client
    does not notice.  Also where its node is what died, or both."""
    kind, daemon = KINDS["psk-gcm"], made.gateways["a"]

    async def main() -> None:
        async with connected(made, tmp_path, kind) as hosts:
            before = spis(made.client, kind), child_spis(made.client, kind)
            for round_, node_too in enumerate((False, True), 1):
                made.echo(kind, "a", count=10 * round_)
                if node_too:
                    await hosts.bury("a")
                daemon.kill()
                await asyncio.to_thread(daemon.start)
                if node_too:
                    await hosts.start("a")
                await until(lambda: kind.name in {name for name, _ in daemon.ike_sas()}, "it is brought back")
                await agree(made.client, daemon, kind, 1)
                await until(lambda: not blocked("a"), "its traffic passes")
                assert (spis(made.client, kind), child_spis(made.client, kind)) == before
                made.echo(kind, "a", count=3)
            await hosts.bury("a")
            await hosts.start("a")  # the daemon went on meanwhile
            await hosts.learned("a", kind)
            assert (await hosts.counters("a")).get("strongswan.resyncs", 0) == 0
            await hosts.move(kind, "a", "b")
            assert (spis(made.client, kind), child_spis(made.client, kind)) == before
            await lives(hosts, kind, "b")
            # On the standby's side nothing depends on the daemon: there, too, a session may come at once.
            made.gateways["a"].kill()
            await asyncio.to_thread(made.gateways["a"].start)
            await hosts.move(kind, "b", "a")
            await lives(hosts, kind, "a")
            assert hosts.replayed() == {}

    asyncio.run(main())


def test_a_peer_that_moves_by_itself(made: Bed, tmp_path: Path) -> None:
    """MOBIKE (RFC 4555): the daemon tells nobody, its list does; the session is known by the new address, and moves."""
    kind, client = KINDS["mobike"], made.client
    elsewhere = kind.client + 100

    def ip(*words: str) -> None:
        made.network.run("client", "ip", *words)

    def client_address() -> str:
        ((_, sa),) = client.ike_sas()
        return str(sa["local-host"])

    async def main() -> None:
        client.load({kind.name: {**client.connections[kind.name], "local_addrs": ["%any"]}})
        ip("route", "add", f"{SHARED[4]}/32", "dev", "eth0", "src", str(kind.client))
        try:
            async with connected(made, tmp_path, kind) as hosts:
                before = spis(client, kind), child_spis(client, kind)
                ip("addr", "add", f"{elsewhere}/32", "dev", "eth0")
                ip("route", "replace", f"{SHARED[4]}/32", "dev", "eth0", "src", str(elsewhere))
                ip("addr", "del", f"{kind.client}/32", "dev", "eth0")
                # Which of the gateway's addresses answers first is the client's choice (docs/strongswan.md, MOBIKE).
                await until(lambda: client_address() != str(kind.client), "the client is elsewhere")
                now = client_address()
                await until(lambda: hosts.rows_of("a", now), f"the session is known by {now}")
                assert not await hosts.rows("a", kind)
                assert (spis(client, kind), child_spis(client, kind)) == before
                assert (await hosts.counters("a"))["sessions.peers_moved"] == 1
                await hosts.ask("a", "move", mn_address=now, to="b")
                await lives(hosts, kind, "b", learned=False)
                assert await hosts.rows_of("b", now)
        finally:
            client.load({kind.name: client.connections[kind.name]})
            ip("route", "del", f"{SHARED[4]}/32")
            ip("addr", "add", f"{kind.client}/32", "dev", "eth0")
            ip("addr", "del", f"{elsewhere}/32", "dev", "eth0")

    asyncio.run(main())


def blocked(name: str) -> bool:
    with XfrmClient(name) as kernel:
        return any(policy.action == PolicyAction.BLOCK for policy in kernel.policies())


def test_all_kinds_move_at_once(made: Bed, tmp_path: Path) -> None:
    """More than ten clients, while each sends: all of them arrive, with their SAs, and live on."""

    async def main() -> None:
        async with emptied(made), nodes(made, tmp_path) as hosts:
            for kind in KINDS.values():
                for number in range(kind.children):
                    await asyncio.to_thread(made.client.initiate, kind.child(number))
            for kind in KINDS.values():
                await hosts.learned("a", kind)
            before = {kind: (spis(made.client, kind), child_spis(made.client, kind)) for kind in KINDS.values()}
            moves = (hosts.ask("a", "move", mn_address=str(kind.client), to="b") for kind in KINDS.values())
            await asyncio.gather(*moves)
            for version in (4, 6):
                await until(lambda version=version: hosts.has_address("b", version), "the address at b")
                await until(lambda version=version: not hosts.has_address("a", version), "no address at a")
            for kind in KINDS.values():
                await agree(made.client, made.gateways["b"], kind, kind.children)
                assert (spis(made.client, kind), child_spis(made.client, kind)) == before[kind]
                for child in range(kind.children):
                    made.echo(kind, "b", count=2, child=child)
            assert not made.gateways["a"].ike_sas()
            assert hosts.replayed() == {}
            activations = (await hosts.counters("b"))["strongswan.activations"]
            print(f"{len(KINDS)} sessions, {activations} activations")
            for name, _ in made.client.ike_sas():
                await asyncio.to_thread(made.client.terminate, ike=name)

    asyncio.run(main())
