"""A node put together from options: what it refuses, its commands, and that no key is ever logged."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import loopback
import pytest
from node_helpers import MN, PROTOCOL, TRACES, recorded_contexts, until
from test_demo import secrets_of

from cxtp.config import ProtocolConfig, Timers
from cxtp.control import CommandFailed, ControlClient
from cxtp.dissect import sightings
from cxtp.errors import ConfigurationError, StoreError, TransportError
from cxtp.path_protection import GuardedEndpoint
from cxtp.service import Service, ServiceConfig, make_endpoint, make_mobile_endpoint, open_store
from cxtp.store.records import SessionState
from cxtp.transports.endpoint import Router
from cxtp.transports.sctp import SctpEndpoint

TRACE = "k-transport-cbc"


class Cluster:
    """Services a and b over UDP on loopback, in this process, and a client of each."""

    def __init__(self, directory: Path) -> None:
        subnet = loopback.subnet()
        self.routers = {name: Router(name, ip_address(f"{subnet}.{n}")) for n, name in enumerate("ab", 2)}
        self.directory = directory
        self.services: dict[str, Service] = {}
        self.clients: dict[str, ControlClient] = {}

    def config(self, name: str, **options: Any) -> ServiceConfig:
        own, state = self.routers[name], self.directory / name
        others = tuple(router for router in self.routers.values() if router.name != name)
        return ServiceConfig(
            **{
                "name": name,
                "listen": (own.address, own.port),
                "routers": others,
                "state": state,
                "control": state / "control.sock",
                "transport": "udp",
                "protocol": PROTOCOL,
                **options,
            }
        )


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Cluster]:
    made = Cluster(directory)
    tasks = []
    try:
        for name in made.routers:
            ready = asyncio.Event()
            service = Service(made.config(name, capture=directory / f"{name}.pcap"))
            tasks.append(asyncio.create_task(service.run(ready.set)))
            await ready.wait()
            made.services[name] = service
            client = made.clients[name] = ControlClient(service.config.control)
            await client.connect()
        yield made
    finally:
        for name, client in made.clients.items():
            if not made.services[name]._stop.is_set():
                await client.ask("stop")
        await asyncio.gather(*tasks)


def test_every_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as nodes:
            a, b = nodes.clients["a"], nodes.clients["b"]
            trace = TRACES / TRACE
            loaded = await a.ask("load-ha", captures=[str(trace / "ha.pcap")], keep_deleted=True, key_case=3)
            (row,) = loaded["sessions"]
            assert (row["mn_address"], row["state"], row["generation"]) == (str(MN), "owned", 1)
            assert row == (await a.ask("sessions"))["sessions"][0]
            moved = await a.ask("move", mn_address=str(MN), to="b")
            assert (moved["mn_address"], moved["router"], moved["contexts"]) == (str(MN), "b", 2)
            proof = await b.ask(
                "prove", mn_address=str(MN), capture=str(trace / "outer.pcap"), keys=str(trace / "keys.json")
            )
            assert proof["seen"] == proof["opened"]
            assert proof["keys_match"] is True
            key_file = tmp_path / "file.key"
            key_file.write_bytes(secrets.token_bytes(32))
            key_file.chmod(0o600)
            sealed = {"file": str(tmp_path / "session.ctx"), "key_file": str(key_file)}
            assert len((await b.ask("export", **sealed))["sessions"]) == 1
            await a.ask("request", mn_address=str(MN), **{"from": "b"})
            await until(lambda: nodes.services["a"].node.sessions.get(MN).state is SessionState.OWNED)  # type: ignore[union-attr]
            await a.ask("forget", mn_address=str(MN))
            assert (await a.ask("import", **sealed))["sessions"][0]["state"] == "owned"
            status = await a.ask("status")
            assert status["name"] == "a"
            assert status["transport"] == "udp"
            assert status["counters"]["node.TransferConfirmed"] == 1
            assert status["counters"]["transport.received"] >= 2
            for command, arguments, text in (
                ("move", {"mn_address": "192.0.2.9", "to": "b"}, "does not own"),
                ("move", {"mn_address": str(MN), "to": "nobody"}, "known are: b"),
                ("move", {"mn_address": "nowhere", "to": "b"}, "bad argument"),
                ("move", {}, "bad argument"),
                ("request", {"mn_address": str(MN), "from": "nobody"}, "no router"),
                ("forget", {"mn_address": "192.0.2.9"}, "nothing is known"),
                ("prove", {"mn_address": "192.0.2.9", "capture": "x"}, "holds no contexts"),
                ("prove", {"mn_address": str(MN), "capture": str(tmp_path / "none.pcap")}, "none.pcap"),
                ("load-ha", {"captures": [str(tmp_path / "none.pcap")]}, "none.pcap"),
                ("load-ha", {"captures": [str(TRACES / TRACE / "ha.pcap")], "keep_deleted": True}, "already"),
                ("import", {"file": sealed["file"]}, "sealed"),
                ("export", {"file": str(tmp_path / "clear.ctx")}, "seal"),
            ):
                with pytest.raises(CommandFailed, match=text):
                    await a.ask(command, **arguments)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    capture = list(sightings(tmp_path / "a.pcap"))
    kinds = [s.message.short_name for s in capture if s.message]
    assert list(dict.fromkeys(kinds))[:2] == ["CTD", "CTDR"]  # a busy machine repeats over UDP
    assert (tmp_path / "a.pcap").stat().st_mode & 0o777 == 0o600
    log = caplog.text.lower()
    keys = secrets_of(TRACE)
    assert len(keys) >= 10
    assert not [key for key in keys if key in log]
    held = b"".join(context.data for context in recorded_contexts())
    assert held[64:96].hex() not in log


def test_a_refused_session_is_logged_with_its_reason_and_without_its_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as nodes:
            captures = [str(TRACES / TRACE / "ha.pcap")]
            for name in nodes.clients:
                await nodes.clients[name].ask("load-ha", captures=captures, keep_deleted=True, key_case=3)
            other = ip_address("192.0.2.200")
            target = nodes.services["b"].node.sessions
            record = target.get(MN)
            assert record is not None
            await target.forget(MN)
            await target.load(other, record.contexts)
            source = nodes.services["a"].node.sessions
            record = source.get(MN)
            assert record is not None
            await source.writer.put(type(record)(**{**vars(record), "generation": 7}))
            with pytest.raises(CommandFailed, match="SPI_COLLISION"):
                await nodes.clients["a"].ask("move", mn_address=str(MN), to="b")

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert "is in use here by 192.0.2.200" in caplog.text
    assert not [key for key in secrets_of(TRACE) if key in caplog.text.lower()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(tmp_path: Path, number: signal.Signals) -> None:
    made = Cluster(tmp_path)

    async def main() -> None:
        await Service(made.config("a")).run(lambda: os.kill(os.getpid(), number))

    asyncio.run(main())
    with open_store(tmp_path / "a") as store:  # it is free
        assert store.count() == 0
    assert not (tmp_path / "a" / "control.sock").exists()


def test_what_it_needs_and_does_not_get(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    with pytest.raises(ConfigurationError, match=r"give --pki"):
        Service(made.config("a", transport="tls"))
    with pytest.raises(ConfigurationError, match=r"missing: make it with cxtp pki"):
        Service(made.config("b", transport="tls", pki=tmp_path))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(ConfigurationError, match="can't make the state directory"):
        open_store(blocked / "state")


def test_one_state_directory_has_one_node(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    first = Service(made.config("a"))
    with pytest.raises(StoreError, match="in use by process"):
        Service(made.config("a"))
    first.store.close()


def test_the_port_is_taken(tmp_path: Path) -> None:
    made = Cluster(tmp_path)

    async def main() -> None:
        first = tmp_path / "first"
        first.mkdir()
        async with cluster(first) as nodes:
            listen = (nodes.routers["a"].address, nodes.routers["a"].port)
            with pytest.raises(TransportError, match="Address already in use"):
                await Service(made.config("a", listen=listen)).run()
        with open_store(tmp_path / "a") as store:  # it let its store go
            assert store.count() == 0

    asyncio.run(main())


def test_a_state_directory_is_private(tmp_path: Path) -> None:
    with open_store(tmp_path / "state"):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert json.dumps(sorted(modes)).count("store.key") == 1


def test_the_sctp_lifetime_is_the_transfer_time(tmp_path: Path) -> None:
    """RFC 4067, 3.1: CT_MAX_TRANSFER_TIME is the lifetime of PR-SCTP."""
    config = replace(Cluster(tmp_path).config("a"), transport="sctp", protocol=ProtocolConfig(Timers(0.345)))
    endpoint = make_endpoint(config, lambda octets, peer: None)
    assert isinstance(endpoint, GuardedEndpoint)
    assert isinstance(endpoint.endpoint, SctpEndpoint)
    assert endpoint.endpoint._settings.lifetime == 0.345


@pytest.mark.parametrize("transport", ["sctp", "udp"])
def test_what_shows_keys_is_guarded_unless_it_is_a_lab(tmp_path: Path, transport: str) -> None:
    config = replace(Cluster(tmp_path).config("a"), transport=transport, icmp=ip_address("127.0.0.1"))
    for make in (make_endpoint, make_mobile_endpoint):
        assert isinstance(make(config, lambda octets, peer: None), GuardedEndpoint)
        lab = replace(config, allow_cleartext_keys_on_the_network=True)
        assert not isinstance(make(lab, lambda octets, peer: None), GuardedEndpoint)
