"""The SCTP transport over the kernel's own SCTP: what is on the wire, what arrives, what becomes of associations."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cxtp.errors import TransportError
from cxtp.roles.events import Peer
from cxtp.transports.endpoint import AssociationLost, AssociationUp, Router, SendFailed, TransportEvent
from cxtp.transports.sctp import SctpEndpoint, SctpSettings
from kernel.network import Network

PPID = 0x43585450
GOOD, ERROR = "1", "8388608"
"""As tshark writes them: a checksum's status, an expert's severity (PI_ERROR of epan/proto.h)."""
both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b", "c")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _calm(network: Network) -> Iterator[None]:
    yield
    for name in network.names:
        network.netem(name)


class End:
    """One endpoint, what it got and what it was told."""

    def __init__(self, network: Network, name: str, version: int, knows: str, **options: object) -> None:
        self.network, self.name = network, name
        self.received: list[bytes] = []
        self.events: list[TransportEvent] = []
        address = network.address(name, version)
        routers = [Router(other, network.address(other, version)) for other in knows]
        self.peer = Peer(address, 5091, name=name, reliable=True, is_router=True)
        self.endpoint = SctpEndpoint(
            (address, 5091),
            routers,
            lambda octets, peer: self.received.append(octets),
            events=self.events.append,
            **options,  # type: ignore[arg-type]
        )

    async def start(self) -> None:
        with self.network.inside(self.name):
            await self.endpoint.start()

    def told(self, kind: type[TransportEvent]) -> int:  # type: ignore[valid-type]
        return sum(isinstance(event, kind) for event in self.events)


@asynccontextmanager
async def ends(network: Network, version: int, **options: object) -> AsyncIterator[tuple[End, End]]:
    a, b = End(network, "a", version, "b", **options), End(network, "b", version, "a", **options)
    await a.start()
    await b.start()
    try:
        yield a, b
    finally:
        await a.endpoint.close()
        await b.endpoint.close()
        await asyncio.sleep(0.3)  # SHUTDOWN is on its way


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


def octets(length: int, first: int = 0) -> bytes:
    return bytes((first + n) % 251 for n in range(length))


def tshark(capture: Path, *fields: str) -> list[dict[str, str]]:
    """Of each packet the fields' values, by name."""
    command = ["tshark", "-r", str(capture), "-2", "-o", "sctp.checksum:CRC 32c", "-T", "fields", "-E", "separator=|"]
    done = subprocess.run([*command, *(f"-e{field}" for field in fields)], capture_output=True, text=True, check=True)
    return [dict(zip(fields, line.split("|"), strict=True)) for line in done.stdout.splitlines()]


@both_versions
def test_messages_of_any_size_arrive_whole_and_once(network: Network, version: int) -> None:
    async def main() -> None:
        async with ends(network, version) as (a, b):
            for length in (1, 4, 1400, 60_000, 65_535):
                a.endpoint.send(octets(length, 1), b.peer)
                b.endpoint.send(octets(length, 2), a.peer)
                await until(lambda: bool(a.received and b.received))
                assert b.received == [octets(length, 1)]
                assert a.received == [octets(length, 2)]
                a.received.clear()
                b.received.clear()
            a.endpoint.send(bytes(65_536), b.peer)
            assert a.endpoint.counters["send_too_large"] == 1
            # one association, whoever sends: both sides counted it once (or its set-ups crossed)
            assert a.endpoint.counters["association_up"] == b.endpoint.counters["association_up"] == 1

    asyncio.run(main())


