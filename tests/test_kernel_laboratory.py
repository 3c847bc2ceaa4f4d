"""The runner of tests/kernel: what comes out of the real kernel, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel import laboratory
from kernel.laboratory import MissingPackages, missing_packages, run

TESTS = Path(__file__).parent

needs_kernel = pytest.mark.skipif(
    bool(missing_packages()) and os.environ.get("CI") != "true", reason=f"apt-get install {missing_packages()}"
)


@needs_kernel
def test_a_command_runs_in_another_kernel_and_its_outcome_is_passed_on() -> None:
    script = "uname -r; id -u; pwd; echo $TOLD; echo to stderr >&2; exit 7"
    result = run(["sh", "-c", script], environment={"TOLD": "what it was told"}, timeout=60)
    release, user, directory, told = result.stdout.splitlines()
    assert release != os.uname().release
    assert (user, directory, told) == ("0", os.getcwd(), "what it was told")
    assert (result.status, result.stderr) == (7, "to stderr\n")


@needs_kernel
def test_a_failure_inside_is_a_failure_outside(tmp_path: Path) -> None:
    """A suite of its own, beside the runner: one item passes, one fails, one ends the process."""
    package = tmp_path / "kernel"
    package.mkdir()
    for name in ("__init__.py", "conftest.py", "laboratory.py", "wide_registers.c"):
        (package / name).write_text((TESTS / "kernel" / name).read_text())
    (package / "test_inside.py").write_text(
        "import os, socket\n"
        "def test_passes():\n    socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, 132)\n"
        "def test_fails():\n    assert os.getuid() == 4711, 'told by the kernel'\n"
        "def test_ends_it_all():\n    os._exit(3)\n"
        "def test_never_comes_up():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", "-rA", "kernel/test_inside.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    told = [line.split(" - ")[0] for line in done.stdout.splitlines()]
    lines = [line for line in told if line.startswith(("PASSED", "FAILED", "ERROR"))]
    assert sorted(lines) == [
        "ERROR kernel/test_inside.py::test_ends_it_all",
        "ERROR kernel/test_inside.py::test_never_comes_up",
        "FAILED kernel/test_inside.py::test_fails",
        "PASSED kernel/test_inside.py::test_passes",
    ]
    assert "told by the kernel" in done.stdout
    assert done.returncode == 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(laboratory, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(laboratory, "MODULES_DIRECTORY", tmp_path)
    monkeypatch.setattr(laboratory, "has_wide_registers", lambda: True)
    with pytest.raises(MissingPackages, match="apt-get install gcc iproute2 kmod user-mode-linux"):
        run(["true"])
    monkeypatch.setattr(laboratory, "has_wide_registers", lambda: False)
    with pytest.raises(MissingPackages, match="apt-get install iproute2 kmod user-mode-linux"):
        run(["true"])
