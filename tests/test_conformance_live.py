"""A node of ours is provoked in every role, over UDP and TLS, and breaks no MUST; the same from the command line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from deviations import DEVIATIONS
from live_nodes import (
    KEY,
    MN,
    MOBILE_TIMERS,
    QUICK,
    SHOWN,
    failed,
    passed,
    patient,
    probe_mobile_node,
    probe_router,
    told,
)
from node_helpers import Lab, lab, recorded_contexts

from cxtp.config import ProtocolConfig
from cxtp.conformance import live, probes
from cxtp.conformance.verdicts import Report, Verdict
from cxtp.constants import PORT
from cxtp.mobile import MobileNodeClient
from cxtp.transports.udp import UdpEndpoint


def check(report: Report, role: str) -> None:
    """No rule is broken; and whatever was put to the test has a deviation that fails it."""
    assert not failed(report), told(report)
    assert passed(report) >= SHOWN[role], SHOWN[role] - passed(report)
    assert passed(report) <= DEVIATIONS.keys(), passed(report) - DEVIATIONS.keys()


@pytest.mark.parametrize("role", ["new-router", "previous-router"])
@pytest.mark.parametrize("transport", ["udp", "tls"])
def test_a_router(transport: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "QUIET_SECONDS", 0.2)  # loopback: nothing takes long
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.15)
    report = asyncio.run(probe_router(role, transport))
    check(report, role)
    if transport == "udp":
        assert {"3.1-backoff", "6.1-strangers"} <= passed(report)


def test_a_mobile_node() -> None:
    check(asyncio.run(probe_mobile_node()), "mobile-node")


# --- the command line ---------------------------------------------------------------------------------------------


async def command(*options: str) -> tuple[int, dict[str, Any]]:
    """``cxtp conform --live`` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cxtp", "conform", "--format", "json", *options, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output)


def verdicts(report: dict[str, Any], verdict: Verdict) -> set[str]:
    return {rule["id"] for rule in report["rules"] if rule["verdict"] == verdict.value}


def options_for(nodes: Lab, directory: Path, role: str, transport: str) -> list[str]:
    keys = directory / "keys"
    keys.write_text(KEY.hex() + "\n")
    keys.chmod(0o600)
    timers = QUICK.timers
    found = [
        "--live", f"a={nodes.routers['a'].address}", "--role", role, "--listen", str(nodes.routers["b"].address),
        "--transport", transport, "--mn", str(MN), "--psk-file", str(keys),
        "--max-transfer-time", str(timers.max_transfer_time), "--max-handover-time", str(timers.max_handover_time),
    ]  # fmt: skip
    if transport == "tls":
        return [*found, "--pki", str(nodes.pki), "--name", "b"]
    return [*found, "--stranger", f"{nodes.subnet}.66"]


@pytest.mark.parametrize(("role", "transport"), [("new-router", "udp"), ("previous-router", "tls")])
def test_a_router_from_the_command_line(tmp_path: Path, role: str, transport: str) -> None:
    async def run() -> tuple[int, dict[str, Any]]:
        async with lab(tmp_path, transport, start=(), protocol=QUICK) as nodes:
            node = await nodes.start("a", mobile_node_keys={MN: KEY}, prepare=patient)
            if role == "previous-router":
                await node.sessions.load(MN, recorded_contexts())
            return await command(*options_for(nodes, tmp_path, role, transport))

    code, report = asyncio.run(run())
    assert (code, report["verdict"]) == (0, "pass"), verdicts(report, Verdict.FAIL)
    assert verdicts(report, Verdict.PASS) >= SHOWN[role]


def test_a_mobile_node_from_the_command_line(tmp_path: Path) -> None:
    async def run() -> tuple[int, dict[str, Any]]:
        async with lab(tmp_path, "udp", start=()) as nodes:
            previous, new, mobile = nodes.routers["a"].address, nodes.routers["b"].address, f"{nodes.subnet}.77"
            options = options_for(nodes, tmp_path, "mobile-node", "udp")[2:-2]
            timers = ["--request-retry", str(MOBILE_TIMERS.request_retry), "--retry-max", str(MOBILE_TIMERS.retry_max)]
            probing = asyncio.ensure_future(command("--live", mobile, *options, *timers))
            client = MobileNodeClient(
                lambda receiver: UdpEndpoint((ip_address(mobile), 0), [], receiver),
                ProtocolConfig(timers=MOBILE_TIMERS),
            )
            await client.start()
            try:
                await asyncio.to_thread(wait_for_listener, str(new))
                assert (await client.activate(MN, previous, new, KEY)).answered
                return await probing
            finally:
                await client.close()

    code, report = asyncio.run(run())
    assert (code, report["verdict"]) == (0, "pass"), verdicts(report, Verdict.FAIL)
    assert verdicts(report, Verdict.PASS) >= SHOWN["mobile-node"]


def wait_for_listener(address: str) -> None:
    """Until somebody has the UDP port.  Who tried to bind it himself might be in the way at the wrong moment."""
    wanted = f"{int.from_bytes(ip_address(address).packed, sys.byteorder):08X}:{PORT:04X}"
    for _ in range(1200):
        if any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()):
            return
        time.sleep(0.05)
    pytest.fail("the prober does not listen")
