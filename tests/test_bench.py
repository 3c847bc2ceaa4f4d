"""Every benchmark runs, at a small size, and prints ratios; none is judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("messages", "CTDR build, compiled (ours)"),
        ("contexts", "IKE_SA case 3 decode, interpreted (ours)"),
        ("keys", "case 1, private key"),
        ("negotiation", "Curve25519, ECDSA"),
        ("transfers", "transfers/s"),
    ],
)
def test_benchmark_runs(name: str, expected: str) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--sessions", "10", name]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
    assert "floor" in result.stdout