@both_versions
def test_what_is_on_the_wire(network: Network, version: int, tmp_path: Path) -> None:
    """RFC 4067, 3.1: port 5091, one stream, unordered, the PPID, and no two messages in one packet."""

    async def main() -> None:
        async with ends(network, version) as (a, b):
            a.endpoint.send(octets(50), b.peer)
            await until(lambda: len(b.received) == 1)
            for number in range(20):
                a.endpoint.send(octets(50, number), b.peer)
            a.endpoint.send(octets(4000), b.peer)
            await until(lambda: len(b.received) == 22)

    with network.capture("b", tmp_path / "sctp.pcap") as capture:
        asyncio.run(main())
    names = ("sctp.dstport", "sctp.data_u_bit", "sctp.data_sid", "sctp.data_payload_proto_id", "_ws.malformed")
    names += ("sctp.init_nr_out_streams", "sctp.init_nr_in_streams", "sctp.parameter_type")
    rows = tshark(capture, "sctp.chunk_type", "sctp.checksum.status", "_ws.expert.severity", *names)
    data = [row for row in rows if "0" in row["sctp.chunk_type"].split(",")]
    assert len(data) >= 21 + 3
    for row in data:
        assert row["sctp.dstport"] == "5091"
        assert row["sctp.data_u_bit"] == "1"  # a second chunk would read "1,1"
        assert int(row["sctp.data_sid"], 16) == 0
        assert int(row["sctp.data_payload_proto_id"]) == PPID
        assert row["_ws.malformed"] == ""
    init = [row for row in rows if "1" in row["sctp.chunk_type"].split(",")]
    assert {(row["sctp.init_nr_out_streams"], row["sctp.init_nr_in_streams"]) for row in init} == {("1", "1")}
    # Forward-TSN-Supported: PR-SCTP (RFC 3758, 3.1)
    assert all("0xc000" in row["sctp.parameter_type"] for row in init)
    assert {row["sctp.checksum.status"] for row in rows if row["sctp.chunk_type"]} == {GOOD}
    assert not [row for row in rows if ERROR in row["_ws.expert.severity"].split(",")]


@both_versions
def test_loss_delay_and_reordering(network: Network, version: int) -> None:
    """Within its lifetime SCTP repeats what is lost.

    The lifetime is long: a packet that is lost four times takes eight seconds, and in some run one is.
    """

    async def main() -> None:
        async with ends(network, version, settings=SctpSettings(lifetime=60.0)) as (a, b):
            a.endpoint.send(b"first", b.peer)
            await until(lambda: bool(b.received))
            for name in ("a", "b"):
                network.netem(name, "delay", "5ms", "4ms", "loss", "10%", "reorder", "20%")
            sent = [octets(3000, number) for number in range(30)]
            for message in sent:
                a.endpoint.send(message, b.peer)
            await until(lambda: len(b.received) == 31, 90)
            assert sorted(b.received[1:]) == sorted(sent)  # unordered: any order will do

    asyncio.run(main())


@both_versions
def test_a_message_is_given_up_at_its_lifetimes_end_and_the_next_one_arrives(network: Network, version: int) -> None:
    async def main() -> None:
        async with ends(network, version) as (a, b):
            a.endpoint.send(b"first", b.peer)
            await until(lambda: bool(b.received))
            network.netem("a", "loss", "100%")
            a.endpoint.send(b"too late", b.peer)
            await asyncio.sleep(0.6)
            network.netem("a")
            a.endpoint.send(b"next", b.peer)
            await until(lambda: b"next" in b.received)
            await asyncio.sleep(0.5)
            assert b.received == [b"first", b"next"]

    asyncio.run(main())


@both_versions
def test_an_association_that_is_lost_is_told_and_made_anew(network: Network, version: int) -> None:
    async def main() -> None:
        quick = SctpSettings(retransmissions=3, heartbeat=1.0)
        async with ends(network, version, settings=quick) as (a, b):
            a.endpoint.send(b"first", b.peer)
            await until(lambda: bool(b.received))
            network.set_link("b", up=False)
            a.endpoint.send(octets(60_000), b.peer)  # in mid-transfer
            await until(lambda: a.told(AssociationLost) == 1, 60)
            assert a.endpoint.counters["association_lost"] == 1
            network.set_link("b", up=True)
            for _ in range(100):  # a bridge port takes its time
                a.endpoint.send(b"again", b.peer)
                await asyncio.sleep(0.2)
                if b"again" in b.received:
                    break
            assert b"again" in b.received
            assert a.told(AssociationUp) >= 2
            assert octets(60_000) not in b.received

    asyncio.run(main())


