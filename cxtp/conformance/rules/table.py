"""How a module of rules declares them: a decorator that makes a table's row out of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..records import Record
from ..verdicts import HOLDS, Fault, Group, Level, Moment, Outcome, Rule

_Check = TypeVar("_Check", bound=Callable[..., Iterator[Outcome]])

MUST, SHOULD, MAY = Level.MUST, Level.SHOULD, Level.MAY


class Table(list[Rule]):
    """The rules of one group, in the order in which they are declared."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    def rule(
        self,
        rule_id: str,
        section: str,
        level: Level,
        roles: str,
        text: str,
        *,
        rows: tuple[str, ...] = (),
        moment: Moment = Moment.RECORD,
    ) -> Callable[[_Check], _Check]:
        """Declare the decorated check as a rule.  A bare section is RFC 4067's."""
        full = f"RFC 4067, {section}" if section[0].isdigit() or section == "Appendix B" else section

        def declare(check: _Check) -> _Check:
            self.append(Rule(rule_id, full, level, roles, text, self.group, moment, check, rows))
            return check

        return declare


def expect(good: bool, item: Record, expected: str, seen: Any, *others: Record) -> Outcome:
    """HOLDS, or a fault of this record (and the others that show it)."""
    if good:
        return HOLDS
    return Fault((*sorted({other.number for other in others}), item.number), expected, str(seen))
