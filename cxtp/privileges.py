"""Giving up what is needed only to open sockets."""

from __future__ import annotations

import ctypes
import os
import pwd

from .errors import ConfigurationError

_PR_SET_NO_NEW_PRIVS = 38


def drop_privileges(user: str) -> None:
    """Become this user for good: no way back, and no program started from here gains anything.

    Raises ConfigurationError where that can't be, or root could be had again.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(f"there is no user {user!r}") from None
    if entry.pw_uid == 0:
        raise ConfigurationError(f"{user!r} is root: nothing would be given up")
    try:
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except PermissionError:
        raise ConfigurationError(f"only root can become {user!r}: start this as root, or without --user") from None
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfigurationError("the kernel can't be kept from giving new privileges (PR_SET_NO_NEW_PRIVS)")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise ConfigurationError("root could be had again")
