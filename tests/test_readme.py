"""The README's example runs as it stands, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_library_example_runs_and_confirms() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 25
    result = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "TransferConfirmed"), result.stderr


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/\w+\.py)`", README))))
def test_proofs_that_are_named_exist(name: str) -> None:
    assert "def test_" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\((docs/[\w-]+\.md)\)|`(bench/run|script/\w+)`", README))))
def test_files_that_are_named_exist(name: tuple[str, str]) -> None:
    assert (ROOT / (name[0] or name[1])).exists()


def test_extras_that_are_named_exist() -> None:
    declared = re.search(r"\[options.extras_require\]\n(.*?)\n\n", (ROOT / "setup.cfg").read_text(), re.DOTALL)
    assert declared is not None
    names = set(re.findall(r"^(\w+) =", declared.group(1), re.MULTILINE))
    text = README + (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"cxtp\[(\w+)\]", text)) <= names
