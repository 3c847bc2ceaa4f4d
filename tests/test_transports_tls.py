"""TLS endpoints on loopback: one connection for both directions, names from certificates, named refusals."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

import loopback
import pytest
from node_helpers import until

from cxtp.errors import ConfigurationError, TransportError
from cxtp.messages import ContextBlock, ContextTransferData
from cxtp.pki import CertificatePaths, create_authority, create_node_certificate, node_paths
from cxtp.roles.events import Peer
from cxtp.transports import tls
from cxtp.transports.endpoint import Router
from cxtp.transports.tls import TlsEndpoint, tls_context
from cxtp.wire import build

MN = ip_address("192.0.2.100")


def message(number: int, octets: int = 24) -> bytes:
    """A CTD of at least so many octets, told apart by its Elapsed Time."""
    blocks = (ContextBlock(0x7001, secrets.token_bytes(min(octets, 2036))),) * (octets // 2040 + 1)
    return build(ContextTransferData(mn_previous_address=MN, elapsed_time=number, blocks=blocks))


def frame(octets: int) -> bytes:
    """What the stream takes for a message, cut out by its Length alone."""
    return b"\x23\x80" + octets.to_bytes(2, "big") + secrets.token_bytes(octets - 4)


def number_of(octets: bytes) -> int:
    return int.from_bytes(octets[4:8], "big")


class Side:
    """An endpoint and what it received."""

    def __init__(self, endpoint: Callable[[Callable[[bytes, Peer], None]], TlsEndpoint]) -> None:
        self.messages: list[bytes] = []
        self.peers: set[str] = set()
        self.endpoint = endpoint(self._received)

    def _received(self, octets: bytes, peer: Peer) -> None:
        self.messages.append(octets)
        self.peers.add(peer.name)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.endpoint.counters)


class Pair:
    """Routers a and b on addresses of their own; ``c`` has a certificate that nobody was told of."""

    def __init__(self, directory: Path) -> None:
        self.pki = directory / "pki"
        now = datetime.now(timezone.utc)
        create_authority(self.pki, "test", 2, now=now)
        for name in "abc":
            create_node_certificate(self.pki, name, [], 1, now=now)
        subnet = loopback.subnet()
        self.routers = {name: Router(name, ip_address(f"{subnet}.{n}")) for n, name in enumerate("ab", 2)}
        self.sides: list[Side] = []

    def side(
        self, name: str, knows: str, *, certificates: CertificatePaths | None = None, connections: int = 9
    ) -> Side:
        own = self.routers[name]
        made = Side(
            lambda receiver: TlsEndpoint(
                (own.address, own.port),
                [self.routers[other] for other in knows],
                certificates or node_paths(self.pki, name),
                receiver,
                connections=connections,
            )
        )
        self.sides.append(made)
        return made

    def peer(self, name: str) -> Peer:
        router = self.routers[name]
        return Peer(router.address, router.port, name=name, reliable=True, is_router=True)

    async def connect(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client of no endpoint's, to b."""
        router = self.routers["b"]
        return await asyncio.open_connection(str(router.address), router.port, ssl=context, server_hostname="b")


@asynccontextmanager
async def both(directory: Path, *, connections: int = 9) -> AsyncIterator[tuple[Pair, Side, Side]]:
    made = Pair(directory)
    a, b = made.side("a", "b"), made.side("b", "a", connections=connections)
    try:
        for side in (a, b):
            await side.endpoint.start()
        yield made, a, b
    finally:
        for side in made.sides:
            await side.endpoint.close()


