"""The options by which a context file is sealed or opened."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from ..adapters.context_file_seal import KeyFile, Passphrase, Unseal
from ..errors import ConfigurationError
from ..private_files import read_private

_PASSPHRASE_LIMIT = 4096


def add_sealing(command: argparse.ArgumentParser, *, writing: bool) -> None:
    """``--passphrase-file`` and ``--key-file``; for writing also the way to leave a file unsealed."""
    group = command.add_mutually_exclusive_group()
    group.add_argument("--passphrase-file", type=Path, help="a file (mode 0600) whose first line is the passphrase")
    group.add_argument("--key-file", type=Path, help="a file (mode 0600) of 32 random octets")
    if writing:
        group.add_argument(
            "--plaintext-keys", action="store_true", help="do not seal: keys stand in it for all to read"
        )


def sealing(arguments: argparse.Namespace, *, ask: bool) -> Unseal | None:
    """What the options say; ``ask`` for a passphrase at the terminal where they say nothing."""
    if arguments.passphrase_file is not None:
        lines = read_private(arguments.passphrase_file, limit=_PASSPHRASE_LIMIT).splitlines()
        if not lines:
            raise ConfigurationError(f"{arguments.passphrase_file} is empty: its first line should be a passphrase")
        return Passphrase(lines[0].decode("utf-8", "replace"))
    if arguments.key_file is not None:
        return KeyFile(arguments.key_file)
    if not ask:
        return None
    if not sys.stdin.isatty():
        raise ConfigurationError("the file is sealed: give --passphrase-file or --key-file")
    return Passphrase(getpass.getpass("passphrase: "))
