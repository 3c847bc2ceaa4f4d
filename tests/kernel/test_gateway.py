"""``cxtp gateway linux`` beside two kernels whose SAs iproute2 made: learned, moved under load, followed, kept.

The peer knows nothing of all this: one pair of SAs with the address that the gateways share.  That address moves by
the hook of examples/, which is run as an operator would have it run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cxtp.adapters.xfrm import Direction, Migration, XfrmClient
from cxtp.control import CommandFailed
from cxtp.kernel_agent import INTERVAL
from kernel.answers import Answers
from kernel.gateways import IN, INNER, KINDS, OUT, RATE, SHARED, gateways, lines_for, numbers_on_the_wire, run_ip
from kernel.network import Network, without_net_admin

NEXT = (0x3003, 0x4004)
"""The SPIs after a rekeying."""
TEN = ("transport-gcm", "tunnel-gcm-ipv6")
"""Moved ten times; the others twice, for time's sake: ``script/soak gateways`` moves all of them ten times."""
PATIENCE = 60
"""Seconds in which what has to happen does: long, since it only ends a test that fails."""
SOAK = os.environ.get("CXTP_SOAK") == "1"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("peer", "a", "b")
    for name in ("a", "b", "peer"):
        for version in (4, 6):
            local, remote = INNER[version]
            run_ip(made, name, f"addr add {remote if name == 'peer' else local}/{32 if version == 4 else 128} dev lo")
    yield made
    made.close()


@pytest.mark.parametrize("name", KINDS)
def test_moves_under_load(network: Network, tmp_path: Path, name: str) -> None:
    """1,000 packets per second each way, moved from A to B and back."""
    kind = KINDS[name]
    times = 5 if SOAK or name in TEN else 1

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            for gateway in ("a", "b"):
                await made.start(gateway)
            (row,) = await made.rows("a")
            assert (row["peer"], row["owner"], row["ike_sa"]) == (str(made.peer), "a", "absent")
            assert (row["spi_in"], row["spi_out"]) == (f"{IN:08x}", f"{OUT:08x}")
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, str(RATE))
                await asyncio.sleep(0.3)
                for source, target in (("a", "b"), ("b", "a")) * times:
                    await made.move(source, target)
                    await asyncio.sleep(0.2)
                text, _ = await asyncio.to_thread(sender.communicate)
            told = Answers.read(text)
            assert not told.strays(made.moved), told.story(made.moved)
            assert len(told.back) > RATE * 0.1 * len(made.moved)  # between the moves, too
            assert len(told.sent) / told.duration > 0.9 * RATE
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            wire = numbers_on_the_wire(capture)
            # The peer's kernel asks by IPv6 whether its neighbour is still there, under the same SA.
            others = max(0, len(wire[IN]) - len(told.sent) + told.refused)
            # What comes to a gateway whose session has just left finds no SA there: those are lost, and no others.
            nowhere = sum(errors.pop(f"{gateway} XfrmInNoStates", 0) for gateway in ("a", "b"))
            assert nowhere <= len(told.lost) + others
            assert errors == {}
            for spi in (IN, OUT):
                numbers = wire[spi]
                assert len(numbers) >= len(told.back)
                assert all(one < other for one, other in itertools.pairwise(numbers))
            sent, lost = len(told.sent), len(told.lost)
            print(f"{name}: {sent} sent, {lost} lost in {len(made.moved)} moves, {told.duration:.1f} s")

    asyncio.run(main())


