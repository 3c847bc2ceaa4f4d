"""The hook for keepalived, with real keepaliveds: the address is where the sessions are."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from node_helpers import MN, owned, recorded_contexts

from cxtp.hooks import Hooks
from kernel.network import Network

HOOK = Path(__file__).parents[2] / "examples" / "hooks" / "keepalived_weight.sh"
ADDRESS = "10.9.0.150"
CONFIGURATION = """
global_defs {{
    vrrp_version 3
    enable_script_security
}}
vrrp_track_file sessions {{
    file "{file}"
    init_file 0
}}
vrrp_instance gateway {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.2
    virtual_ipaddress {{
        10.9.0.150/24
    }}
    track_file {{
        sessions weight 1
    }}
}}
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b")
    yield made
    made.close()


def test_the_address_is_where_the_sessions_are(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("keepalived") is None and not os.environ.get("CI"):
        pytest.skip("needs keepalived (Debian package keepalived)")
    daemons: list[subprocess.Popen[str]] = []
    for name, priority in (("a", 100), ("b", 110)):
        file = tmp_path / f"weight-{name}"
        configuration = tmp_path / f"{name}.conf"
        configuration.write_text(CONFIGURATION.format(file=file, priority=priority))
        pids = ["-p", str(tmp_path / f"{name}.pid"), "-r", str(tmp_path / f"{name}-vrrp.pid")]
        log = (tmp_path / f"{name}.log").open("w")
        daemons.append(
            network.start(
                name, "keepalived", "-n", "-l", "-P", "-f", str(configuration), *pids, stdout=log, stderr=log
            )
        )
    hooks = Hooks("node", HOOK, HOOK)

    def tell(name: str, event: str, number: int = 0) -> None:
        monkeypatch.setenv("CXTP_KEEPALIVED", str(tmp_path / f"weight-{name}"))
        record = replace(owned(MN, recorded_contexts()), mn_address=MN + number)
        asyncio.run(hooks.activated(record) if event == "activated" else hooks.released(record))

    def wait(name: str) -> None:
        other = "b" if name == "a" else "a"
        end = time.monotonic() + 60
        while not (has(name) and not has(other)):
            logs = "".join((tmp_path / f"{log}.log").read_text() for log in "ab")
            assert time.monotonic() < end, f"{name} has not got the address: {logs}"
            time.sleep(0.1)

    def has(name: str) -> bool:
        return f" {ADDRESS}/" in network.run(name, "ip", "addr", "show", "dev", "eth0")

    try:
        wait("b")  # without sessions the priorities decide
        tell("a", "activated")
        tell("a", "activated", 1)
        wait("a")
        tell("a", "released")
        time.sleep(1)
        assert has("a")  # it has one left
        tell("b", "activated")
        tell("a", "released", 1)
        wait("b")
        assert (tmp_path / "weight-a").read_text() == "0\n"
        assert (tmp_path / "weight-b").read_text() == "100\n"
    finally:
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