@both_versions
def test_an_end_that_starts_anew(network: Network, version: int) -> None:
    async def main() -> None:
        async with ends(network, version) as (a, b):
            a.endpoint.send(b"first", b.peer)
            await until(lambda: bool(b.received))
            await b.endpoint.close()
            await until(lambda: a.told(AssociationLost) == 1)
            a.endpoint.send(b"nobody is there", b.peer)
            await until(lambda: a.told(SendFailed) == 1)
            assert a.endpoint.counters["connect_failed"] == 1
            anew = End(network, "b", version, "a")
            await anew.start()
            a.endpoint.send(b"second", b.peer)
            await until(lambda: anew.received == [b"second"])
            anew.endpoint.send(b"answer", a.peer)
            await until(lambda: a.received == [b"answer"])
            await anew.endpoint.close()

    asyncio.run(main())


@both_versions
def test_a_router_that_we_do_not_know_is_refused(network: Network, version: int) -> None:
    """RFC 4067, 6.1: contexts are taken from known routers alone."""

    async def main() -> None:
        async with ends(network, version) as (a, b):
            stranger = End(network, "c", version, "a")
            await stranger.start()
            stranger.endpoint.send(b"let me in", a.peer)
            await until(lambda: a.endpoint.counters["unknown_router"] >= 1)
            await until(lambda: stranger.told(AssociationLost) >= 1)
            a.endpoint.send(b"known", b.peer)
            await until(lambda: b.received == [b"known"])
            assert a.received == []
            await stranger.endpoint.close()

    asyncio.run(main())


@both_versions
def test_another_payload_protocol_is_dropped(network: Network, version: int) -> None:
    async def main() -> None:
        a = End(network, "a", version, "b", payload_protocol_identifier=47)
        b = End(network, "b", version, "a")
        await a.start()
        await b.start()
        a.endpoint.send(b"diameter", b.peer)
        await until(lambda: b.endpoint.counters["other_payload_protocol"] == 1)
        assert b.received == []
        await a.endpoint.close()
        await b.endpoint.close()
        await asyncio.sleep(0.3)

    asyncio.run(main())


def test_what_waits_has_a_limit(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxtp.transports.sctp.endpoint.WAITING_OCTETS", 200_000)

    async def main() -> None:
        async with ends(network, 4) as (a, b):
            network.netem("a", "loss", "100%")
            for _ in range(10):
                a.endpoint.send(octets(60_000), b.peer)
            assert a.endpoint.counters["send_queue_full"] == 7
            await until(lambda: a.endpoint.counters["abandoned"] + a.endpoint.counters["send_dropped"] == 3)
            assert b.received == []

    asyncio.run(main())


def test_an_address_that_is_not_ours(network: Network) -> None:
    async def main() -> None:
        end = End(network, "a", 4, "b")
        with network.inside("b"), pytest.raises(TransportError, match=r"SCTP 10\.9\.0\.1 port 5091"):
            await end.endpoint.start()

    asyncio.run(main())


def test_the_socket_api_is_what_it_is_taken_for(network: Network) -> None:
    """The kernel's own answer to what we set (SCTP_STATUS: the streams that were negotiated; RFC 6458, 8.2.1)."""

    async def main() -> None:
        async with ends(network, 4) as (a, b):
            a.endpoint.send(b"first", b.peer)
            await until(lambda: bool(b.received))
            sock = a.endpoint._socket
            assert isinstance(sock, socket.socket)
            assert sock.getsockopt(132, 3) == 1  # SCTP_NODELAY
            initial = sock.getsockopt(132, 2, 8)  # SCTP_INITMSG
            assert [int.from_bytes(initial[at : at + 2], "little") for at in (0, 2)] == [1, 1]

    asyncio.run(main())