def test_what_an_ike_daemon_does_is_followed(
    network: Network, tmp_path: Path
) -> None:
    """Rekeyed, deleted, made anew; an SPI that is only kept; an SA without policy; ceilings in the kernel."""
    kind = KINDS["tunnel-gcm-ipv6"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("a")
            peer, shared = made.peer, SHARED[6]
            ids = f"src {shared} dst {peer} proto esp spi {OUT:#x}"
            assert "hard 20000(packets)" in network.run("a", *f"ip -s xfrm state get {ids}".split())
            lines = lines_for(kind, network, at_peer=False, spis=NEXT)
            states = [line for line in lines if "state" in line]
            run_ip(network, "a", *states)

            async def spis() -> set[object]:
                return {row["spi_in"] for row in await made.rows("a") if row["state"] == "owned"}

            async def become(wanted: set[object]) -> None:
                end = time.monotonic() + PATIENCE
                while await spis() != wanted:
                    assert time.monotonic() < end, await made.rows("a")
                    await asyncio.sleep(0.05)

            await become({f"{IN:08x}", "00003003"})
            run_ip(
                network, "a",
                f"xfrm state delete {ids}", f"xfrm state delete src {peer} dst {shared} proto esp spi {IN:#x}",
            )  # fmt: skip
            await become({"00003003"})
            new = f"src {shared} dst {peer} proto esp spi 0x4004"
            assert re.search(r"hard 20000\(packets\)", network.run("a", *f"ip -s xfrm state get {new}".split()))
            assert "dir out action allow" in re.sub(r"\s+", " ", network.run("a", "ip", "-s", "xfrm", "policy"))
            run_ip(network, "a", "xfrm state flush")
            await become(set())
            assert "dir out" in network.run("a", "ip", "xfrm", "policy")  # the daemon's trap is the daemon's
            run_ip(network, "a", *states)
            await become({"00003003"})
            # The peer comes from another address: its SAs and templates are other ones, its SPIs the same.
            run_ip(network, "a", "xfrm state flush", "xfrm policy flush")
            other = "fd00:9::77"
            run_ip(
                network, "a",
                *(
                    re.sub(rf"{peer}\b", other, line)
                    for line in lines_for(kind, network, at_peer=False, spis=NEXT)
                ),
            )  # fmt: skip
            end = time.monotonic() + PATIENCE
            while {row["peer"] for row in await made.rows("a") if row["state"] == "owned"} != {other}:
                assert time.monotonic() < end, await made.rows("a")
                await asyncio.sleep(0.05)
            # And what expires is gone.
            run_ip(network, "a", "xfrm state flush", "xfrm policy flush")
            await become(set())
            counters = made.services["a"].node.sessions.counters
            learned = counters["sessions_learned"]
            mortal = lines_for(kind, network, at_peer=False, spis=NEXT)
            run_ip(network, "a", *(f"{line} limit time-hard 4" if "state" in line else line for line in mortal))
            end = time.monotonic() + PATIENCE  # that it was there may be over before it is asked for
            while counters["sessions_learned"] == learned:
                assert time.monotonic() < end, await made.rows("a")
                await asyncio.sleep(0.05)
            await become(set())
            # The kernel counts whole seconds, for each SA from its own making: the second half may outlive the first.
            end = time.monotonic() + PATIENCE
            while left := network.run("a", "ip", "xfrm", "state"):
                assert time.monotonic() < end, left
                await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_peer_whose_address_changes_is_followed(network: Network, tmp_path: Path) -> None:
    """XFRM_MSG_MIGRATE at the active gateway, as MOBIKE does it (RFC 4555): the SAs go on with their numbers under
    another name; the standby forgets the old one before it, so that nobody could go on under both."""
    kind = KINDS["tunnel-gcm-ipv6"]
    other = ip_address("fd00:9::78")

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("b")
            await made.start("a", standby="b", replica_interval=0.2)
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)

            async def exchange() -> None:
                sender = made.process("peer", "send", remote, local, "100")
                await asyncio.sleep(0.3)
                text, _ = await asyncio.to_thread(sender.communicate)
                told = Answers.read(text)
                assert len(told.back) == len(told.sent) > 10

            async def peers(name: str, state: str) -> set[object]:
                return {row["peer"] for row in await made.rows(name) if row["state"] == state}

            async def become(name: str, state: str, peer: object) -> None:
                end = time.monotonic() + PATIENCE
                while await peers(name, state) != {str(peer)}:
                    assert time.monotonic() < end, await made.rows(name)
                    await asyncio.sleep(0.05)

            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                await exchange()
                await become("b", "replica", made.peer)
                began = time.monotonic()
                with XfrmClient("a") as client:
                    for policy in client.policies():
                        ends = [(made.peer, other), (SHARED[6], SHARED[6])]
                        if policy.direction == Direction.OUT:
                            ends.reverse()
                        (old_source, source), (old_destination, destination) = ends
                        migration = Migration(old_source, old_destination, source, destination, request_id=7)
                        client.migrate(policy.identifier, [migration])
                await become("a", "owned", other)
                assert time.monotonic() - began < INTERVAL * 0.8  # it was told, and did not have to look
                await become("b", "replica", other)
                run_ip(network, "peer", "xfrm state flush", "xfrm policy flush", f"addr add {other}/64 dev eth0 nodad")
                for line in lines_for(kind, network, at_peer=True):
                    counter = " replay-oseq 1000" if f"spi {IN:#x}" in line else ""
                    run_ip(network, "peer", re.sub(rf"{made.peer}\b", str(other), line) + counter)
                run_ip(network, "a", f"route replace {remote} via {other} dev eth0 src {local}")
                await exchange()
                await made.ask("a", "move", mn_address=str(other), to="b")
                await made.until(lambda: made.has_address("b"))
                run_ip(network, "b", f"route replace {remote} via {other} dev eth0 src {local}")
                await exchange()
            run_ip(network, "peer", f"addr del {other}/64 dev eth0")
            numbers = numbers_on_the_wire(capture)[OUT]
            assert len(numbers) > 30
            assert all(one < other for one, other in itertools.pairwise(numbers))

    asyncio.run(main())


