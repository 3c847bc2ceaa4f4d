"""``cxtp mobile-node`` against a real node over UDP on loopback, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from node_helpers import MN, Lab, lab, recorded_contexts, until

from cxtp.cli import main
from cxtp.store.records import SessionState

KEY = bytes(range(16))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o600)
    return path


async def command(nodes: Lab, key_file: Path, *options: str) -> tuple[int, str]:
    """In a process of its own, as a mobile node is."""
    a, b = nodes.routers["a"], nodes.routers["b"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cxtp", "mobile-node", "--transport", "udp", "--listen", f"{nodes.subnet}.77",
        "--previous-address", str(MN), "--previous-router", str(a.address), "--new-router", str(b.address),
        "--key-file", str(key_file), *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("predictive", [False, True])
def test_a_session_follows_its_mobile_node(tmp_path: Path, key_file: Path, predictive: bool) -> None:
    async def run() -> None:
        async with lab(tmp_path, "udp", start=[]) as nodes:
            for name in "ab":
                await nodes.start(name, mobile_node_keys={MN: KEY})
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            code, output = await command(nodes, key_file, "--json", *(["--predictive"] if predictive else []))
            answer = json.loads(output)
            assert (code, answer["answered"], answer["complete"]) == (0, True, True)
            sent = [rung["router"] for rung in answer["ladder"] if rung["outgoing"]]
            assert (str(nodes.routers["a"].address) in sent) is predictive
            # The mobile node is answered when b has it; that a has written b's word down, nobody waits for.
            await until(lambda: nodes.states() == {"a": SessionState.RELEASED, "b": SessionState.OWNED})

    asyncio.run(run())


def test_a_forged_request_is_told_apart_from_silence(tmp_path: Path, key_file: Path) -> None:
    async def run() -> None:
        async with lab(tmp_path, "udp", start=[]) as nodes:
            for name in "ab":
                await nodes.start(name, mobile_node_keys={MN: b"another key"})
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            code, output = await command(nodes, key_file)
            assert code == 1
            assert "CTAR" in output
            assert "CTAA" in output
            assert "not transferred: all contexts: NO_SUCH_CONTEXT" in output
            assert KEY.hex() not in output
            assert nodes.states() == {"a": SessionState.OWNED}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"--new-router": "nowhere"}, "'nowhere' is no IP address"),
        ({"--key-file": "/nonexistent"}, "can't be read"),
    ],
)
def test_wrong_use(key_file: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], told: str) -> None:
    options = {
        "--transport": "udp", "--listen": "127.0.0.1", "--previous-address": "192.0.2.1",
        "--previous-router": "127.0.0.2", "--new-router": "127.0.0.3", "--key-file": str(key_file), **changed,
    }  # fmt: skip
    assert main(["mobile-node", *(word for pair in options.items() for word in pair)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "no hex"])
def test_key_files_that_hold_no_key(key_file: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    key_file.write_text(content)
    words = "mobile-node --transport udp --listen 127.0.0.1 --previous-address 192.0.2.1 --previous-router 127.0.0.2"
    assert main([*words.split(), "--new-router", "127.0.0.3", "--key-file", str(key_file)]) == 2
    assert "key" in capsys.readouterr().err
