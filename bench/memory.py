"""What a node's process holds per session: after a restart, and after sessions have come over the network.

The growth of a process that has just read a context file says little: most of it is what reading JSON took and the
allocator kept.  So the sessions are loaded, the nodes are stopped, and both are started again on their stores: one
holds them all, the other none, and they differ in nothing else.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from cxtp.adapters.context_file import write_context_file
from cxtp.control import ControlClient
from cxtp.demo import NODES, two_nodes

from .harness import Report
from .samples import clones
from .transfers import AT_ONCE, move_all, resident


async def _resident(node: ControlClient) -> int:
    return resident(int((await node.ask("status"))["pid"]))


async def _measure(count: int, report: Report) -> None:
    sessions = list(clones(count))
    octets = sum(len(context.data) for session in sessions for context in session.encoded()) / count
    addresses = [str(session.mn_address) for session in sessions]
    with tempfile.TemporaryDirectory(prefix="cxtp-bench-") as name:
        directory = Path(name)
        file = directory / "sessions.ctx"
        write_context_file(file, sessions, plaintext_keys=True)
        async with two_nodes(directory, "udp") as (node_a, _):
            await node_a.ask("import", file=str(file))
        async with two_nodes(directory, "udp") as (node_a, node_b):
            full, empty = await _resident(node_a), await _resident(node_b)
            await move_all(directory / NODES[0] / "control.sock", addresses, AT_ONCE)
            received, left = await _resident(node_b), await _resident(node_a)
        stored = sum(path.stat().st_size for path in (directory / NODES[1]).glob("sessions.db*"))
    for what, grown in (
        ("held after a restart", full - empty),
        ("received by transfers (buffers and caches of the work included)", received - empty),
        ("given away again (tombstones; what the work left behind)", left - full),
    ):
        each = grown / count
        report.notes.append(f"{what}: {each:.0f} octets a session, ratio {each / octets:.1f} to floor")
    report.notes += [
        f"floor: {octets:.0f} octets of contexts a session; they rest in the store: {stored / count:.0f} octets of "
        f"disk each; a node without sessions has {empty / 2**20:.1f} MiB",
    ]


def memory(count: int) -> Report:
    """Resident memory of node processes, by session."""
    report = Report(f"Memory: resident, of a node with {count} sessions")
    asyncio.run(_measure(count, report))
    return report