def test_what_a_rekeyed_sa_may_still_get_is_taken_after_a_move(network: Network, tmp_path: Path) -> None:
    """The gateway has deleted its old outbound SA (RFC 7296, 2.8) and keeps the inbound one a while; the peer has not
    yet switched, and goes on under the old one.  No policy leads to that any more, and it moves nevertheless."""
    kind = KINDS["tunnel-gcm-ipv6"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            for gateway in ("a", "b"):
                await made.start(gateway)
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)
            new = [line for line in lines_for(kind, network, at_peer=False, spis=NEXT) if "state" in line]
            ids = f"src {SHARED[6]} dst {made.peer} proto esp spi"
            run_ip(network, "peer", *(line for line in new if f"{ids} {NEXT[1]:#x}" in line))  # it receives the new one
            run_ip(network, "a", *new, f"xfrm state delete {ids} {OUT:#x}")

            async def pairs(name: str) -> dict[object, object]:
                return {row["spi_in"]: row["sent"] for row in await made.rows(name) if row["state"] == "owned"}

            both = {f"{IN:08x}", f"{NEXT[0]:08x}"}
            end = time.monotonic() + PATIENCE
            while (await pairs("a")).keys() != both or (await pairs("a"))[f"{IN:08x}"] is not None:
                assert time.monotonic() < end, await made.rows("a")
                await asyncio.sleep(0.05)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, "200")
                await asyncio.sleep(0.3)
                await made.move("a", "b")
                moved = time.monotonic()
                await asyncio.sleep(0.5)
                text, _ = await asyncio.to_thread(sender.communicate)
            there = await pairs("b")
            assert there.keys() == both
            assert there[f"{IN:08x}"] is None
            assert there[f"{NEXT[0]:08x}"] is not None
            told = Answers.read(text)
            late = [number for number, when in enumerate(told.sent) if when > moved + 0.1]
            assert len(late) > 50
            assert set(late) <= set(told.back)
            wire = numbers_on_the_wire(capture)
            assert {spi for spi in wire if wire[spi]} == {IN, NEXT[1]}
            for numbers in wire.values():
                assert all(one < other for one, other in itertools.pairwise(numbers))
            held = network.run("b", "ip", "xfrm", "state")
            assert f"{OUT:#x}" not in held.replace("0x0000", "0x")
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            assert errors.keys() <= {"a XfrmInNoStates", "b XfrmInNoStates"}, errors
            # There the old one has lived its life, too.
            run_ip(network, "b", f"xfrm state delete src {made.peer} dst {SHARED[6]} proto esp spi {IN:#x}")
            end = time.monotonic() + PATIENCE
            while (await pairs("b")).keys() != {f"{NEXT[0]:08x}"}:
                assert time.monotonic() < end, await made.rows("b")
                await asyncio.sleep(0.05)

    asyncio.run(main())


