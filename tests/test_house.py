"""The house's doors, read from the syntax trees of cxtp/ and contexts/: who may import whom, and what.

A room that does not exist yet may stand in the tables.  A module of cxtp/ that stands in none belongs to the
node's floor: nothing below may import it.
"""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Imports point down, or sideways between rooms of one level that are no SIBLINGS.  The longest name that fits
# counts; a package's name stands for all its modules.
LEVELS = {
    "cxtp.errors": 0,
    "cxtp.constants": 1,
    "cxtp.config": 1,
    "cxtp.messages": 2,
    "cxtp.token": 2,
    "cxtp.bit_fields": 2,
    "cxtp.compiled": 2,
    "contexts.values": 2,
    "contexts.algorithms": 2,
    "contexts.key_exchange": 2,
    "contexts.keys": 2,
    "cxtp.wire": 3,
    "cxtp.continuation": 3,
    "cxtp.manifest": 3,
    "cxtp.replica": 3,
    "cxtp.roles": 4,
    "contexts": 4,
    "cxtp.private_files": 5,
    "cxtp.privileges": 5,
    "cxtp.pki": 5,
    "cxtp.transports": 5,
    "cxtp.store": 5,
    "cxtp.adapters": 5,
    "cxtp.scapy_layers": 5,
    "cxtp": 6,  # node, scenarios, conformance, and what else stands beside them
    "cxtp.demo": 6,
    "cxtp.commands": 7,
    "cxtp.cli": 8,
    "cxtp.__main__": 9,
}

# Rooms that never import each other.
SIBLINGS = [
    {"cxtp.roles", "contexts"},
    {"cxtp.transports", "cxtp.store", "cxtp.adapters"},
    {"cxtp.wire", "cxtp.scapy_layers"},  # the second is a witness of the first
    {"contexts", "cxtp.scapy_layers"},
    {"cxtp.roles", "cxtp.conformance"},  # the second judges the first
]

# A witness that shared a rule, a number or a name with what it witnesses would share its errors.
WITNESS = "cxtp.scapy_layers"

# Of cxtp, contexts/ knows these alone.
CONTEXTS_MAY_IMPORT = {
    *("cxtp", "cxtp.constants", "cxtp.errors", "cxtp.config", "cxtp.messages"),
    *("cxtp.bit_fields", "cxtp.compiled", "cxtp.compiled.code"),
}

# Levels 0 to 4 have no clock, no chance, no files and no network: those are arguments.
PURE_LEVELS = range(5)
IMPURE = {"asyncio", "os", "random", "scapy", "secrets", "socket", "sqlite3", "ssl", "time"}

# A package, and the rooms that may import it.
ROOMS_OF_A_PACKAGE = {
    "construct": {
        *("cxtp.bit_fields", "cxtp.compiled"),
        *("cxtp.wire", "cxtp.manifest", "cxtp.replica", "contexts", "cxtp.adapters"),
    },
    "scapy": {"cxtp.adapters.capture", "cxtp.scapy_layers", "cxtp.scenarios"},
}

# The command line: it alone writes to standard output.
PRINTING_ROOMS = {"cxtp.cli", "cxtp.commands", "cxtp.__main__"}

OPTIONAL_PACKAGES = {"jsonschema"}
FORBIDDEN_NAMES = {"utils.py", "common.py", "types.py"}
LINES_OF_A_FILE = 500

SOURCES = sorted(path for room in ("cxtp", "contexts") for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}
each_module = pytest.mark.parametrize("module", MODULES)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    return max((room for room in LEVELS if within(module, room)), key=len)


def level_of(module: str) -> int:
    return LEVELS[room_of(module)]


def imports_in(module: str, source: ast.Module, *, is_package: bool) -> set[str]:
    """All that is imported, anywhere in the file: modules of ours by their full names, others as written."""
    package = module if is_package else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inner or {base}
    return found


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(imports_in(module, tree(module), is_package=MODULES[module].name == "__init__.py"))


def ours(module: str) -> list[str]:
    return sorted(name for name in imports(module) if name in MODULES and name not in ("cxtp", module))


# --- the reader of imports itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("cxtp.wire", "import os.path, ssl", {"os.path", "ssl"}),
        ("cxtp.wire", "from . import wire, token", {"cxtp.wire", "cxtp.token"}),
        ("cxtp.wire", "from .messages import Message", {"cxtp.messages"}),
        ("cxtp.wire", "from cxtp import __version__, wire", {"cxtp.wire"}),
        ("cxtp.wire", "from cxtp import __version__", {"cxtp"}),
        ("cxtp.wire", "def f():\n    if 1:\n        from time import sleep", {"time"}),
        ("cxtp.transports.udp", "from ..messages import Message", {"cxtp.messages"}),
        ("cxtp.transports.udp", "from .. import wire", {"cxtp.wire"}),
        ("cxtp.adapters.strongswan_ha.codec", "from ...errors import LocalError", {"cxtp.errors"}),
    ],
)
def test_imports_are_found(module: str, source: str, found: set[str]) -> None:
    assert imports_in(module, ast.parse(source), is_package=False) == found
    package = f"{module.rpartition('.')[0]}"  # the same file as a package's __init__.py
    assert imports_in(package, ast.parse(source), is_package=True) == found


