"""The control socket: who may open it, what a line may be, and how a node's end is told."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from node_helpers import until

from cxtp import control
from cxtp.control import CommandFailed, ControlClient, ControlServer
from cxtp.errors import LocalError, StoreFull, TransportError


async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"said": request["say"]}


async def fail(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise StoreFull("disk full: make room")


async def much(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"octets": "x" * 5000}


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, {"echo": echo, "fail": fail, "much": much})
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def raw(path: Path, octets: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(octets)
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    return answer


def test_commands_and_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        async with served(path), ControlClient(path) as client, ControlClient(path) as other:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await client.ask("echo", say="one") == {"said": "one"}
            assert await other.ask("echo", say=["two", None]) == {"said": ["two", None]}
            with pytest.raises(CommandFailed, match="disk full: make room"):
                await client.ask("fail")
            with pytest.raises(CommandFailed, match="no such command; there are: echo, fail, much"):
                await client.ask("nothing")
            with pytest.raises(CommandFailed, match="bad argument"):
                await client.ask("echo")
            assert await client.ask("echo", say="still here") == {"said": "still here"}
        assert not path.exists()

    asyncio.run(main())


@pytest.mark.parametrize(
    "line",
    [b"\n", b"no json\n", b"[]\n", b"7\n", b"{}\n", b'{"command": []}\n', b'{"command": 1}\n', b"\xff\xfe\n"],
)
def test_a_line_that_is_no_command(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        async with served(path):
            answer = await raw(path, line)
            assert answer["ok"] is False
            assert "no such command" in answer["error"]

    asyncio.run(main())


def test_a_line_beyond_the_limit_ends_its_connection_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAXIMUM_LINE", 1000)
    path = tmp_path / "control.sock"

    async def main() -> None:
        async with served(path), ControlClient(path) as client:
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"x" * 5000)
            assert await reader.read() == b""
            writer.close()
            assert await client.ask("echo", say="here") == {"said": "here"}
            with pytest.raises(TransportError, match="more than 1000 octets"):
                await client.ask("much")
            with pytest.raises(LocalError, match="connect first"):
                await ControlClient(path).ask("echo")

    asyncio.run(main())


def test_nobody_listens(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(TransportError, match=r"no node listens on .*none\.sock"):
            await ControlClient(tmp_path / "none.sock").connect()
        with pytest.raises(TransportError, match="can't listen"):
            await ControlServer(tmp_path / "no" / "directory.sock", {}).start()
        with pytest.raises(TransportError, match="can't listen"):
            await ControlServer(tmp_path / ("x" * 120), {}).start()  # a socket's name has 107 octets at most

    asyncio.run(main())


def test_a_socket_that_a_dead_node_left_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with served(path):
            with pytest.raises(TransportError, match="another node listens"):
                await ControlServer(path, {}).start()
            async with ControlClient(path) as client:
                assert await client.ask("echo", say=1) == {"said": 1}

    asyncio.run(main())


def test_the_node_goes_away_while_a_client_waits(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        asked = asyncio.Event()

        async def wait(request: Mapping[str, Any]) -> Mapping[str, Any]:
            asked.set()
            await asyncio.sleep(0.2)
            return {}

        server = ControlServer(path, {"wait": wait})
        await server.start()
        async with ControlClient(path) as client:
            waiting = asyncio.create_task(client.ask("wait"))
            await asked.wait()
            await server.close()
            with pytest.raises(TransportError, match="went away"):
                await waiting

    asyncio.run(main())


def test_a_client_that_goes_away_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        done: list[bool] = []

        async def slow(request: Mapping[str, Any]) -> Mapping[str, Any]:
            await asyncio.sleep(0.05)
            done.append(True)
            return {"octets": "x" * 100_000}

        server = ControlServer(path, {"slow": slow})
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command": "slow"}\n')
        await writer.drain()
        writer.transport.abort()
        await until(lambda: bool(done))  # what was asked for is done, whoever waits
        async with ControlClient(path) as client:
            assert len((await client.ask("slow"))["octets"]) == 100_000
        await server.close()

    asyncio.run(main())
