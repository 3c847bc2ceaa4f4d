"""docs/rfc4067-conformance.md is true to the code and the tests that it names; conftest.py asks whether they ran."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from conformance_table import DOCUMENT, Row, read_table

ROOT = Path(__file__).resolve().parent.parent
ROWS = read_table(ROOT / DOCUMENT)

# RFC 4067's table of contents, and the subsections of 2.1 and 2.5, which it leaves out.
SECTIONS = [
    *("2", "2.1", "2.1.1", "2.1.2", "2.2", "2.3", "2.4"),
    *("2.5", "2.5.1", "2.5.2", "2.5.3", "2.5.4", "2.5.5", "2.5.6"),
    *("3", "3.1", "3.2", "4", "5", "5.1", "5.2", "5.3", "6", "6.1", "6.2", "6.3", "B"),
]
LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "MAY", "fact"}

# Key words in the RFC's own text of each section; "must", "should" and "may" in small letters are no key words.
KEY_WORDS = {
    "2.2": {"MUST": 2, "SHOULD": 1},
    "2.5.1": {"MUST": 1},
    "2.5.3": {"MUST": 1, "SHOULD": 1, "MAY": 1},
    "3.1": {"MUST": 4, "SHOULD": 6, "MAY": 2},
    "3.2": {"MUST": 4, "SHOULD": 3, "MAY": 1},
    "6.2": {"MUST": 3, "SHOULD": 2},
    "6.3": {"MUST": 3, "MUST NOT": 1, "SHOULD": 4, "RECOMMENDED": 1},
    "B": {"SHOULD": 1, "MAY": 1},
}


def test_every_section_has_rows_in_the_rfcs_order() -> None:
    assert list(dict.fromkeys(row.section for row in ROWS)) == SECTIONS


def test_every_key_word_of_the_rfc_has_a_row() -> None:
    counted = Counter((row.section, row.level) for row in ROWS)
    fewer = {
        (section, word): (counted[section, word], count)
        for section, words in KEY_WORDS.items()
        for word, count in words.items()
        if counted[section, word] < count
    }
    assert not fewer


def test_identifiers_name_their_section_once() -> None:
    assert [row.id for row in ROWS if row.id.rpartition("-")[0] != row.section] == []
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.level for row in ROWS} <= LEVELS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_has_a_test_or_a_reason(row: Row) -> None:
    assert row.requirement
    assert row.tests or len(row.why_not) > 20
    assert row.code or row.why_not


@pytest.mark.parametrize("reference", sorted({code for row in ROWS for code in row.code}))
def test_the_code_is_there(reference: str) -> None:
    parts = reference.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            # an attribute that only instances have is known by its annotation
            found = getattr(found, name)
        return
    pytest.fail(f"{reference} is nowhere")


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests}))
def test_the_test_is_there(test: str) -> None:
    path, name = test.split("::")
    assert name.startswith("test_")
    assert name in functions_of(ROOT / path)


# --- the hook that asks whether they ran ----------------------------------------------------------------------------

SUITE = """\
import pytest

def test_good(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_many(n): pass

@pytest.mark.parametrize("n", [1, 2])
def test_half(n):
    if n == 2:
        pytest.skip("no such thing here")
"""
TABLE = """\
## Section 2.2

| id | level | requirement | code | tests |
|---|---|---|---|---|
| 2.2-a | MUST | something | `cxtp.wire` | {} |
"""
ALL_RAN = ["tests/test_tiny.py::test_good", "tests/test_tiny.py::test_many"]
RENAMED = "tests/test_tiny.py::test_by_its_old_name"
SKIPPED = "tests/test_tiny.py::test_half"


def run_tiny(directory: Path, named: list[str], *arguments: str, ci: bool = False) -> tuple[int, str]:
    """A suite of its own with our conftest.py; its exit status and what it said."""
    for name in ("tests", "docs"):
        (directory / name).mkdir()
    for name in ("conftest.py", "conformance_table.py"):
        shutil.copy(ROOT / "tests" / name, directory / "tests" / name)
    (directory / "tests" / "test_tiny.py").write_text(SUITE)
    (directory / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (directory / DOCUMENT).write_text(TABLE.format(" ".join(f"`{name}`" for name in named)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**environment, **({"CI": "true"} if ci else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("xdist", [(), ("-n", "2")], ids=["plain", "xdist"])
@pytest.mark.parametrize(
    ("named", "ci", "fault"),
    [
        (ALL_RAN, True, ""),
        ([*ALL_RAN, SKIPPED], False, ""),
        ([*ALL_RAN, SKIPPED], True, f"{SKIPPED}: skipped"),
        ([*ALL_RAN, RENAMED], False, f"{RENAMED}: did not run, or did not pass"),
    ],
    ids=["all ran", "skipped on a laptop", "skipped in CI", "renamed"],
)
def test_a_named_test_that_did_not_run_fails_the_suite(
    tmp_path: Path, named: list[str], ci: bool, fault: str, xdist: tuple[str, ...]
) -> None:
    status, said = run_tiny(tmp_path, named, *xdist, ci=ci)
    assert (status, "tests named in" in said) == ((1, True) if fault else (0, False)), said
    assert fault in said


@pytest.mark.parametrize("part", [("-k", "good"), ("tests/test_tiny.py",), ("--collect-only",), ("-m", "not slow")])
def test_a_part_of_the_suite_is_not_asked(tmp_path: Path, part: tuple[str, ...]) -> None:
    status, said = run_tiny(tmp_path, [*ALL_RAN, RENAMED], *part, ci=True)
    assert (status, "tests named in" in said) == (0, False), said
