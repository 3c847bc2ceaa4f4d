"""Files that only their owner may read: keys, certificates' private keys, context files.

Written whole or not at all (temporary file, fsync, rename), mode 0600 from the first octet on.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Union

from .errors import ConfigurationError

PathLike = Union[str, "os.PathLike[str]"]

KEY_OCTETS = 32
"""A key file holds so many random octets and nothing else."""


def write_private(path: PathLike, data: bytes, *, replace: bool = False) -> None:
    """Write ``data`` as ``path``, mode 0600; durable on return.

    Without ``replace`` an existing file is left as it is.  Raises :class:`ConfigurationError` then, and where the
    file can't be written.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)  # 0600 by itself
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, target)
            else:
                os.link(temporary, target)  # unlike rename, fails if the name is taken
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_directory(target.parent)
    except FileExistsError:
        raise ConfigurationError(f"{target} exists already: it is not overwritten") from None
    except OSError as error:
        raise ConfigurationError(f"{target} can't be written: {error.strerror}") from error


def create_key_file(path: PathLike) -> bytes:
    """Write a new random key, mode 0600, and give it; :class:`ConfigurationError` if the file exists already."""
    key = os.urandom(KEY_OCTETS)
    write_private(path, key)
    return key


def load_key_file(path: PathLike) -> bytes:
    """A key file's octets; :class:`ConfigurationError` if others may read it or it is no key, with what to do."""
    key = read_private(path, limit=4096)
    if len(key) != KEY_OCTETS:
        raise ConfigurationError(f"{path} is no key file: {len(key)} octets instead of {KEY_OCTETS}")
    return key


def sync_directory(path: PathLike) -> None:
    """Make names that were created in the directory durable; OSError where that fails."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_limited(path: PathLike, limit: int) -> bytes:
    """All octets of a regular file of at most ``limit`` octets; :class:`ConfigurationError` otherwise."""
    return _read(path, limit, private=False)


def read_private(path: PathLike, limit: int) -> bytes:
    """As :func:`read_limited`, and refuse a file that others than its owner may read or write."""
    return _read(path, limit, private=True)


def _read(path: PathLike, limit: int, *, private: bool) -> bytes:
    try:
        # non-blocking: opening a FIFO would otherwise wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is no regular file")
            if private:
                _check_private(path, status)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > limit:
        raise ConfigurationError(f"{path} is larger than {limit} octets")
    return data


def _check_private(path: PathLike, status: os.stat_result) -> None:
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(
            f"{path} may be read or written by others than its owner (mode {mode:04o}): chmod 600 {path}; "
            "if they may have read it, make a new one"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path} belongs to user {status.st_uid}: chown it to the user that runs this")
