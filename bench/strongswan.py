"""strongSwan gateways: what its own ``ha`` resync brings to a second daemon, ours, and plain re-establishment.

Real charon processes with the kernel's ESP, in the tests' own kernel (``script/kernel``): one processor for all of
them, each system call many times as dear as elsewhere.  The ratios count.  Clients are one daemon with an address and
a connection for each session; the gateways have one connection for all of them.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .harness import Report
from .strongswan_lab import Lab, establish, ike_sas, processor_seconds, total
from .strongswan_ours import contexts_alone, ours

COUNTS = (100, 300, 1000)
AT_ONCE = 4
ALONE = 30
QUIET = 6.0
"""Seconds without a change after which nothing more is waited for; a daemon's first retransmission comes after 4."""

FEW = 20
"""So many sessions are for seeing that it runs: nothing is lost there, and nothing waited for long."""

LONGEST = 240.0
"""Seconds that a resync and the rekeyings after it may take."""

_HA_PORT = 4510
_STATUS = 10
_SOL_PACKET, _PACKET_STATISTICS, _SO_ATTACH_FILTER = 263, 6, 26
_NATIVE = """
charon {{
    plugins {{
        ha {{
            local = {local}
            remote = {remote}
            fifo_interface = no
        }}
    }}
}}
"""


# --- (a) strongSwan's own resync ----------------------------------------------------------------------------------


@contextmanager
def counted(lab: Lab, name: str) -> Iterator[Callable[[], int]]:
    """How many ``ha`` messages but heartbeats pass the namespace's eth0: the kernel counts them, nobody reads them."""
    program = [
        (0x28, 0, 0, 12), (0x15, 0, 7, 0x0800),  # IPv4
        (0x30, 0, 0, 23), (0x15, 0, 5, 17),  # UDP
        (0x28, 0, 0, 36), (0x15, 0, 3, _HA_PORT),  # to the plugin's port
        (0x30, 0, 0, 43), (0x15, 1, 0, _STATUS),  # the second octet of the message
        (0x06, 0, 0, 1), (0x06, 0, 0, 0),
    ]  # fmt: skip
    octets = b"".join(struct.pack("HBBI", *line) for line in program)
    with lab.network.inside(name):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    import ctypes

    buffer = ctypes.create_string_buffer(octets)
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))
    packets.bind(("eth0", 3))
    seen = 0

    def count() -> int:
        nonlocal seen
        seen += struct.unpack("II", packets.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[0]
        return seen

    with packets:
        yield count


def thrown_away(lab: Lab, name: str) -> int:
    """Datagrams that came to the plugin's socket and found its buffer full."""
    with lab.network.inside(name):
        lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines if line.split()[1].endswith(f":{_HA_PORT:04X}"))


def native(lab: Lab) -> dict[str, Any]:
    """A has all sessions, B comes up and asks for them, with the plugin's own settings."""
    ends = {name: str(lab.network.ipv4(name)) for name in ("a", "b")}
    a = lab.daemon("a", _NATIVE.format(local=ends["a"], remote=ends["b"]))
    client = lab.daemon("client")
    establish(client, list(range(lab.count)), AT_ONCE)
    before = lab.child_sas("a")
    with counted(lab, "a") as sent:
        b = lab.daemon("b", _NATIVE.format(local=ends["b"], remote=ends["a"]), standby=True)
        a.wait_for("resyncing HA segment 1", seconds=30)
        began = changed = time.perf_counter()
        last, quiet = (0, 0), QUIET if lab.count > FEW else QUIET / 4
        while (now := time.perf_counter()) - changed < quiet and now - began < LONGEST:
            if (have := (total(b), len(lab.child_sas("b")))) != last:
                changed, last = now, have
            time.sleep(0.2)
        messages, lost = sent(), thrown_away(lab, "b")
    # When what happened, by the daemons' own logs: looking takes longer here than what is looked for.
    asked = _moments(a, "resyncing HA segment 1")[0]
    ike, child = (_moments(b, f"installed HA {what}_SA") for what in ("passive IKE", "CHILD"))
    found = {
        "ike_sas": ike_sas(b), "ike_seconds": max(ike, default=asked) - asked,
        "child_sas_then": sum(moment <= max(ike, default=asked) for moment in child),
        "seconds": max([*ike, *child], default=asked) - asked, "child_sas": last[1],
        "rekeyed": len(before - lab.child_sas("a")), "messages": messages, "lost": lost,
    }  # fmt: skip
    lab.end("client", "a", "b")
    return found


def _moments(daemon: Any, what: str) -> list[float]:
    """Seconds of the day at which it logged it."""
    stamps = re.findall(rf"^(\d+):(\d+):(\d+\.\d+) .*{what}", daemon.log(), re.MULTILINE)
    return [int(hours) * 3600 + int(minutes) * 60 + float(seconds) for hours, minutes, seconds in stamps]


# --- (c) plain re-establishment -----------------------------------------------------------------------------------


