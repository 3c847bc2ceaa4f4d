"""``cxtp wireshark``: our dissector in Wireshark's folder of personal plugins."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, TransportError
from .output import print_json

SOURCES = Path(__file__).parent.parent / "wireshark"
_FOLDER_LABELS = ("Personal Lua Plugins", "Personal Plugins")
"""What ``tshark -G folders`` calls it; the first where both are told (4.0), the second alone in other versions."""


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser("wireshark", help="put CXTP's dissector into Wireshark, or take it away")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help_, run in (
        ("install", "copy the dissector into the folder of personal Lua plugins", run_install),
        ("uninstall", "remove it from there", run_uninstall),
    ):
        action = actions.add_parser(name, help=help_)
        action.add_argument("--folder", type=Path, help="this folder (default: what the installed tshark tells)")
        action.add_argument("--print-path", action="store_true", help="print the folder, and change nothing")
        action.add_argument("--json", action="store_true", help="one JSON document")
        action.set_defaults(run=run)


def plugin_folder() -> Path:
    """Where the installed Wireshark looks for personal Lua plugins.

    Asked of tshark or wireshark; without them ``$XDG_DATA_HOME`` is no guess that holds, so that it raises
    ConfigurationError, which names ``--folder``.
    """
    program = shutil.which("tshark") or shutil.which("wireshark")
    if program is None:
        raise ConfigurationError("neither tshark nor wireshark is installed: install one (apt-get install tshark), "
                                 "or give the folder with --folder")
    try:
        run = subprocess.run([program, "-G", "folders"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{program} -G folders failed; give the folder with --folder") from error
    told = dict(line.split(":", 1) for line in run.stdout.splitlines() if ":" in line)
    for label in _FOLDER_LABELS:
        if told.get(label, "").strip():
            return Path(told[label].strip())
    raise ConfigurationError(f"{program} tells of no folder for personal plugins: give one with --folder")


def _files() -> list[Path]:
    return sorted(SOURCES.glob("*.lua"))


def _folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.folder) if arguments.folder else plugin_folder()


def _tell(arguments: argparse.Namespace, folder: Path, action: str, names: list[str]) -> int:
    if arguments.json:
        print_json({"folder": str(folder), action: names})
    elif arguments.print_path:
        print(folder)
    else:
        print(f"{action} {len(names)} files: {folder}")
    return 0


def run_install(arguments: argparse.Namespace) -> int:
    """Copy, each file whole or not at all."""
    folder = _folder(arguments)
    names = [path.name for path in _files()]
    if arguments.print_path:
        return _tell(arguments, folder, "installed", [])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files():
            partial = folder / f".{path.name}.new"
            partial.write_bytes(path.read_bytes())
            os.replace(partial, folder / path.name)
    except OSError as error:
        raise TransportError(f"{folder} can't be written: {error.strerror}; choose another with --folder") from error
    return _tell(arguments, folder, "installed", names)


def run_uninstall(arguments: argparse.Namespace) -> int:
    """Remove our files alone; what is not there needs no removal."""
    folder = _folder(arguments)
    if arguments.print_path:
        return _tell(arguments, folder, "removed", [])
    removed = []
    try:
        for path in _files():
            if (folder / path.name).exists():
                (folder / path.name).unlink()
                removed.append(path.name)
    except OSError as error:
        raise TransportError(f"{folder} can't be changed: {error.strerror}") from error
    return _tell(arguments, folder, "removed", removed)
