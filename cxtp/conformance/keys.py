"""A file of keys that mobile nodes share with their previous routers, for the judge."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from ..private_files import read_private

KEY_FILE_OCTETS = 65_536
"""Octets of such a file (ours)."""


def read_keys(path: Path) -> list[bytes]:
    """One key a line, in hexadecimal; the file's mode must be 0600.  Raises ConfigurationError, without a key."""
    keys: list[bytes] = []
    for number, line in enumerate(read_private(path, limit=KEY_FILE_OCTETS).splitlines(), 1):
        if line.strip():
            try:
                keys.append(bytes.fromhex(line.decode("ascii").strip()))
            except ValueError:
                raise ConfigurationError(f"{path}, line {number}: no hexadecimal key") from None
    return keys