def plain(lab: Lab) -> dict[str, Any]:
    """The gateway is new and knows nobody; each client comes again with IKE_SA_INIT and IKE_AUTH."""
    gateway, client = lab.daemon("a"), lab.daemon("client")
    alone = establish(client, list(range(min(ALONE, lab.count))), 1)
    rest = list(range(len(alone), lab.count))
    spent, began = processor_seconds(gateway), time.perf_counter()
    establish(client, rest, AT_ONCE)
    seconds = time.perf_counter() - began
    spent = processor_seconds(gateway) - spent
    if len(lab.child_sas("a")) != lab.count:
        raise SystemExit("not all CHILD_SAs are there")
    lab.end("client", "a")
    each = max(1, len(rest))
    return {"alone": alone, "each": seconds / each, "processor_each": spent / each}


# --- the tables ---------------------------------------------------------------------------------------------------

PHASES: dict[str, Callable[[Lab], dict[str, Any]]] = {
    "native": native, "ours": ours, "alone": contexts_alone, "plain": plain
}  # fmt: skip
"""What is measured of the same sessions, in this order."""


def measure(count: int) -> dict[str, Any]:
    """Inside the kernel."""
    lab = Lab(count)
    try:
        return {"count": count, **{name: phase(lab) for name, phase in PHASES.items()}}
    finally:
        lab.close()


def strongswan(counts: tuple[int, ...]) -> Report:
    """A kernel for each number of sessions."""
    report = Report("strongSwan gateways: its own resync to another daemon, ours, plain re-establishment (kernel ESP)")
    for count in counts:
        told = _in_a_kernel(count)
        report.rows += _rows(told)
        report.notes += [f"{count} sessions", *(f"  {line}" for line in _notes(told))]
    return report


def _in_a_kernel(count: int) -> dict[str, Any]:
    root = Path(__file__).parents[1]
    program = [sys.executable, "-m", "bench.strongswan", str(count)]
    command = [root / "script" / "kernel", "--memory", "1024", "--timeout", "1800", *program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise SystemExit(f"the kernel's part failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{"count"') :].splitlines()[0])
    return found


def _rows(told: dict[str, Any]) -> list[tuple[str, float, float, float, float | None]]:
    count, own, anew, moved, alone = (told[name] for name in ("count", "native", "plain", "ours", "alone"))
    rows: list[tuple[str, float, float, float, float | None]] = []

    def add(name: str, seconds: list[float], floor: float | None) -> None:
        median = statistics.median(seconds)
        ratio = None if floor is None else median / floor
        rows.append((f"{count}, {name}", median * 1e6, min(seconds) * 1e6, max(seconds) * 1e6, ratio))

    add("(c) one at a time", anew["alone"], None)
    add("(b) one at a time: at neither gateway", moved["gaps"], statistics.median(anew["alone"]))
    add(f"(c) {AT_ONCE} at once, each", [anew["each"]], None)
    add(f"(b) {moved['at_once']} at once, each", [moved["seconds"] / count], anew["each"])
    add(f"(d) {moved['at_once']} at once, each", [alone["seconds"] / count], anew["each"])
    add("(a) each that has its CHILD_SA", [own["seconds"] / max(1, own["child_sas"])], anew["each"])
    return rows


def _notes(told: dict[str, Any]) -> list[str]:
    count, own, anew, moved, alone = (told[name] for name in ("count", "native", "plain", "ours", "alone"))
    whole = own["ike_sas"].get("PASSIVE", 0)
    states = ", ".join(f"{number} {state}" for state, number in sorted(own["ike_sas"].items())) or "none"
    return [
        f"(a) ha resync: {whole} of {count} IKE_SAs arrive whole ({whole / count:.0%}; {states}), the last after "
        f"{own['ike_seconds']:.2f} s; {own['lost']} of {own['messages']} messages lost",
        f"(a) CHILD_SAs at B: {own['child_sas_then']} at that moment, {own['child_sas']} after {own['seconds']:.1f} s, "
        f"when A had rekeyed {own['rekeyed']} of {count} with their clients",
        f"(b) ours: {moved['ike_sas']} of {count} IKE_SAs and {moved['child_sas']} CHILD_SAs at B, none rekeyed, "
        f"{moved['exact']} of {count} with exact sequence numbers",
        f"(b) {moved['answers']} of {count} clients answered there; "
        f"{moved['seconds']:.1f} s, {moved['at_once']} at once; "
        f"all learned {moved['learned']:.1f} s after the last was established",
        f"(d) contexts alone, from store to store, confirmed and on disk: {alone['owned']} of {count}; "
        f"{alone['seconds']:.2f} s, {moved['at_once']} at once",
        f"(c) IKE_SA_INIT and IKE_AUTH: {anew['each'] * count:.1f} s, {AT_ONCE} at once "
        f"(gateway's processor {anew['processor_each'] * 1e3:.1f} ms each)",
        f"(a) to (c): {own['seconds'] / (anew['each'] * count):.2f} times the time, {own['child_sas'] / count:.0%} of "
        f"the CHILD_SAs; (b) to (c): {moved['seconds'] / (anew['each'] * count):.2f} times the time, all of them",
    ]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
