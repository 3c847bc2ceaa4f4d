"""Transfers between two node processes, the store on, beside bare floors of the same run."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

from cxtp.adapters.context_file import write_context_file
from cxtp.control import ControlClient
from cxtp.demo import NODES, two_nodes
from cxtp.pki import create_authority, create_node_certificate, node_paths
from cxtp.transports.tls import tls_context

from .harness import Report, percentile
from .key_derivation import asymmetric_work
from .samples import clones

AT_ONCE = 64
"""Moves that wait for their confirmation at a time."""

MESSAGE = 840
"""Octets of the CTD of one such session."""


async def move_all(control: Path, addresses: list[str], at_once: int) -> tuple[float, list[float]]:
    """Seconds for all, and each one's latency as its node measured it, in milliseconds."""
    waiting = list(reversed(addresses))
    latencies: list[float] = []

    async def worker() -> None:
        async with ControlClient(control) as client:
            while waiting:
                answer = await client.ask("move", mn_address=waiting.pop(), to=NODES[1])
                latencies.append(float(answer["milliseconds"]))

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - started, latencies


def resident(pid: int) -> int:
    """Resident memory of a process in octets."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS in /proc")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


async def _two_processes(transport: str, count: int, report: Report) -> float:
    """CPU seconds of both nodes per transfer."""
    with tempfile.TemporaryDirectory(prefix="cxtp-bench-") as name:
        directory = Path(name)
        sessions = list(clones(count))
        file = directory / "sessions.ctx"
        write_context_file(file, sessions, plaintext_keys=True)
        addresses = [str(session.mn_address) for session in sessions]
        one_by_one = max(5, count // 20)
        async with two_nodes(directory, transport) as (node_a, node_b):
            pids = [int((await node.ask("status"))["pid"]) for node in (node_a, node_b)]
            await node_a.ask("import", file=str(file))
            control = directory / NODES[0] / "control.sock"
            _, alone = await move_all(control, addresses[:one_by_one], 1)
            cpu = sum(map(_cpu, pids))
            seconds, latencies = await move_all(control, addresses[one_by_one:], AT_ONCE)
            cpu = sum(map(_cpu, pids)) - cpu
            moved = len(latencies)
            commits = (await node_b.ask("status"))["commits"]
    report.notes += [
        f"{transport}: {moved / seconds:.0f} transfers/s, {AT_ONCE} at once; latency of one p50 "
        f"{percentile(latencies, 0.5):.1f} ms, p99 {percentile(latencies, 0.99):.1f} ms; "
        f"CPU of both nodes {cpu / moved * 1000:.2f} ms each",
        f"{transport}: one at a time: p50 {percentile(alone, 0.5):.1f} ms, p99 {percentile(alone, 0.99):.1f} ms; "
        f"{commits} commits at the new router for {count} sessions",
    ]
    floor = await _floor_echo(transport, moved)
    report.notes.append(
        f"{transport}: floor: {floor:.0f} echoes/s of {MESSAGE} octets by two asyncio ends in one process, "
        f"no store, no protocol: {floor / (moved / seconds):.1f} times a transfer's rate"
    )
    return cpu / moved


async def _floor_echo(transport: str, count: int) -> float:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def answered(octets: int) -> None:
        nonlocal left
        left -= octets // 24
        if left <= 0 and not done.done():
            done.set_result(None)

    class Server(asyncio.Protocol, asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.have = transport, 0

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.transport.sendto(data[:24], addr)  # type: ignore[attr-defined]

        def data_received(self, data: bytes) -> None:
            self.have += len(data)
            whole, self.have = divmod(self.have, MESSAGE)
            self.transport.write(bytes(24 * whole))  # type: ignore[attr-defined]

    class Client(asyncio.Protocol, asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.sent = transport, 0
            for _ in range(min(AT_ONCE, count)):
                self.send()

        def send(self) -> None:
            if self.sent < count:
                self.sent += 1
                write = getattr(self.transport, "sendto" if transport == "udp" else "write")
                write(bytes(MESSAGE))

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.data_received(data)

        def data_received(self, data: bytes) -> None:
            answered(len(data))
            for _ in range(len(data) // 24):
                self.send()

    started = time.perf_counter()
    if transport == "udp":
        server, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        client, _ = await loop.create_datagram_endpoint(Client, remote_addr=server.get_extra_info("sockname"))
        await done
        client.close()
        server.close()
    else:
        with tempfile.TemporaryDirectory() as name:
            now = datetime.now(timezone.utc)
            create_authority(name, "bench", 1, now=now)
            create_node_certificate(name, "a", [ip_address("127.0.0.1")], 1, now=now)
            files = node_paths(name, "a")
            listener = await loop.create_server(Server, "127.0.0.1", 0, ssl=tls_context(files, server=True))
            port = listener.sockets[0].getsockname()[1]
            started = time.perf_counter()
            stream, _ = await loop.create_connection(
                Client, "127.0.0.1", port, ssl=tls_context(files, server=False), server_hostname="a"
            )
            await done
            stream.close()
            listener.close()
    return count / (time.perf_counter() - started)


def _commit_floor(count: int) -> float:
    """Durable SQLite commits per second of one record of the same size each."""
    with tempfile.TemporaryDirectory(prefix="cxtp-bench-") as name:
        connection = sqlite3.connect(Path(name) / "floor.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, octets BLOB)")
        started = time.perf_counter()
        for number in range(count):
            connection.execute("INSERT INTO records VALUES (?, ?)", (number, bytes(MESSAGE)))
        seconds = time.perf_counter() - started
        connection.close()
    return count / seconds


def transfers(count: int) -> Report:
    """``count`` sessions each over UDP and TLS."""
    report = Report(f"Transfers: {count} sessions between two processes, stores on, each confirmed")
    cpu = {transport: asyncio.run(_two_processes(transport, count, report)) for transport in ("udp", "tls")}
    commits = _commit_floor(min(count, 500))
    report.notes.append(
        f"floor: {commits:.0f} durable SQLite commits/s of one such record; a transfer needs three records on disk"
    )
    anew = {name: 2 * cost for name, cost in asymmetric_work(0.2).items()}
    for transport, seconds in cpu.items():
        ratios = ", ".join(f"{seconds / cost:.1f} ({name}: {cost * 1000:.2f} ms)" for name, cost in anew.items())
        report.notes.append(
            f"{transport}: CPU of one transfer to the asymmetric work of negotiating anew, both ends: {ratios}"
        )
    return report
