"""What comes from outside and is wrong: each has its clear error and its counter, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import MN, Lab, lab, limited, opaque, recorded_contexts, until, without_parameter

from cxtp.errors import ConfigurationError, MissingParameter
from cxtp.messages import ContextTransferData, EncodedContext
from cxtp.node import MoveRefused, MoveUnconfirmed
from cxtp.pki import create_authority, create_node_certificate, node_paths
from cxtp.roles.events import DropReason, Peer
from cxtp.store.records import SessionState
from cxtp.transports.endpoint import Router
from cxtp.transports.tls import TlsEndpoint, tls_context
from cxtp.transports.udp import UdpEndpoint
from cxtp.wire import build


async def _knock(nodes: Lab, pki: Path, name: str) -> TlsEndpoint:
    """A stranger with this certificate sends something to node b."""
    listen = (ip_address(f"{nodes.subnet}.77"), 5091)
    stranger = TlsEndpoint(listen, [nodes.routers["b"]], node_paths(pki, name), lambda octets, peer: None)
    message = build(ContextTransferData(mn_previous_address=MN, elapsed_time=0))
    target = nodes.routers["b"]
    stranger.send(message, Peer(target.address, target.port, name="b", reliable=True, is_router=True))
    return stranger


async def _ends(reader: asyncio.StreamReader) -> bool:
    """Whether the other side ends the connection, with an alert or without, and says nothing."""
    try:
        return await reader.read() == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_a_peer_with_the_wrong_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            now = datetime.now(timezone.utc)
            create_authority(tmp_path / "other", "other", 2, now=now)
            create_node_certificate(tmp_path / "other", "a", [], 1, now=now)
            stranger = await _knock(nodes, tmp_path / "other", "a")
            # The stranger does not like our certificate either: its own authority did not sign it.
            await until(lambda: stranger.counters["certificate_rejected"] == 1)
            assert nodes.nodes["b"].endpoint.counters["received"] == 0
            await stranger.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_a_client_that_trusts_us_with_a_certificate_of_another_authority(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            now = datetime.now(timezone.utc)
            create_authority(tmp_path / "other", "other", 2, now=now)
            create_node_certificate(tmp_path / "other", "a", [], 1, now=now)
            context = tls_context(node_paths(tmp_path / "other", "a"), server=False)
            context.load_verify_locations(nodes.pki / "ca.crt")
            target = nodes.routers["b"]
            reader, writer = await asyncio.open_connection(
                str(target.address), target.port, ssl=context, server_hostname="b"
            )
            assert await _ends(reader)  # TLS 1.3 tells a client only when it reads
            writer.close()
            await until(lambda: nodes.nodes["b"].endpoint.counters["certificate_rejected"] == 1)

    asyncio.run(main())


def test_an_unknown_peer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Our authority signed it, and yet it is no router that node b knows."""

    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            create_node_certificate(nodes.pki, "mallory", [], 1, now=datetime.now(timezone.utc))
            stranger = await _knock(nodes, nodes.pki, "mallory")
            await until(lambda: nodes.nodes["b"].endpoint.counters["unknown_router"] == 1)
            assert nodes.nodes["b"].endpoint.counters["received"] == 0
            await stranger.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "mallory" in caplog.text


def test_an_unknown_peer_over_udp(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            target = nodes.nodes["b"]
            router = nodes.routers["b"]
            stranger = UdpEndpoint((ip_address(f"{nodes.subnet}.77"), 0), [router], lambda octets, peer: None)
            await stranger.start()
            message = build(ContextTransferData(mn_previous_address=MN, elapsed_time=0))
            stranger.send(message, Peer(router.address, router.port, name="b", is_router=True))
            await until(lambda: target.router.counters[DropReason.UNKNOWN_ROUTER] == 1)
            stranger.send(b"\x00" * 40, Peer(router.address, router.port, name="b", is_router=True))
            await until(lambda: target.router.counters[DropReason.MALFORMED] == 1)
            await stranger.close()

    asyncio.run(main())


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])
def test_an_ike_sa_context_with_a_missing_mandatory_parameter(tmp_path: Path, number: int) -> None:
    """M1 to M12 of the seed draft (it has no 6): refused by name at the source and at the target."""

    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            good = recorded_contexts()
            bad = (without_parameter(good[0], number), *good[1:])
            source = nodes.nodes["a"]
            with pytest.raises(Exception, match="mandatory parameter missing") as refused:
                await source.sessions.load(MN, bad)
            assert f"M{number} " in str(refused.value)
            await source.sessions.load(MN, good)
            record = source.sessions.get(MN)
            assert record is not None
            # A faulty peer would send it: the role does not look inside.
            source.router.previous.transfer(MN, source._peers["b"], bad, 9, asyncio.get_running_loop().time())
            source._pump()
            await until(lambda: source.counters["TransferRefused"] == 1)
            assert nodes.states().get("b") in (None, SessionState.RELEASED)

    asyncio.run(main())
    assert MissingParameter.status == 4


