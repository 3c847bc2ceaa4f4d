"""How an operator talks to a running node: one JSON object per line over a Unix socket of mode 0600.

A request is ``{"command": NAME, ...arguments}``; the answer ``{"ok": true, ...}`` or ``{"ok": false, "error":
TEXT}``.  Whoever may open the socket may move sessions: its directory's permissions decide.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import CxtpError, LocalError, TransportError

MAXIMUM_LINE = 16 * 1024 * 1024
"""Octets of one request or answer."""

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class ControlServer:
    """Serves the commands in ``handlers``."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.AbstractServer | None = None
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def start(self) -> None:
        """Listen.  Raises TransportError where the path is taken by a live node, or can't be used."""
        if await _is_alive(self._path):
            raise TransportError(f"another node listens on {self._path}")
        before = os.umask(0o177)
        try:
            with suppress(FileNotFoundError):
                self._path.unlink()
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MAXIMUM_LINE)
        except OSError as error:
            raise TransportError(f"can't listen on {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Stop listening and take the socket away."""
        if self._server is not None:
            self._server.close()
            serving = [task for task in self._clients.values() if task is not None]
            for client in list(self._clients):
                client.close()  # its readline ends with the end of file
            if serving:
                await asyncio.wait(serving, timeout=1)
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = asyncio.current_task()
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the client went away, or sent a line beyond the limit
        finally:
            self._clients.pop(writer, None)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, TypeError, KeyError):
            return {"ok": False, "error": f"no such command; there are: {', '.join(sorted(self._handlers))}"}
        try:
            return {"ok": True, **await handler(request)}
        except CxtpError as error:
            return {"ok": False, "error": str(error), "kind": type(error).__name__}
        except (KeyError, TypeError, ValueError) as error:
            return {"ok": False, "error": f"bad argument: {error}", "kind": "LocalError"}


async def _is_alive(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True


class CommandFailed(LocalError):
    """The node refused a command; the text is its own."""


class ControlClient:
    """Talks to a running node; one request at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> None:
        """Raises TransportError where no node listens."""
        try:
            self._streams = await asyncio.open_unix_connection(str(self._path), limit=MAXIMUM_LINE)
        except OSError as error:
            raise TransportError(f"no node listens on {self._path}: {error.strerror or error}") from error

    async def __aenter__(self) -> ControlClient:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._streams is not None:
            self._streams[1].close()

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One command's answer.  Raises CommandFailed with the node's text, TransportError where it is gone."""
        if self._streams is None:
            raise LocalError("connect first")
        reader, writer = self._streams
        try:
            writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        except OSError as error:
            raise TransportError(f"the node at {self._path} went away: {error}") from error
        except ValueError as error:
            raise TransportError(f"the answer of {self._path} has more than {MAXIMUM_LINE} octets") from error
        if not line:
            raise TransportError(f"the node at {self._path} went away")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise CommandFailed(answer["error"])
        return answer
