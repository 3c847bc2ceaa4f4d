"""Sessions between two kernels' gateways, beside the floor: ``ip -batch`` putting the same SAs and policies in.

It runs in the tests' own kernel (``script/kernel``), where each system call costs many times what it costs elsewhere:
the ratios count.  Both gateways are in one process, so that their clocks are one.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cxtp.config import Limits, ProtocolConfig, Timers
from cxtp.control import ControlClient
from cxtp.service import GatewayConfig, Service, ServiceConfig
from cxtp.transports.endpoint import Router

from .harness import Report, percentile

SHARED = IPv4Address("10.9.0.100")
GATEWAYS = {"a": IPv4Address("10.9.0.1"), "b": IPv4Address("10.9.0.2")}
AT_ONCE = 32
PATIENT = ProtocolConfig(Timers(max_transfer_time=30.0, max_handover_time=60.0, data_retry=10.0), replace(Limits()))
"""UDP's repetitions would be measured too: nothing is lost here."""


def lines(count: int) -> list[str]:
    """iproute2's commands for so many sessions: two SAs and three policies each."""
    made = []
    for number in range(count):
        peer, key = IPv4Address("10.64.0.0") + number, f"0x{number + 1:072x} 128"
        inner, ours = f"{IPv4Address('10.128.0.0') + number}/32", "10.100.0.0/16"
        out, back = f"src {SHARED} dst {peer}", f"src {peer} dst {SHARED}"
        tail = f"mode tunnel reqid {number + 1}"
        suite = f"{tail} replay-window 32 aead rfc4106(gcm(aes)) {key}"
        made += [
            f"xfrm state add {back} proto esp spi {0x1000 + number:#x} {suite}",
            f"xfrm state add {out} proto esp spi {0x800000 + number:#x} {suite}",
            f"xfrm policy add src {ours} dst {inner} dir out tmpl {out} proto esp {tail}",
            f"xfrm policy add src {inner} dst {ours} dir in tmpl {back} proto esp {tail}",
            f"xfrm policy add src {inner} dst {ours} dir fwd tmpl {back} proto esp {tail}",
        ]  # fmt: skip
    return made


def batch(namespace: str, commands: list[str]) -> float:
    """Seconds of one ``ip -batch``."""
    started = time.perf_counter()
    text = "\n".join(commands) + "\n"
    program = ["ip", "-n", namespace, "-batch", "-"]
    done = subprocess.run(program, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


class Gap:
    """From the moment when a session's policies close at one kernel to the one when they are open at the other."""

    def __init__(self) -> None:
        self.closed: dict[Any, float] = {}
        self.milliseconds: list[float] = []

    def watch(self, service: Service) -> None:
        sink: Any = service.gateway.sinks[0]
        install, remove = sink.install, sink.remove

        async def installed(record: Any, ceiling: Any) -> None:
            await install(record, ceiling)
            if record.mn_address in self.closed:
                self.milliseconds.append((time.perf_counter() - self.closed.pop(record.mn_address)) * 1000)

        async def removed(record: Any) -> Any:
            self.closed[record.mn_address] = time.perf_counter()
            return await remove(record)

        sink.install, sink.remove = installed, removed


async def measure(count: int, inside: Callable[[str], Any]) -> dict[str, Any]:
    """Move all, then some one by one."""
    commands = lines(count)
    floor = statistics.median([_floor(commands) for _ in range(3)])
    gap = Gap()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        batch("a", commands)
        tasks = []
        for name, address in GATEWAYS.items():
            others = tuple(Router(other, where) for other, where in GATEWAYS.items() if other != name)
            state = directory / name
            config = ServiceConfig(
                name, (address, 5091), others, state, state / "control.sock", "udp", protocol=PATIENT,
                allow_cleartext_keys_on_the_network=True, kernel=True, gateway=GatewayConfig(namespace=name),
            )  # fmt: skip
            with inside(name):
                service = Service(config)
                gap.watch(service)
                ready = asyncio.Event()
                tasks.append(asyncio.create_task(service.run(ready.set)))
                await ready.wait()
        waiting = [str(IPv4Address("10.64.0.0") + number) for number in range(count)]

        async def move(source: str, target: str, addresses: list[str], at_once: int) -> float:
            started = time.perf_counter()

            async def worker() -> None:
                async with ControlClient(directory / source / "control.sock") as client:
                    while addresses:
                        await client.ask("move", mn_address=addresses.pop(), to=target)

            await asyncio.gather(*(worker() for _ in range(at_once)))
            return time.perf_counter() - started

        seconds = await move("a", "b", list(waiting), AT_ONCE)
        together, gap.milliseconds = gap.milliseconds, []
        await move("b", "a", waiting[:50], 1)
        alone = gap.milliseconds
        for name in GATEWAYS:
            async with ControlClient(directory / name / "control.sock") as client:
                await client.ask("stop")
        await asyncio.gather(*tasks)
    return {"count": count, "floor": floor, "seconds": seconds, "together": together, "alone": alone}


def _floor(commands: list[str]) -> float:
    seconds = batch("b", commands)
    batch("b", ["xfrm state flush", "xfrm policy flush"])
    return seconds


def gateways(count: int) -> Report:
    """Start the kernel, and read what it measured."""
    root = Path(__file__).parents[1]
    command = [root / "script" / "kernel", "--timeout", "900", sys.executable, "-m", "bench.gateways", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise SystemExit(f"the kernel's part failed:\n{done.stdout}{done.stderr}")
    told = json.loads(done.stdout[done.stdout.index('{"count"') :].splitlines()[0])
    rate, floor = count / told["seconds"], count / told["floor"]
    report = Report(f"Gateways: {2 * count} SAs ({count} sessions) from one kernel to another, confirmed and on disk")
    report.notes += [
        f"{rate:.0f} moves/s, {AT_ONCE} at once; floor: ip -batch puts {floor:.0f} such sessions/s in: "
        f"{floor / rate:.1f} times that rate",
        f"gap without traffic of a session: median {statistics.median(told['alone']):.1f} ms, "
        f"max {max(told['alone']):.1f} ms, one by one",
        f"gap, {AT_ONCE} at once: median {statistics.median(told['together']):.1f} ms, "
        f"p99 {percentile(told['together'], 0.99):.1f} ms, max {max(told['together']):.1f} ms",
        f"ip -batch of one session: {told['floor'] / count * 1000:.2f} ms, in user mode Linux",
    ]
    return report


def main() -> None:
    """Inside the kernel."""
    from kernel.network import Network

    network = Network(*GATEWAYS)
    try:
        print(json.dumps(asyncio.run(measure(int(sys.argv[1]), network.inside))))
    finally:
        network.close()


if __name__ == "__main__":
    main()
