"""The socket: opened in a network namespace that can be named, heard only where the kernel itself speaks."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Union

from ...constants import StatusCode
from ...errors import TransportError
from .attributes import octets_of, parse_attributes, read
from .constants import HeaderFlag
from .layouts import MESSAGE_HEADER, S32

_PROTOCOL = 6  # NETLINK_XFRM
SOL_NETLINK = 270
ADD_MEMBERSHIP = 1
_CAP_ACK, _EXT_ACK = 10, 11
_EXT_ACK_TEXT = 1
_SO_RCVBUFFORCE = 33
_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_LARGEST = 1 << 20
_TEXT_LIMIT = 200

_STATUSES = {
    errno.EEXIST: StatusCode.SPI_COLLISION,
    errno.ENOSYS: StatusCode.UNSUPPORTED_ALGORITHM,
    errno.ENOMEM: StatusCode.NO_RESOURCES,
    errno.ENOBUFS: StatusCode.NO_RESOURCES,
    errno.EPERM: StatusCode.NOT_AUTHORIZED,
}
"""What a CTDR says of an installation that failed so."""

Namespace = Union[str, int, Path, None]
"""A network namespace: ``ip netns``'s name for it, the id of a process in it, its file; None: the caller's own."""


class XfrmError(TransportError):
    """The kernel can't be asked, or said no.

    ``number`` is the errno, ``name`` its name, ``what`` what was asked, ``detail`` the kernel's own words or "",
    ``status`` what a CTDR says of an installation that failed so.
    """

    def __init__(self, what: str, number: int, detail: str = "") -> None:
        self.name = errno.errorcode.get(number, str(number))
        hint = ""
        if number in (errno.EPERM, errno.EACCES):
            hint = "; it needs root or the capability CAP_NET_ADMIN"
        elif number in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            hint = "; this kernel has no NETLINK_XFRM (module xfrm_user)"
        said = f": {detail}" if detail else ""
        super().__init__(f"{what}: {os.strerror(number)} ({self.name}){said}{hint}")
        self.what = what
        self.status = _STATUSES.get(number, StatusCode.INSTALL_FAILED)
        self.number = number
        self.detail = detail


def open_socket(what: str, namespace: Namespace = None, groups: tuple[int, ...] = ()) -> socket.socket:
    """A bound socket to the kernel's IPsec database, a member of the groups.  Raises XfrmError with ``what``."""
    try:
        opened = socket_in(namespace, _open)
    except OSError as error:
        raise XfrmError(what, error.errno or 0) from error
    try:
        opened.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            opened.setsockopt(SOL_NETLINK, option, 1)
        for group in groups:
            opened.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        raise XfrmError(what, error.errno or 0) from error
    return opened


def set_receive_buffer(opened: socket.socket, octets: int) -> None:
    """Let it hold more, or less, than the system's default; a privileged call, so that the system's limit is none."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except OSError as error:
        raise XfrmError("sizing the buffer of a socket to the kernel", error.errno or 0) from error


def receive(opened: socket.socket) -> bytes:
    """One datagram of the kernel's.  Raises OSError as the socket does, MalformedNetlink where it was cut."""
    buffer = _buffer()
    while True:
        length, _, flags, sender = opened.recvmsg_into([buffer])
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if sender[0] == 0:  # another process with privileges may write to our port, and is not to be believed
            return bytes(buffer[:length])


def _buffer() -> memoryview:
    """One for each thread: a new megabyte for each datagram would cost more than to read it."""
    if not hasattr(_BUFFERS, "view"):
        _BUFFERS.view = memoryview(bytearray(_LARGEST))
    view: memoryview = _BUFFERS.view
    return view


_BUFFERS = threading.local()


def error_of(flags: int, octets: bytes) -> tuple[int, str]:
    """NLMSG_ERROR's body: errno, 0 for an acknowledgement, and the kernel's words (netlink's extended ACK)."""
    number = -int(read(S32, octets))
    if not flags & HeaderFlag.EXTENDED:
        return number, ""
    offset = octets_of(S32) + octets_of(MESSAGE_HEADER)
    if not flags & HeaderFlag.CAPPED:
        quoted = read(MESSAGE_HEADER, octets[octets_of(S32) :])
        offset = octets_of(S32) + ((max(quoted["length"], octets_of(MESSAGE_HEADER)) + 3) & ~3)
    text = dict(parse_attributes(octets[offset:])).get(_EXT_ACK_TEXT, b"")
    return number, text.rstrip(b"\0").decode("ascii", "replace")[:_TEXT_LIMIT]


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL)


def socket_in(namespace: Namespace, make: Callable[[], socket.socket]) -> socket.socket:
    """What ``make`` gives, made in the namespace, where it stays: a thread that goes there and ends leaves ours as it
    is.  Raises OSError."""
    if namespace is None:
        return make()
    opened: list[socket.socket] = []
    failed: list[OSError] = []

    def open_there() -> None:
        try:
            with _file_of(namespace).open("rb") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"network namespace {namespace}")
            opened.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]


def _file_of(namespace: str | int | Path) -> Path:
    if isinstance(namespace, Path):
        return namespace
    if isinstance(namespace, int):
        return Path(f"/proc/{namespace}/ns/net")
    if "/" in namespace or namespace in ("", ".", ".."):
        raise OSError(errno.EINVAL, f"{namespace!r} is no network namespace's name")
    return _NAMED / namespace