def test_the_house_is_found() -> None:
    assert {"cxtp.errors", "cxtp.messages", "cxtp.wire", "contexts.values"} <= set(MODULES)


# --- the doors --------------------------------------------------------------------------------------------------


@each_module
def test_imports_never_point_up(module: str) -> None:
    if module == "cxtp":
        assert not imports(module), "the package itself imports nothing, so that every room may import it"
        return
    up = [name for name in ours(module) if level_of(name) > level_of(module)]
    assert not up, f"{module} (level {level_of(module)}) imports {up}"


def siblings_of(module: str) -> set[str]:
    return {
        other
        for group in SIBLINGS
        if any(within(module, room) for room in group)
        for other in group
        if not within(module, other)
    }


@each_module
def test_siblings_never_import_each_other(module: str) -> None:
    wrong = [name for name in ours(module) for room in siblings_of(module) if within(name, room)]
    assert not wrong, f"{module} imports {wrong}"


def test_no_imports_go_round() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in ours(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@each_module
def test_the_witness_knows_nothing_of_ours(module: str) -> None:
    if within(module, WITNESS):
        wrong = [name for name in ours(module) if not within(name, WITNESS)]
        assert not wrong, f"{module} imports {wrong}"


@each_module
def test_contexts_know_the_protocols_lowest_rooms_alone(module: str) -> None:
    if within(module, "contexts"):
        wrong = {name for name in imports(module) if within(name, "cxtp")} - CONTEXTS_MAY_IMPORT
        assert not wrong, f"{module} imports {sorted(wrong)}"


@each_module
def test_lower_levels_are_pure(module: str) -> None:
    if module == "cxtp" or level_of(module) in PURE_LEVELS:
        wrong = {name for name in imports(module) if name.partition(".")[0] in IMPURE}
        assert not wrong, f"{module} imports {sorted(wrong)}"


@each_module
@pytest.mark.parametrize("package", ROOMS_OF_A_PACKAGE)
def test_packages_stay_in_their_rooms(module: str, package: str) -> None:
    if any(within(name, package) for name in imports(module)):
        assert any(within(module, room) for room in ROOMS_OF_A_PACKAGE[package]), f"{module} imports {package}"


@pytest.mark.parametrize("package", sorted(OPTIONAL_PACKAGES))
def test_an_optional_package_has_one_module(package: str) -> None:
    users = [module for module in MODULES if any(within(name, package) for name in imports(module))]
    assert len(users) <= 1, f"{package} is imported by {users}"


# --- habits -----------------------------------------------------------------------------------------------------


@each_module
def test_files_have_a_name_that_tells(module: str) -> None:
    assert MODULES[module].name not in FORBIDDEN_NAMES


@each_module
def test_files_are_short(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LINES_OF_A_FILE, f"{module} has {lines} lines: it wants splitting"


@each_module
def test_no_star_imports_and_no_metaclasses(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{module}:{node.lineno}"
        if isinstance(node, ast.ClassDef):
            assert all(keyword.arg != "metaclass" for keyword in node.keywords), f"{module}:{node.lineno}"


@each_module
def test_only_the_command_line_prints(module: str) -> None:
    if any(within(module, room) for room in PRINTING_ROOMS):
        return
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{module}:{node.lineno}"


# --- what no file of the project names --------------------------------------------------------------------------

# Put together here, so that this file names none either.
NOT_TO_BE_NAMED = [
    text.encode()
    for text in ("/wo" + "rk/", "../sh" + "ared", "py" + "pi.org", "pythonho" + "sted.org", "npm" + "js.org")
]


def project_files() -> list[Path]:
    """What git tracks or would track; without git, all but hidden folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        found = [ROOT / name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = [path for path in ROOT.iterdir() if path.name.startswith(".") or path.suffix == ".egg-info"]
        found = [path for path in ROOT.rglob("*") if not any(path.is_relative_to(folder) for folder in hidden)]
    return [path for path in found if path.is_file()]


def test_no_file_names_this_machine_or_a_registry() -> None:
    files = project_files()
    assert Path(__file__).resolve() in files
    named: list[str] = []
    for path in files:
        octets = path.read_bytes()
        if b"\0" not in octets[:1024]:
            named += [f"{path.relative_to(ROOT)}: {text.decode()}" for text in NOT_TO_BE_NAMED if text in octets]
    assert not named, named
