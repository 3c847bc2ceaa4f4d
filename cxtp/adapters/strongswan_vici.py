"""A strongSwan daemon's control socket (vici), for what its ``ha`` messages don't tell and can't do.

The package ``vici`` is strongSwan's own; it blocks, so that each command runs in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

from contexts.values import HostAddress, IkeSpis, IPAddress

from ..errors import LocalError, MissingPackage

DEFAULT_PATH = Path("/run/charon.vici")
TIMEOUT = 10.0
"""Seconds until the daemon has begun to answer."""

_CREDENTIALS = struct.Struct("=iII")  # struct ucred, see unix(7)
_ROUNDING = 2.0  # seconds

UNSPECIFIED = IPv4Address(0)
"""In place of an address that the daemon does not have yet."""

T = TypeVar("T")


class DaemonError(LocalError):
    """The daemon does not answer, or does not do what it was asked."""


@dataclass(frozen=True)
class Start:
    """A daemon's process, by its ID (always 1 in some containers) and its start in Unix seconds (rounded anew with each
    answer)."""

    process: int
    since: float

    def is_same(self, other: Start) -> bool:
        """Whether it is the same process."""
        return self.process == other.process and abs(self.since - other.since) <= _ROUNDING


@dataclass(frozen=True)
class ChildSa:
    """One CHILD_SA; ``state`` is strongSwan's word (INSTALLED, REKEYED ...); ``rekey_in`` in seconds."""

    name: str
    unique_id: int
    state: str
    inbound_spi: int
    outbound_spi: int
    rekey_in: int | None


@dataclass(frozen=True)
class IkeSa:
    """One IKE_SA as the daemon has it now.  ``tasks``: exchanges under way or waiting; ``rekey_in`` in seconds."""

    name: str
    unique_id: int
    state: str
    spis: IkeSpis
    local_host: HostAddress
    remote_host: HostAddress
    rekey_in: int | None
    established: int
    tasks: tuple[str, ...]
    children: tuple[ChildSa, ...]


@dataclass(frozen=True)
class Connection:
    """One loaded connection: its children's names."""

    name: str
    children: frozenset[str]


