"""What a judge says: rules, and for each a verdict with the packets that made it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Union

FINDINGS_KEPT = 20
"""Faults and doubts kept per rule; all are counted."""


class Level(str, Enum):
    """How binding (RFC 2119).  What RFC 4067 states without a key word and a peer relies on is a MUST here."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Group(str, Enum):
    """What a rule is about."""

    MESSAGES = "messages"
    TRANSPORT = "transport"
    FLOWS = "flows"
    TIMERS = "timers"
    TOKENS = "tokens"
    FORMATS = "formats"
    CONTENT = "content"
    SAFETY = "safety"


class Moment(str, Enum):
    """When a rule is asked."""

    RECORD = "at each message"
    STORY = "when a mobile node's story ends"
    CAPTURE = "when the capture ends"


@dataclass(frozen=True)
class Holds:
    """The rule was put to the test once, and kept."""


@dataclass(frozen=True)
class Fault:
    """The rule was broken: by these packets, what was expected, what was seen."""

    packets: tuple[int, ...]
    expected: str
    seen: str


@dataclass(frozen=True)
class Doubt:
    """The rule was put to the test and the capture does not tell how it ended."""

    packets: tuple[int, ...]
    why: str


Outcome = Union[Holds, Fault, Doubt]
HOLDS = Holds()


@dataclass(frozen=True)
class Rule:
    """One statement that a capture can show to be kept or broken.

    ``roles``: whom it binds.  ``rows``: the rows of docs/rfc4067-conformance.md that it judges.  ``check`` takes
    what its ``moment`` has: (record, story, case), (story, case) or (facts, case); it gives outcomes.
    """

    id: str
    section: str
    level: Level
    roles: str
    text: str
    group: Group
    moment: Moment
    check: Any = field(repr=False, compare=False)
    rows: tuple[str, ...] = ()


class Verdict(str, Enum):
    """Of one rule, or of all."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_EXERCISED = "not exercised"


@dataclass
class Result:
    """One rule's verdict in the making."""

    rule: Rule
    held: int = 0
    fault_count: int = 0
    doubt_count: int = 0
    faults: list[Fault] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome; the first ones of each kind are kept."""
        if isinstance(outcome, Fault):
            self.fault_count += 1
            if len(self.faults) < FINDINGS_KEPT:
                self.faults.append(outcome)
        elif isinstance(outcome, Doubt):
            self.doubt_count += 1
            if len(self.doubts) < FINDINGS_KEPT:
                self.doubts.append(outcome)
        else:
            self.held += 1

    @property
    def verdict(self) -> Verdict:
        """A fault is a fault; a doubt only matters where nothing was seen to hold."""
        if self.fault_count:
            return Verdict.FAIL
        if self.held:
            return Verdict.PASS
        return Verdict.INCONCLUSIVE if self.doubt_count else Verdict.NOT_EXERCISED


@dataclass
class Report:
    """All verdicts on one capture or one live peer.

    ``packets`` and ``messages`` were read; ``unread`` says by reason what could not be looked into.
    """

    subject: str
    results: list[Result]
    packets: int = 0
    messages: int = 0
    unread: dict[str, int] = field(default_factory=dict)

    def of(self, rule_id: str) -> Result:
        """One rule's result; KeyError for an unknown id."""
        for result in self.results:
            if result.rule.id == rule_id:
                return result
        raise KeyError(rule_id)

    def failed(self, level: Level | None = None) -> list[Result]:
        """Results that fail, of this level alone where one is given."""
        return [
            result
            for result in self.results
            if result.verdict is Verdict.FAIL and (level is None or result.rule.level is level)
        ]

    def count(self, verdict: Verdict) -> int:
        """How many rules have this verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def verdict(self) -> Verdict:
        """FAIL where a MUST failed; else PASS where anything was put to the test and kept."""
        if self.failed(Level.MUST):
            return Verdict.FAIL
        if self.count(Verdict.PASS):
            return Verdict.PASS
        return Verdict.INCONCLUSIVE if self.count(Verdict.INCONCLUSIVE) else Verdict.NOT_EXERCISED

    def by_packet(self) -> dict[int, list[tuple[Rule, Fault]]]:
        """The kept faults by the packets that they name."""
        found: dict[int, list[tuple[Rule, Fault]]] = {}
        for result in self.results:
            for fault in result.faults:
                for packet in fault.packets:
                    found.setdefault(packet, []).append((result.rule, fault))
        return found

    def doubts_by_packet(self) -> dict[int, list[tuple[Rule, Doubt]]]:
        """The kept doubts, of rules that stay open, by the packets that they name."""
        found: dict[int, list[tuple[Rule, Doubt]]] = {}
        for result in self.results:
            for doubt in result.doubts if result.verdict is Verdict.INCONCLUSIVE else ():
                for packet in doubt.packets:
                    found.setdefault(packet, []).append((result.rule, doubt))
        return found


def selected(rules: Iterable[Rule], groups: Iterable[Group] = (), level: Level = Level.MAY) -> list[Rule]:
    """The rules of these groups (none named: all) that bind at least so much as ``level``."""
    order = list(Level)
    wanted = set(groups)
    return [r for r in rules if (not wanted or r.group in wanted) and order.index(r.level) <= order.index(level)]
