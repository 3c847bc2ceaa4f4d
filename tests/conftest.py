"""After a run of the whole suite: have the tests that docs/rfc4067-conformance.md names really run?

Where they have not, or were skipped where nothing may be (CI=true), the session fails.  A run of a part of the suite
is not asked.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conformance_table import DOCUMENT, read_table


def pytest_configure(config: pytest.Config) -> None:
    path = config.rootpath / DOCUMENT
    if _is_whole(config) and path.exists():
        named = {name for row in read_table(path) for name in row.tests}
        config.pluginmanager.register(_NamedTests(named), "cxtp-named-tests")


KERNEL_SECONDS = {
    "test_gateway": 170,
    "test_strongswan_gateway": 170,
    "test_strongswan_faults": 90,
    "test_held_traffic": 75,
    "test_strongswan_takeover": 65,
    "test_xfrm_sink": 50,
    "test_flows": 40,
    "test_strongswan_cut": 40,
    "test_conformance": 35,
}
"""What the longer modules of tests/kernel took on two processors; the others some ten each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two workers (``--dist worksteal`` cuts the list in the middle) each begins with half of what runs in a kernel
    of its own: a module of it is one worker's, so that none can be taken from the other at the end."""
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if "tests/kernel" in item.path.as_posix():
            modules.setdefault(item.path, []).append(item)
    halves: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
    seconds = [0, 0]
    for path in sorted(modules, key=lambda path: -KERNEL_SECONDS.get(path.stem, 10)):
        half = seconds.index(min(seconds))
        halves[half].extend(modules[path])
        seconds[half] += KERNEL_SECONDS.get(path.stem, 10)
    others = [item for item in items if item.path not in modules]
    middle = max(0, len(items) // 2 - len(halves[0]))
    items[:] = [*halves[0], *others[:middle], *halves[1], *others[middle:]]


def _is_whole(config: pytest.Config) -> bool:
    """Whether all tests were asked for; never in a worker of xdist, whose controller sees all reports."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return False
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    narrowed = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "pyargs", "maxfail")
    return whole and not any(getattr(config.option, name, None) for name in narrowed)


class _NamedTests:
    """Collects outcomes by test, parameters left out."""

    def __init__(self, named: set[str]) -> None:
        self._named = named
        self._passed: set[str] = set()
        self._skipped: set[str] = set()
        self._faults: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        if report.skipped:
            self._skipped.add(name)
        elif report.passed and report.when == "call":
            self._passed.add(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or session.shouldstop:
            return  # it did not come to its end
        strict = os.environ.get("CI") == "true"
        for name in sorted(self._named):
            if name in self._skipped:
                if strict:
                    self._faults.append(f"{name}: skipped")
            elif name not in self._passed:
                self._faults.append(f"{name}: did not run, or did not pass")
        if self._faults:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._faults:
            terminalreporter.section(f"tests named in {DOCUMENT}", red=True)
            for fault in self._faults:
                terminalreporter.line(fault)