FAULTS = {
    "an SPI that is taken": ("xfrm state add src {peer} dst {shared} proto esp spi 0x1001 mode tunnel "
                             "aead rfc4106(gcm(aes)) 0x" + "00" * 20 + " 128", "SPI_COLLISION"),
    "an SPI that is taken, outbound": ("xfrm state add src {shared} dst {peer} proto esp spi 0x2002 mode tunnel "
                                       "aead rfc4106(gcm(aes)) 0x" + "00" * 20 + " 128", "SPI_COLLISION"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refusal_leaves_the_session_where_it_was(
    network: Network, tmp_path: Path, fault: str
) -> None:
    kind = KINDS["tunnel-gcm-ipv6"]
    line, status = FAULTS[fault]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            run_ip(network, "b", line.format(peer=made.peer, shared=SHARED[6]))
            policy = network.run("a", "ip", "xfrm", "policy")
            for gateway in ("a", "b"):
                await made.start(gateway)
            local, remote = kind.inner
            made.process("a", "echo", local)
            with pytest.raises(CommandFailed, match=f"b refused .*{status}"):
                await made.ask("a", "move", mn_address=str(made.peer), to="b")
            (row,) = await made.rows("a")
            assert (row["state"], row["owner"]) == ("owned", "a")
            held = network.run("b", "ip", "xfrm", "state")
            assert len(re.findall(r"^src ", held, re.MULTILINE)) == 1  # what was there before
            assert network.run("b", "ip", "xfrm", "policy") == ""
            assert network.run("a", "ip", "xfrm", "policy") == policy
            sender = made.process("peer", "send", remote, local, "100")
            await asyncio.sleep(0.5)
            text, _ = await asyncio.to_thread(sender.communicate)
            told = Answers.read(text)
            assert len(told.back) == len(told.sent) > 20

    asyncio.run(main())


def test_without_the_privilege_to_install_the_session_stays(network: Network, tmp_path: Path) -> None:
    kind = KINDS["tunnel-gcm-ipv6"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            for gateway in ("a", "b"):
                await made.start(gateway)
            sink: Any = made.services["b"].gateway.sinks[0]
            install = sink.install

            async def unprivileged(*arguments: object) -> None:
                with without_net_admin():
                    await install(*arguments)

            sink.install = unprivileged
            with pytest.raises(CommandFailed, match=r"b refused .*NOT_AUTHORIZED"):
                await made.ask("a", "move", mn_address=str(made.peer), to="b")
            (row,) = await made.rows("a")
            assert (row["state"], row["owner"]) == ("owned", "a")
            assert network.run("b", "ip", "xfrm", "state") == ""
            sink.install = install
            await made.move("a", "b")

    asyncio.run(main())


def test_take_over_under_load(network: Network, tmp_path: Path) -> None:
    """The active gateway's link is cut under 1,000 packets per second; its standby goes on above the fence.

    Then the link comes back: the old gateway, which knows of nothing, finds that it is the owner no more.
    """
    kind = KINDS["transport-gcm"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("b")
            await made.start("a", standby="b", replica_interval=0.2, replica_packets=200)
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, str(RATE))
                await asyncio.sleep(0.5)
                end = time.monotonic() + PATIENCE
                while not (rows := await made.rows("b")) or not int(str(rows[0]["received"])):
                    assert time.monotonic() < end, rows  # the window travels along
                    await asyncio.sleep(0.05)
                (replica,) = rows
                assert (replica["state"], replica["owner"]) == ("replica", "a")
                network.set_link("a", up=False)
                cut = time.monotonic()
                outcome = await made.ask("b", "takeover", mn_address=str(made.peer))
                assert (outcome["taken"], outcome["dropped"]) == (True, [])
                await made.until(lambda: made.has_address("b"))
                await asyncio.sleep(1)
                text, _ = await asyncio.to_thread(sender.communicate)
                network.set_link("a", up=True)
                end = time.monotonic() + 60
                while [row["state"] for row in await made.rows("a")] != ["released"]:
                    assert time.monotonic() < end, await made.rows("a")
                    await asyncio.sleep(0.2)
            told = Answers.read(text)
            first = min(told.sent[number] for number in told.back if told.sent[number] > cut)
            numbers = numbers_on_the_wire(capture)[OUT]
            assert len(set(numbers)) == len(numbers)
            assert all(one < other for one, other in itertools.pairwise(numbers))
            fence = next(index for index, (one, other) in enumerate(itertools.pairwise(numbers)) if other > one + 1000)
            assert numbers[fence + 1] > 20_000 >= numbers[fence]  # above all that A was allowed to send
            assert network.run("a", "ip", "xfrm", "state") == ""
            await made.until(lambda: not made.has_address("a"))
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            assert errors.keys() <= {"a XfrmInNoStates", "b XfrmInNoStates"}, errors
            status = await made.ask("a", "status")
            assert status["counters"]["sessions.deposed"] == 1  # type: ignore[index]
            lost, sent = len(told.lost), len(told.sent)
            print(f"take-over: {(first - cut) * 1000:.0f} ms without answers, {lost} of {sent} lost")

    asyncio.run(main())


def test_nothing_is_sent_above_what_the_standby_knows(network: Network, tmp_path: Path) -> None:
    """With its standby gone, the active gateway stops at the ceiling that is confirmed, until an operator decides."""
    kind, reserve = KINDS["transport-gcm"], 4000

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("b", reserve=reserve)
            await made.start("a", reserve=reserve, standby="b", replica_interval=0.2)
            local, remote = kind.inner
            made.process("a", "echo", local)
            end = time.monotonic() + PATIENCE
            while not await made.rows("b"):
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            await made.ask("b", "stop")
            await made.tasks["b"]
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, "2000")
                ids = f"src {made.peer} dst {SHARED[4]} proto esp spi {IN:#x}".split()
                end = time.monotonic() + PATIENCE
                asked = 0
                while asked <= reserve + 500:
                    assert time.monotonic() < end, asked
                    await asyncio.sleep(0.1)
                    shown = network.run("a", "ip", "-s", "xfrm", "state", "get", *ids)
                    (asked,) = map(int, re.findall(r"lifetime current:\s*\d+\(bytes\), (\d+)\(packets\)", shown))
                await asyncio.to_thread(sender.communicate)
            numbers = numbers_on_the_wire(capture)
            assert len(numbers[IN]) > reserve + 500, len(numbers[IN])
            assert max(numbers[OUT]) == reserve

    asyncio.run(main())


def test_as_an_operator_does_it(network: Network, tmp_path: Path) -> None:
    """Two agents from the command line, and the commands beside them."""
    kind = KINDS["transport-gcm"]

    def cxtp(name: str, *arguments: str, code: int = 0) -> str:
        control = ["--control", str(tmp_path / f"{name}.sock")]
        with network.inside(name):
            done = subprocess.run(
                [sys.executable, "-m", "cxtp", *arguments, *control], capture_output=True, text=True, check=False
            )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            agents = []
            for name, other in (("a", "b"), ("b", "a")):
                address = {router: str(made.routers[router].address) for router in ("a", "b")}
                agents.append(
                    network.start(
                        name, sys.executable, "-m", "cxtp", "gateway", "linux", "--name", name,
                        "--listen", address[name], "--peer", f"{other}={address[other]}", "--transport", "udp",
                        "--allow-cleartext-keys-on-the-network", "--max-transfer-time", "5",
                        "--state", str(tmp_path / f"cli-{name}"), "--control", str(tmp_path / f"{name}.sock"),
                        *(["--standby", "b"] if name == "a" else []),
                        stdout=subprocess.PIPE,
                    )
                )  # fmt: skip
            for agent in agents:
                assert agent.stdout is not None
                assert "serves this kernel" in agent.stdout.readline()
            table = cxtp("a", "sessions")
            assert table.splitlines()[0].split()[:3] == ["peer", "state", "owner"]
            assert f"{IN:08x}" in table
            assert "absent" in table
            (move,) = json.loads(cxtp("a", "move", "--all", "--to", "b", "--json"))["moves"]
            assert move["moved"], move
            (row,) = json.loads(cxtp("b", "sessions", "--json"))["sessions"]
            assert (row["owner"], row["state"], row["suite"]) == ("b", "owned", "ESP:AES_GCM_16-256")
            assert "no replica of a's is here" in cxtp("b", "takeover", "a", code=1)
            assert "10.9.0.1" in cxtp("b", "move", "10.9.0.1", "--to", "a")
            for agent in agents:
                agent.terminate()
                assert agent.wait(PATIENCE) == 0

    asyncio.run(main())
