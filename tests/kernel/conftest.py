"""Items of this directory run inside the real kernel, and are reported here as if they had run outside.

The first item of a module that comes up boots one kernel for all of that module's items; the others, in whichever
worker, take their reports from that run.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.laboratory import LaboratoryError, MissingPackages, run

INSIDE = os.environ.get("CXTP_KERNEL") == "1"
REPORTS = "CXTP_KERNEL_REPORTS"
HERE = Path(__file__).parent

MODULE_TIMEOUT = 700 if os.environ.get("CXTP_SOAK") != "1" else 1500
"""Seconds for all items of a module."""

WAIT = 1800
"""Seconds that an item may wait: for another worker's kernel, and its own."""

# --- inside: write the reports down ---------------------------------------------------------------------------------


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if INSIDE and os.environ.get(REPORTS):
        data = _config.hook.pytest_report_to_serializable(config=_config, report=report)
        with Path(os.environ[REPORTS]).open("a") as file:
            file.write(json.dumps(data) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    global _config
    _config = config


_config: pytest.Config


# --- outside: have them run, and replay the reports -----------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not INSIDE:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.timeout(WAIT))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or HERE not in item.path.parents:  # this hook is asked about every item of the run
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item) -> list[Any]:
    try:
        results, output = _module_results(item)
    except MissingPackages as error:
        if os.environ.get("CI") == "true":
            return [_report(item, "failed", str(error))]
        return [_report(item, "skipped", (str(item.path), 0, f"Skipped: {error}"))]
    except LaboratoryError as error:
        return [_report(item, "failed", str(error))]
    own = [data for data in results if data["nodeid"] == item.nodeid]
    if not any(data["when"] == "teardown" for data in own):
        told = f"it did not come to its end in the kernel, where pytest said:\n{output[-6000:]}"
        return [_report(item, "failed", told)]
    return [item.config.hook.pytest_report_from_serializable(config=item.config, data=data) for data in own]


def _report(item: pytest.Item, outcome: Any, longrepr: Any) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, outcome, longrepr, "setup")


def _module_results(item: pytest.Item) -> tuple[list[dict[str, Any]], str]:
    """All reports of the item's module, and what pytest said: of this run of the suite, by whichever worker."""
    base = item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    shared = base.parent if hasattr(item.config, "workerinput") else base
    name = item.path.stem
    reports, output = shared / f"kernel-{name}.jsonl", shared / f"kernel-{name}.txt"
    with _locked(shared / f"kernel-{name}.lock"):
        if not output.exists():
            selected = [other.nodeid for other in item.session.items if other.path == item.path]
            output.write_text(_run_inside(item.config.rootpath, selected, reports))
    lines = reports.read_text().splitlines() if reports.exists() else []
    return [json.loads(line) for line in lines], output.read_text()


def _run_inside(root: Path, selected: list[str], reports: Path) -> str:
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest",
        "-o", "addopts=--strict-markers", "--rootdir", str(root), *selected,
    ]  # fmt: skip
    environment = {REPORTS: str(reports), "PYTEST_XDIST_WORKER": "", "PYTEST_ADDOPTS": "", "COLUMNS": "120"}
    before = Path.cwd()
    os.chdir(root)
    try:
        result = run(command, timeout=MODULE_TIMEOUT, environment=environment)
    except MissingPackages:
        raise
    except LaboratoryError as error:
        return str(error)
    finally:
        os.chdir(before)
    return result.stdout + result.stderr


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