def test_a_transfer_larger_than_the_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls", start=("a",)) as nodes:
            await nodes.start("b", protocol=limited(octets_per_transfer=50_000))
            source = nodes.nodes["a"]
            await source.sessions.load(MN, [*recorded_contexts(), opaque(60_000)])
            with pytest.raises(MoveRefused, match="NO_RESOURCES"):
                await source.move(MN, "b")
            assert nodes.states()["a"] is SessionState.OWNED
            nodes.check()

    asyncio.run(main())


def test_a_context_too_large_for_any_message_is_refused_before_anything_is_frozen(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, [EncodedContext(0x7001, bytes(70_000))])
            with pytest.raises(Exception, match="one message holds"):
                await source.move(MN, "b")
            assert nodes.states() == {"a": SessionState.OWNED}

    asyncio.run(main())


def test_a_disk_that_is_full_at_the_new_router(tmp_path: Path) -> None:
    """SQLite's own limit stands for the disk: the same SQLITE_FULL (a real full disk: test_store_full.py)."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("a",)) as nodes:
            target = await nodes.start("b")
            connection = target.sessions.store._connection
            assert connection is not None
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")
            source = nodes.nodes["a"]
            await source.sessions.load(MN, [*recorded_contexts(), opaque(60_000)])
            with pytest.raises(MoveRefused, match="STORE_FAILED"):
                await source.move(MN, "b")
            assert target.sessions.counters["store_failed"] >= 1
            assert nodes.states()["a"] is SessionState.OWNED
            connection.execute("PRAGMA max_page_count = 1000000")
            await source.move(MN, "b")  # there is room again
            assert nodes.states()["b"] is SessionState.OWNED

    asyncio.run(main())


def test_cleartext_off_loopback_is_refused_unless_asked_for_by_name() -> None:
    here, there = ip_address("127.0.0.1"), ip_address("192.0.2.1")
    for listen, routers in (((there, 0), []), ((here, 0), [Router("b", there)])):
        with pytest.raises(ConfigurationError, match="--allow-cleartext-keys-on-the-network"):
            UdpEndpoint(listen, routers, lambda octets, peer: None)
        UdpEndpoint(listen, routers, lambda octets, peer: None, allow_cleartext_keys_on_the_network=True)


@pytest.mark.parametrize("length", [0, 3])
def test_a_frame_that_can_be_none_ends_its_connection(tmp_path: Path, length: int) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            target = nodes.routers["b"]
            context = tls_context(node_paths(nodes.pki, "a"), server=False)
            reader, writer = await asyncio.open_connection(
                str(target.address), target.port, ssl=context, server_hostname="b"
            )
            writer.write(b"\x23\x80" + length.to_bytes(2, "big") + bytes(8))
            assert await _ends(reader)
            assert nodes.nodes["b"].endpoint.counters["bad_frame"] == 1

    asyncio.run(main())


def test_tls_cuts_messages_out_of_a_stream_wherever_it_is_torn(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            target = nodes.routers["b"]
            context = tls_context(node_paths(nodes.pki, "a"), server=False)
            _, writer = await asyncio.open_connection(
                str(target.address), target.port, ssl=context, server_hostname="b"
            )
            message = build(ContextTransferData(mn_previous_address=MN, elapsed_time=0))
            for cut in range(len(message) + 1):
                writer.write(message[:cut])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(message[cut:])
            await writer.drain()
            endpoint = nodes.nodes["b"].endpoint
            await until(lambda: endpoint.counters["received"] == len(message) + 1)
            assert nodes.nodes["b"].router.counters[DropReason.MALFORMED] == 0
            writer.close()

    asyncio.run(main())


def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls") as nodes:
            target = nodes.routers["b"]
            context = tls_context(node_paths(nodes.pki, "a"), server=False)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(str(target.address), target.port, ssl=context, server_hostname="b")

    asyncio.run(main())


def test_a_silent_router_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls", start=("a",)) as nodes:
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            with pytest.raises(MoveUnconfirmed, match="did not answer"):
                await nodes.nodes["a"].move(MN, "b")
            assert nodes.nodes["a"].endpoint.counters["connect_failed"] >= 1

    asyncio.run(main())


