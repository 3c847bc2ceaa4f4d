"""Giving up what is needed only to open sockets."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from collections.abc import Iterable
from enum import IntEnum

from .errors import ConfigurationError

_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522  # linux/capability.h: 64 capabilities, in two structures


class Capability(IntEnum):
    """capabilities(7), those that are kept by somebody."""

    NET_ADMIN = 12
    """To ask the kernel for its IPsec policies and SAs."""


def drop_privileges(user: str, keep: Iterable[Capability] = ()) -> None:
    """Become this user for good, with no capability but ``keep``: no way back, and no program started from here gains
    anything.

    Raises ConfigurationError where that can't be, or root could be had again.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(f"there is no user {user!r}") from None
    if entry.pw_uid == 0:
        raise ConfigurationError(f"{user!r} is root: nothing would be given up")
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 0
    for capability in keep:
        kept |= 1 << capability
    try:
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except PermissionError:
        raise ConfigurationError(f"only root can become {user!r}: start this as root, or without --user") from None
    # effective, permitted, inheritable; the lower 32 capabilities, then the others
    sets = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
    if libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), sets) != 0:
        raise ConfigurationError(f"capabilities can't be given up: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfigurationError("the kernel can't be kept from giving new privileges (PR_SET_NO_NEW_PRIVS)")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise ConfigurationError("root could be had again")
