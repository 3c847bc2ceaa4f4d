"""The ``cxtp`` command for real: a small cluster of two processes, files, exit codes."""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import loopback
import pytest

from cxtp.cli import COMMANDS

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
CXTP = (sys.executable, "-m", "cxtp")


def cxtp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CXTP, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_a_cluster_as_the_readme_shows_it(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    subnet = loopback.subnet()
    addresses = {"alpha": f"{subnet}.2", "beta": f"{subnet}.3"}
    assert cxtp("pki", "init", pki).returncode == 0
    for name, address in addresses.items():
        assert cxtp("pki", "node", pki, name, "--address", address).returncode == 0
    assert cxtp("pki", "init", pki).returncode == 2  # there is one
    shown = json.loads(cxtp("pki", "show", pki, "--json").stdout)
    assert [row["name"] for row in shown[1:]] == ["alpha", "beta"]

    processes = []
    control = {name: tmp_path / name / "control.sock" for name in addresses}
    try:
        for name, other in (("alpha", "beta"), ("beta", "alpha")):
            options = ["--name", name, "--listen", addresses[name], "--peer", f"{other}={addresses[other]}"]
            options += ["--state", str(tmp_path / name), "--pki", str(pki), "--max-transfer-time", "5"]
            process = subprocess.Popen([*CXTP, "node", "run", *options], stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None
            assert "listens" in process.stdout.readline()
        trace = TRACES / "v5-plain"
        loaded = cxtp("node", "load-ha", trace / "ha.pcap", "--keep-deleted", "--control", control["alpha"])
        assert loaded.returncode == 0, loaded.stderr
        assert "192.0.2.100" in loaded.stdout

        moved = cxtp("node", "move", "--all", "--to", "beta", "--json", "--control", control["alpha"])
        assert moved.returncode == 0, moved.stderr
        assert json.loads(moved.stdout)["ok"] is True
        again = cxtp("node", "move", "192.0.2.100", "--to", "beta", "--control", control["alpha"])
        assert again.returncode == 1
        assert "beta" in again.stdout

        rows = json.loads(cxtp("node", "sessions", "--json", "--control", control["beta"]).stdout)["sessions"]
        assert [(row["mn_address"], row["state"], row["contexts"]) for row in rows] == [("192.0.2.100", "owned", 2)]
        proved = cxtp("node", "prove", "192.0.2.100", trace / "outer.pcap", "--control", control["beta"])
        assert proved.returncode == 0, proved.stdout
        status = json.loads(cxtp("node", "status", "--json", "--control", control["beta"]).stdout)
        assert status["counters"]["transport.received"] == 1

        sealed = tmp_path / "session.ctx"
        key_file = tmp_path / "file.key"
        key_file.write_bytes(secrets.token_bytes(32))
        key_file.chmod(0o600)
        exported = cxtp("context", "export", "--control", control["beta"], "-o", sealed, "--key-file", key_file)
        assert exported.returncode == 0, exported.stderr
        assert cxtp("context", "validate", sealed, "--key-file", key_file).returncode == 0
        assert "192.0.2.100" in cxtp("context", "show", sealed, "--key-file", key_file).stdout
        assert cxtp("node", "forget", "192.0.2.100", "--control", control["beta"]).returncode == 0
        imported = cxtp("context", "import", sealed, "--key-file", key_file, "--control", control["alpha"])
        assert imported.returncode == 0, imported.stderr
        for name in addresses:
            assert cxtp("node", "stop", "--control", control[name]).returncode == 0
        assert [process.wait(20) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_contexts_of_a_capture_go_into_a_sealed_file(tmp_path: Path) -> None:
    ha, out = TRACES / "rekey-ike-child" / "ha.pcap", tmp_path / "session.ctx"
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    exported = cxtp(
        "context", "export", "--ha", ha, "--keep-deleted", "--key-case", "3", "-o", out, "--passphrase-file", passphrase
    )
    assert exported.returncode == 0, exported.stderr
    keys = json.loads((TRACES / "rekey-ike-child" / "keys.json").read_text())
    sk_d = keys["ike_sas"][0]["sk_d"]
    assert sk_d not in out.read_text()
    hidden = cxtp("context", "show", out, "--json", "--passphrase-file", passphrase)
    shown = cxtp("context", "show", out, "--json", "--show-keys", "--passphrase-file", passphrase)
    assert sk_d not in hidden.stdout
    assert sk_d in shown.stdout
    assert cxtp("context", "show", out).returncode == 2  # sealed, and nobody to ask
    damaged = tmp_path / "damaged.ctx"
    damaged.write_text('{"cxtp_context_file": 1, "sessions": [{"mn_address": "nowhere", "contexts": []}]}')
    assert cxtp("context", "validate", damaged).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
        (["no-such-command"], 2),
        (["dissect", "/nonexistent.pcap"], 2),
        (["node", "status", "--control", "/nonexistent.sock"], 3),
        (["node", "run", "--name", "x", "--listen", "nowhere", "--state", "/nonexistent/x"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    result = cxtp(*arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


def test_each_command_is_in_the_module_that_the_table_names() -> None:
    for module in dict.fromkeys(COMMANDS.values()):
        subparsers = argparse.ArgumentParser().add_subparsers()
        import_module(f"cxtp.commands.{module}").add(subparsers)
        assert list(subparsers.choices) == [command for command, where in COMMANDS.items() if where == module]


def test_a_question_to_a_running_node_waits_for_no_library_that_it_does_not_need() -> None:
    program = "import sys; from cxtp.cli import parser; parser('move'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cxtp.commands.sessions" in loaded
    assert not loaded & {"scapy", "cxtp.service", "cxtp.conformance", "sqlite3"}
