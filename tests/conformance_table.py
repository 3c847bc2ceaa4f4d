"""The table of docs/rfc4067-conformance.md as data: read by its test, and by the hook that asks whether all ran."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path("docs/rfc4067-conformance.md")
HEADER = ["id", "level", "requirement", "code", "tests"]
_QUOTED = re.compile(r"`([^`]+)`")
_HEADING = re.compile(r"## (?:Section |Appendix )?(\S+)")


@dataclass(frozen=True)
class Row:
    """``section`` is the heading that it stands under; ``why_not`` is empty where a test shows the requirement."""

    section: str
    id: str
    level: str
    requirement: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    why_not: str


def read_table(path: Path) -> list[Row]:
    """All rows of all tables, in order.  Raises ValueError for a row that has not the header's columns."""
    rows: list[Row] = []
    section = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        heading = _HEADING.match(line)
        if heading:
            section = heading[1]
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(HEADER):
            raise ValueError(f"{path.name}, line {number}: {len(cells)} columns, not {len(HEADER)}")
        if cells == HEADER or set(line) <= set("|- "):
            continue
        identifier, level, requirement, code, tests = cells
        _, _, why_not = tests.partition("why not: ")
        named = tuple(name for name in _QUOTED.findall(tests) if "::" in name)
        rows.append(Row(section, identifier, level, requirement, tuple(_QUOTED.findall(code)), named, why_not))
    return rows