class Daemon:
    """The daemon behind one vici socket.  All raise :class:`DaemonError`, the constructor MissingPackage."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        try:
            import vici
        except ImportError:
            raise MissingPackage("vici", "strongswan") from None
        self.path = path
        self._vici: Any = vici
        self._session: Any = None
        self._lock = threading.Lock()

    async def version(self) -> str:
        """As ``5.9.8``."""
        answer = await self._ask(lambda session: session.version())
        return _text(answer["version"])

    async def started(self) -> Start:
        """Which process it is, and since when."""

        def ask(session: Any) -> tuple[Any, int]:
            credentials = session.transport.socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            return session.stats(), _CREDENTIALS.unpack(credentials)[0]

        answer, process = await self._ask(ask)
        since = _text(answer.get("uptime", {}).get("since", ""))
        try:
            # The daemon's own words, in local time.
            return Start(process, time.mktime(time.strptime(since, "%b %d %H:%M:%S %Y")))
        except ValueError:
            raise DaemonError(f"strongSwan's start time is not understood: {since[:40]!r}") from None

    async def plugins(self) -> frozenset[str]:
        """Those that are loaded."""
        answer = await self._ask(lambda session: session.stats())
        return frozenset(_text(name) for name in answer.get("plugins", ()))

    async def connections(self) -> Mapping[str, Connection]:
        """Those that are loaded, by name."""
        found = {}
        for item in await self._ask(lambda session: list(session.list_conns())):
            for name, connection in item.items():
                found[name] = Connection(name, frozenset(connection.get("children", {})))
        return found

    async def ike_sas(self, unique_id: int | None = None) -> list[IkeSa]:
        """All that it has, PASSIVE ones too; or the one of that ID, where it is there."""
        selection = {"noblock": "no"} | ({} if unique_id is None else {"ike-id": str(unique_id)})
        listed = await self._ask(lambda session: list(session.list_sas(selection)))
        return [_ike_sa(name, sa) for item in listed for name, sa in item.items()]

    async def rekey(self, **selection: str) -> None:
        """``ike`` or ``child`` by name, ``ike_id`` or ``child_id`` by unique ID."""
        await self._ask(lambda session: session.rekey(_keys(selection)))

    async def terminate(self, **selection: str) -> None:
        """As :meth:`rekey`; the peer is told."""
        await self._ask(lambda session: list(session.terminate(_keys(selection))))

    def close(self) -> None:
        """Give the socket back."""
        with self._lock:
            self._drop()

    async def _ask(self, ask: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(self._ask_now, ask)

    def _ask_now(self, ask: Callable[[Any], T]) -> T:
        with self._lock:
            kept = self._session is not None
            try:
                return self._try(ask)
            except (OSError, self._vici.exception.SessionException) as error:
                self._drop()
                if not kept:
                    raise self._failed(error) from error
            except self._vici.exception.CommandException as error:
                raise DaemonError(f"strongSwan says: {error}") from error
            try:  # the daemon was started anew since the last question
                return self._try(ask)
            except (OSError, self._vici.exception.SessionException) as error:
                self._drop()
                raise self._failed(error) from error

    def _try(self, ask: Callable[[Any], T]) -> T:
        if self._session is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(TIMEOUT)
            try:
                connection.connect(str(self.path))
            except OSError:
                connection.close()
                raise
            self._session = self._vici.Session(connection)
        return ask(self._session)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.transport.socket.close()
            self._session = None

    def _failed(self, error: Exception) -> DaemonError:
        reason = getattr(error, "strerror", None) or error
        return DaemonError(f"strongSwan does not answer at {self.path}: {reason}; is charon running, with plugin vici?")


def ha_version(version: str) -> int:
    """The version of ``ha`` messages that a strongSwan speaks.  Raises :class:`DaemonError`."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None or (numbers := tuple(map(int, found.groups()))) < (5, 9, 0):
        raise DaemonError(f"the ha messages of strongSwan {version} are not known: 5.9.0 or later is needed")
    return 3 if numbers < (6, 0, 1) else 4 if numbers == (6, 0, 1) else 5


def _keys(selection: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in selection.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(values: Mapping[str, Any], name: str) -> int | None:
    return int(_text(values[name])) if name in values else None


def _host(values: Mapping[str, Any], side: str) -> HostAddress:
    text = _text(values[f"{side}-host"])
    # So it is of an IKE_SA that the daemon was told of by IKE_ADD alone, until the IKE_UPDATE.
    address: IPAddress = UNSPECIFIED if text.startswith("%any") else ip_address(text)
    return HostAddress(address, _number(values, f"{side}-port") or 0)


def _ike_sa(name: str, values: Mapping[str, Any]) -> IkeSa:
    tasks: Iterable[Any] = (
        task for kind in ("queued", "active", "passive") for task in values.get(f"tasks-{kind}", ())
    )
    children: Sequence[Mapping[str, Any]] = tuple(values.get("child-sas", {}).values())
    return IkeSa(
        name,
        _number(values, "uniqueid") or 0,
        _text(values["state"]),
        IkeSpis(int(_text(values["initiator-spi"]), 16), int(_text(values["responder-spi"]), 16)),
        _host(values, "local"),
        _host(values, "remote"),
        _number(values, "rekey-time"),
        _number(values, "established") or 0,
        tuple(map(_text, tasks)),
        tuple(
            ChildSa(
                _text(child["name"]),
                _number(child, "uniqueid") or 0,
                _text(child["state"]),
                int(_text(child.get("spi-in", "0")), 16),
                int(_text(child.get("spi-out", "0")), 16),
                _number(child, "rekey-time"),
            )
            for child in children
        ),
    )
