"""``cxtp demo``: recorded IPsec sessions move between two nodes, and the new one proves that it holds them.

Two nodes run as two processes on two loopback addresses.  Node A takes the contexts out of what strongSwan's
``ha`` plugin exported; they move to node B over the network; B, with what it received and nothing else, opens
every IKEv2 SK payload and ESP packet of the recording that the moved SAs protect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .constants import PORT
from .control import CommandFailed, ControlClient
from .errors import ConfigurationError, TransportError
from .pki import create_authority, create_node_certificate

NODES = ("node-a", "node-b")

MAX_TRANSFER_TIME = 10.0
"""Seconds: a demo on a busy machine is no hand-over of a mobile node, which has 200 ms."""

NETWORKS_TRIED = 100
"""Networks of 127/8 that are drawn: one that is free comes at once, unless somebody listens on all addresses."""


@dataclass(frozen=True)
class SessionResult:
    """One moved session.  Milliseconds: from the move command to the confirmation, on node A's clock."""

    trace: str
    suite: str
    contexts: int
    octets: int
    milliseconds: float
    ike_seen: int
    ike_opened: int
    esp_seen: int
    esp_opened: int
    ah_seen: int
    ah_opened: int
    keys_match: bool | None
    failures: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """All that was seen was opened, something was, and no key differs."""
        opened = (self.ike_opened, self.esp_opened, self.ah_opened)
        return opened == (self.ike_seen, self.esp_seen, self.ah_seen) and any(opened) and self.keys_match is not False


@dataclass(frozen=True)
class TraceResult:
    """A trace's sessions; ``problem`` says why there are none; ``withheld`` which SAs of the export did not move."""

    trace: str
    sessions: tuple[SessionResult, ...] = ()
    problem: str = ""
    reports: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Every session moved and was proved."""
        return not self.problem and bool(self.sessions) and all(session.ok for session in self.sessions)


def exports(trace: Path) -> list[Path]:
    """The ``ha`` captures of a trace: ``ha.pcap``, or one per gateway where several were recorded."""
    single = trace / "ha.pcap"
    return [single] if single.exists() else sorted(trace.glob("ha-*.pcap"))


def committed_traces() -> list[Path]:
    """The recordings that the project ships: beside the package, or below the working directory.

    Raises ConfigurationError where neither has them.
    """
    for root in (Path(__file__).parent.parent, Path.cwd()):
        found = (root / "pcaps" / "strongswan").glob("*")
        traces = sorted(path for path in found if exports(path) and (path / "outer.pcap").exists())
        if traces:
            return traces
    raise ConfigurationError("no recordings here (they are in the project's pcaps/): name one with --trace DIR")


def check_trace(trace: Path) -> Path:
    """Raises ConfigurationError for a directory without the files that the demo needs."""
    if not exports(trace) or not (trace / "outer.pcap").exists():
        raise ConfigurationError(f"{trace} should hold ha.pcap and outer.pcap")
    return trace


async def run_demo(
    traces: Sequence[Path],
    *,
    transport: str,
    key_case: int,
    capture: Path | None,
    progress: Callable[[str], None],
) -> list[TraceResult]:
    """Move every trace's sessions and prove them.  Raises CxtpError where the nodes could not be run."""
    with tempfile.TemporaryDirectory(prefix="cxtp-demo-") as directory:
        async with two_nodes(Path(directory), transport, capture) as (node_a, node_b):
            results = []
            for trace in traces:
                progress(trace.name)
                results.append(await _run_trace(trace, node_a, node_b, key_case))
            return results


async def _run_trace(trace: Path, node_a: ControlClient, node_b: ControlClient, key_case: int) -> TraceResult:
    captures = [str(path.absolute()) for path in exports(trace)]
    try:
        loaded = await node_a.ask("load-ha", captures=captures, keep_deleted=True, key_case=key_case)
        sessions = []
        for row in loaded["sessions"]:
            moved = await node_a.ask("move", mn_address=row["mn_address"], to=NODES[1])
            sessions.append(await _prove(trace, node_b, row["mn_address"], moved))
            await node_b.ask("forget", mn_address=row["mn_address"])
    except CommandFailed as error:
        return TraceResult(trace.name, problem=str(error))
    problem = "" if sessions else "the export holds no established session"
    return TraceResult(trace.name, tuple(sessions), problem, tuple(loaded["reports"]), tuple(loaded["withheld"]))