def test_one_connection_carries_both_directions(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            a.endpoint.send(message(1), nodes.peer("b"))
            await until(lambda: len(b.messages) == 1)
            b.endpoint.send(message(2), nodes.peer("a"))
            await until(lambda: len(a.messages) == 1)
            assert (a.peers, b.peers) == ({"b"}, {"a"})
            assert a.counters == {"connected": 1, "sent": 1, "received": 1}
            assert b.counters == {"accepted": 1, "sent": 1, "received": 1}

    asyncio.run(main())


def test_many_and_the_largest_messages_arrive_in_order(tmp_path: Path) -> None:
    """65,535 octets is what a Length of 16 bits can say."""

    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            sent = [message(n, 24 + 8 * (n % 40)) for n in range(1500)]
            sent += [frame(octets) for octets in (4, 65_534, 65_535, 65_535, 5) * 4]
            for octets in sent:
                a.endpoint.send(octets, nodes.peer("b"))
            await until(lambda: len(b.messages) == len(sent))
            assert b.messages == sent

    asyncio.run(main())


def test_both_connect_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            for n in range(50):
                a.endpoint.send(message(n), nodes.peer("b"))
                b.endpoint.send(message(1000 + n), nodes.peer("a"))
            await until(lambda: len(a.messages) == len(b.messages) == 50)
            assert [number_of(octets) for octets in b.messages] == list(range(50))
            assert [number_of(octets) for octets in a.messages] == list(range(1000, 1050))
            # Whichever of the two connections is used now, it works in both directions.
            a.endpoint.send(message(60), nodes.peer("b"))
            b.endpoint.send(message(1060), nodes.peer("a"))
            await until(lambda: len(a.messages) == len(b.messages) == 51)

    asyncio.run(main())


def test_after_a_loss_the_next_message_makes_a_new_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            a.endpoint.send(message(1), nodes.peer("b"))
            await until(lambda: len(b.messages) == 1)
            await b.endpoint.close()
            await until(lambda: a.counters.get("closed", 0) + a.counters.get("connection_lost", 0) == 1)
            a.endpoint.send(message(2), nodes.peer("b"))  # nobody listens: lost, and counted
            await until(lambda: a.counters.get("connect_failed") == 1)
            assert a.counters["send_dropped"] == 1
            again = nodes.side("b", "a")
            await again.endpoint.start()
            a.endpoint.send(message(3), nodes.peer("b"))
            await until(lambda: len(again.messages) == 1)
            assert number_of(again.messages[0]) == 3
            assert a.counters["connected"] == 2

    asyncio.run(main())


def test_what_waits_for_a_connection_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            big = [message(n, 1000) for n in range(5)]
            monkeypatch.setattr(tls, "WAITING_OCTETS", 3 * len(big[0]))
            for octets in big:
                a.endpoint.send(octets, nodes.peer("b"))
            assert a.counters == {"send_queue_full": 2}
            await until(lambda: len(b.messages) == 3)
            assert b.messages == big[:3]

    asyncio.run(main())


def test_what_waits_behind_a_connection_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not read."""

    async def main() -> None:
        async with both(tmp_path) as (nodes, _, b):
            reader, writer = await nodes.connect(tls_context(node_paths(nodes.pki, "a"), server=False))
            await until(lambda: b.counters.get("accepted") == 1)
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()
            monkeypatch.setattr(tls, "WAITING_OCTETS", 1_000_000)
            octets = frame(65_535)
            for _ in range(2000):
                b.endpoint.send(octets, nodes.peer("a"))
                if b.counters.get("send_queue_full"):
                    break
            assert b.counters["send_queue_full"] == 1
            writer.transport.abort()
            del reader

    asyncio.run(main())


def test_more_connections_than_allowed(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path, connections=2) as (nodes, _, b):
            context = tls_context(node_paths(nodes.pki, "a"), server=False)
            writers = [(await nodes.connect(context))[1] for _ in range(2)]
            await until(lambda: b.counters.get("accepted") == 2)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await nodes.connect(context)
            assert b.counters["too_many_connections"] == 1
            writers[0].close()
            await until(lambda: b.counters.get("closed", 0) + b.counters.get("connection_lost", 0) == 1)
            _, writer = await nodes.connect(context)
            await until(lambda: b.counters.get("accepted") == 3)
            for one in (writers[1], writer):
                one.close()

    asyncio.run(main())


def test_handshakes_that_hang_count_as_connections(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path, connections=2) as (nodes, _, b):
            router = nodes.routers["b"]
            silent = [await asyncio.open_connection(str(router.address), router.port) for _ in range(2)]
            reader, writer = await asyncio.open_connection(str(router.address), router.port)
            await until(lambda: b.counters.get("too_many_connections") == 1)
            writer.close()
            for _, other in silent:
                other.close()
            await until(lambda: b.counters.get("handshake_failed") == 2)
            del reader

    asyncio.run(main())


async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """In TLS 1.3 a client is done before the server has seen its certificate: it learns when it reads."""
    try:
        return await reader.read() == b""
    except (ssl.SSLError, ConnectionError):
        return True
    finally:
        writer.close()


def test_a_client_without_a_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, _, b):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(nodes.pki / "ca.crt")
            assert await refused(*await nodes.connect(context))
            await until(lambda: b.counters.get("certificate_rejected") == 1)
            assert "received" not in b.counters

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "CERTIFICATE" in caplog.text


def test_tls_1_2_alone_is_not_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, _, b):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(nodes.pki / "ca.crt")
            paths = node_paths(nodes.pki, "a")
            context.load_cert_chain(paths.certificate, paths.private_key)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await nodes.connect(context)
            await until(lambda: b.counters.get("handshake_failed") == 1)
            assert "certificate_rejected" not in b.counters

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "UNSUPPORTED_PROTOCOL" in caplog.text


def test_a_server_with_the_name_of_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At b's address answers c, whose certificate is as good as any: not what was asked for."""

    async def main() -> None:
        made = Pair(tmp_path)
        a = made.side("a", "b")
        wrong = made.side("b", "a", certificates=node_paths(made.pki, "c"))
        await wrong.endpoint.start()
        a.endpoint.send(message(1), made.peer("b"))
        await until(lambda: a.counters.get("certificate_rejected") == 1)
        assert a.counters == {"connect_failed": 1, "certificate_rejected": 1, "send_dropped": 1}
        assert wrong.messages == []
        for side in (a, wrong):
            await side.endpoint.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "no connection to b" in caplog.text
    assert "match" in caplog.text


def test_a_certificate_of_the_authority_that_names_no_router(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both sides can tell: the one that refuses, and the one that was."""

    async def main() -> None:
        made = Pair(tmp_path)
        a = made.side("a", "b", certificates=node_paths(made.pki, "c"))
        b = made.side("b", "a")
        await b.endpoint.start()
        for n in range(3):
            # However the refusal and the end of the handshake fall together, no dead connection is kept.
            before = b.counters.get("unknown_router", 0)
            a.endpoint.send(message(n), made.peer("b"))
            await until(lambda before=before: b.counters.get("unknown_router", 0) == before + 1)  # type: ignore[misc]
            await until(
                lambda n=n: sum(a.counters.get(x, 0) for x in ("closed", "connection_lost", "cut_short")) == n + 1  # type: ignore[misc]
            )
        assert b.messages == []
        for side in (a, b):
            await side.endpoint.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "('c',)" in caplog.text


def test_a_connection_that_ends_before_it_is_known_is_not_kept(tmp_path: Path) -> None:
    """Lost between the handshake and what follows it: the next message makes a new one."""

    async def main() -> None:
        async with both(tmp_path) as (nodes, a, b):
            attach = a.endpoint._attach

            def late(link: tls._Link, connection: tls._Connection) -> None:
                assert connection.transport is not None
                connection.transport.abort()
                connection.connection_lost(ConnectionResetError())
                attach(link, connection)

            a.endpoint._attach = late  # type: ignore[method-assign]
            a.endpoint.send(message(1), nodes.peer("b"))
            await until(lambda: a.counters.get("send_dropped") == 1)
            a.endpoint._attach = attach  # type: ignore[method-assign]
            a.endpoint.send(message(2), nodes.peer("b"))
            await until(lambda: len(b.messages) == 1)
            assert number_of(b.messages[0]) == 2

    asyncio.run(main())


def test_a_message_that_is_cut_short_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, _, b):
            _, writer = await nodes.connect(tls_context(node_paths(nodes.pki, "a"), server=False))
            writer.write(message(1)[:-1])
            await writer.drain()
            writer.close()
            await until(lambda: b.counters.get("cut_short") == 1)
            assert b.messages == []

    asyncio.run(main())


def test_sending_to_nobody_we_know(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, _):
            a.endpoint.send(message(1), Peer(ip_address("127.0.0.9"), 5091, name="mallory", is_router=True))
            assert a.counters == {"send_to_unknown_router": 1}
            assert nodes.sides

    asyncio.run(main())


def test_the_address_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with both(tmp_path) as (nodes, a, _):
            assert a.endpoint.address == (nodes.routers["a"].address, 5091)
            with pytest.raises(TransportError, match=r"can't listen on TCP 127\.\d+\.\d+\.2 port 5091"):
                await nodes.side("a", "b").endpoint.start()
            with pytest.raises(TransportError, match="not started"):
                _ = nodes.side("a", "b").endpoint.address

    asyncio.run(main())


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    made = Pair(tmp_path)
    paths = node_paths(made.pki, "a")
    broken = tmp_path / "broken.crt"
    broken.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"broken\.crt.*make them with 'cxtp pki'"):
        tls_context(CertificatePaths(broken, paths.private_key, paths.authority), server=True)
    other = node_paths(made.pki, "b")
    with pytest.raises(ConfigurationError, match="can't use"):  # another one's key
        tls_context(CertificatePaths(paths.certificate, other.private_key, paths.authority), server=True)
