"""The pytest plugin ``cxtp``: ``pytest --cxtp-trace FILE`` gives one test item per rule of ``cxtp conform``.

So that other projects judge their CXTP peers in their own CI.  What a trace does not exercise is skipped, a SHOULD
that fails is an expected failure (``--cxtp-level should`` makes it one that counts).  Nothing of cxtp is imported
until a trace is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conformance.verdicts import Report, Result


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("cxtp", "conformance to RFC 4067 (CXTP)")
    group.addoption("--cxtp-trace", action="append", default=[], metavar="FILE", help="judge this pcap or pcapng")
    group.addoption("--cxtp-psk-file", metavar="FILE", help="mobile nodes' keys, one a line, in hexadecimal")
    group.addoption("--cxtp-level", choices=("must", "should"), default="must", help="which faults fail a test")


class RuleItem(pytest.Item):
    """One rule on one trace."""

    def __init__(self, *, result: Result, **other: Any) -> None:
        super().__init__(**other)
        self.result = result

    def runtest(self) -> None:
        """Fail, skip or pass as the verdict says."""
        from .conformance.verdicts import Level, Verdict

        result = self.result
        if result.verdict is Verdict.FAIL:
            counted = result.rule.level is Level.MUST or self.config.getoption("--cxtp-level") == "should"
            if not counted:
                pytest.xfail(f"{result.rule.level.value}: {result.faults[0].seen}")
            raise BrokenRule(result)
        if result.verdict is not Verdict.PASS:
            pytest.skip(result.doubts[0].why if result.doubts else "not exercised")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The faults, without a stack."""
        if not isinstance(excinfo.value, BrokenRule):
            return super().repr_failure(excinfo, style)
        rule = self.result.rule
        lines = [f"{rule.level.value}, {rule.section}: {rule.text}"]
        lines += [f"packets {list(f.packets)}: expected {f.expected}; seen {f.seen}" for f in self.result.faults]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it stands in the output."""
        return self.path, None, f"cxtp {self.result.rule.id}"


class BrokenRule(Exception):
    """A rule that the trace breaks."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.rule.id)


class TraceCollector(pytest.Collector):
    """A trace: one item per rule."""

    def collect(self) -> Iterator[RuleItem]:
        """Judge, once."""
        for result in _judge(self.path, self.config).results:
            yield RuleItem.from_parent(self, name=result.rule.id, result=result)


def _judge(path: Path, config: pytest.Config) -> Report:
    from .conformance.judge import judge_capture
    from .conformance.keys import read_keys
    from .conformance.story import Case
    from .errors import CxtpError

    keys = config.getoption("--cxtp-psk-file")
    try:
        return judge_capture(path, Case(keys=read_keys(Path(keys)) if keys else ()))
    except CxtpError as error:  # no trace, or no keys: no test could say so
        raise pytest.UsageError(str(error)) from error


def pytest_collection(session: pytest.Session) -> None:
    """Remember the traces; they are collected beside the tests."""
    session.stash[_TRACES] = [Path(name).absolute() for name in session.config.getoption("--cxtp-trace")]


_TRACES: pytest.StashKey[list[Path]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the traces' items."""
    for path in session.stash.get(_TRACES, []):
        collector = TraceCollector.from_parent(session, path=path, name=path.name, nodeid=path.name)
        items.extend(collector.collect())