async def _prove(trace: Path, node: ControlClient, mn_address: str, moved: dict[str, Any]) -> SessionResult:
    keys = trace / "keys.json"
    proof = await node.ask(
        "prove",
        mn_address=mn_address,
        capture=str((trace / "outer.pcap").absolute()),
        keys=str(keys.absolute()) if keys.exists() else None,
    )
    seen, opened = proof["seen"], proof["opened"]
    return SessionResult(
        trace=trace.name,
        suite=proof["suite"],
        contexts=proof["contexts"],
        octets=moved["octets"],
        milliseconds=round(moved["milliseconds"], 3),
        ike_seen=seen.get("ike", 0),
        ike_opened=opened.get("ike", 0),
        esp_seen=seen.get("esp", 0),
        esp_opened=opened.get("esp", 0),
        ah_seen=seen.get("ah", 0),
        ah_opened=opened.get("ah", 0),
        keys_match=proof["keys_match"],
        failures=tuple(proof["failures"]),
    )


# --- two nodes as processes -----------------------------------------------------------------------------------------


def _loopback_pair() -> tuple[str, str]:
    """Two addresses of 127/8, so that both nodes have CXTP's own port and demos can run beside each other."""
    for _ in range(NETWORKS_TRIED):
        subnet = f"127.{1 + secrets.randbelow(254)}.{1 + secrets.randbelow(254)}"
        if _is_free(f"{subnet}.2") and _is_free(f"{subnet}.3"):
            return f"{subnet}.2", f"{subnet}.3"
    raise ConfigurationError(
        f"port {PORT} is taken on all of 127/8: stop the node that listens on all addresses, or give it one of its own"
    )


def _is_free(address: str) -> bool:
    """Whether nobody has CXTP's port there."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((address, PORT))
            except OSError:
                return False
    return True


@contextlib.asynccontextmanager
async def two_nodes(
    directory: Path, transport: str, capture: Path | None = None
) -> AsyncIterator[tuple[ControlClient, ControlClient]]:
    """Start node A and node B; gives a connection to each one's control socket."""
    addresses = dict(zip(NODES, _loopback_pair(), strict=True))
    pki = directory / "pki"
    if transport == "tls":
        now = datetime.now(timezone.utc)
        create_authority(pki, "cxtp demo", 2, now=now)
        for name, address in addresses.items():
            create_node_certificate(pki, name, [address], 1, now=now)
    processes = []
    try:
        for name, address in addresses.items():
            other = next(n for n in NODES if n != name)
            options = [
                *("--name", name, "--listen", address, "--peer", f"{other}={addresses[other]}"),
                *("--state", str(directory / name), "--transport", transport, "--pki", str(pki)),
                *("--max-transfer-time", str(MAX_TRANSFER_TIME)),
            ]
            if capture is not None and name == NODES[0]:
                options += ["--capture-with-keys", str(capture.absolute())]
            processes.append(await _start(options))
        await asyncio.gather(*(_ready(process) for process in processes))
        clients = [ControlClient(directory / name / "control.sock") for name in NODES]
        for client in clients:
            await client.connect()
        yield clients[0], clients[1]
        for client in clients:
            await client.ask("stop")
        await asyncio.wait_for(asyncio.gather(*(process.wait() for process in processes)), 10)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _start(options: Sequence[str]) -> asyncio.subprocess.Process:
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cxtp", "node", "run", *options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


async def _ready(process: asyncio.subprocess.Process) -> None:
    if process.stdout is None or not await asyncio.wait_for(process.stdout.readline(), 60):
        raise TransportError("a node did not start; it says why above")


__all__ = ["NODES", "SessionResult", "TraceResult", "check_trace", "committed_traces", "run_demo", "two_nodes"]
