"""Every benchmark runs, at a small size, and prints ratios; none is judged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("messages", "CTDR build, compiled (ours)"),
        ("contexts", "IKE_SA case 3 decode, compiled (ours)"),
        ("keys", "case 1, private key"),
        ("negotiation", "Curve25519, ECDSA"),
        ("transfers", "CPU of one transfer to the asymmetric work of negotiating"),
        ("memory", "held after a restart"),
    ],
)
def test_benchmark_runs(name: str, expected: str) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--sessions", "10", name]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
    assert "floor" in result.stdout


def test_the_gateways_benchmark_runs() -> None:
    """It brings a kernel of its own."""
    if shutil.which("linux.uml") is None and not os.environ.get("CI"):
        pytest.skip("needs linux.uml (Debian package user-mode-linux)")
    command = [sys.executable, "-m", "bench", "--sessions", "5", "gateways"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr
    assert "gap without traffic" in result.stdout
    assert "floor: ip -batch" in result.stdout


def test_results_as_json() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--json", "negotiation"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["benchmarks"]["negotiation"]["rows"]
    floors = [row["name"] for row in rows if row["ratio"] is None]
    assert floors == ["asymmetric, SK_* from shared secret"]
    assert len(rows) == 4


def test_the_strongswan_benchmark_runs() -> None:
    if shutil.which("linux.uml") is None and not os.environ.get("CI"):
        pytest.skip("needs linux.uml (Debian package user-mode-linux)")
    if not Path("/usr/lib/ipsec/plugins/libstrongswan-ha.so").exists() and not os.environ.get("CI"):
        pytest.skip("needs strongSwan (Debian packages strongswan-charon, libcharon-extra-plugins)")
    command = [sys.executable, "-m", "bench", "--sessions", "4", "strongswan"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, result.stderr
    assert "(a) ha resync: 4 of 4 IKE_SAs arrive whole" in result.stdout
    assert "(b) ours: 4 of 4 IKE_SAs and 4 CHILD_SAs at B, none rekeyed" in result.stdout
    assert "4 of 4 clients answered there" in result.stdout
    assert "(c) IKE_SA_INIT and IKE_AUTH" in result.stdout
