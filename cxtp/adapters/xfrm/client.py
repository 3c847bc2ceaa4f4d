"""Asks the kernel for its SAs and policies, and listens to what becomes of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ...errors import TransportError
from .formats import (
    MESSAGE_HEADER,
    S32,
    MalformedNetlink,
    messages,
    parse_deleted,
    parse_policy,
    parse_security_association,
)
from .values import SecurityAssociation, SecurityPolicy

_NETLINK_XFRM = 6
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1

_GET_SA, _NEW_SA, _DELETE_SA = 0x12, 0x10, 0x11
_GET_POLICY, _NEW_POLICY = 0x15, 0x13
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP, _DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x10
_EXCLUSIVE, _CREATE = 0x200, 0x400

_BODY_OCTETS = {_GET_SA: 24, _GET_POLICY: 64}
"""A dump's question has a structure that nobody reads."""

GROUPS = {"expire": 2, "sa": 3, "policy": 4}
"""Multicast groups: what changes in the kernel is told to their members."""

_ATTEMPTS = 5
_TIMEOUT = 5.0
_LARGEST = 1 << 20

T = TypeVar("T")


class XfrmError(TransportError):
    """The kernel can't be asked, or said no; ``number`` is the errno, ``what`` what was asked."""

    def __init__(self, what: str, number: int) -> None:
        name = errno.errorcode.get(number, str(number))
        hint = ""
        if number in (errno.EPERM, errno.EACCES):
            hint = "; it needs root or the capability CAP_NET_ADMIN"
        elif number in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            hint = "; this kernel has no NETLINK_XFRM (module xfrm_user)"
        super().__init__(f"{what}: {os.strerror(number)} ({name}){hint}")
        self.what = what
        self.number = number


class XfrmClient:
    """One netlink socket; closed by :meth:`close` or as a context manager."""

    def __init__(self) -> None:
        """Raises XfrmError."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
            self._socket.settimeout(_TIMEOUT)
            self._socket.bind((0, 0))
        except OSError as error:
            raise XfrmError("opening a socket to the kernel's IPsec database", error.errno or 0) from error
        self._sequence = 0

    def __enter__(self) -> XfrmClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def ask(self, kind: int, body: bytes, what: str, *, create: bool = False) -> None:
        """One request, and the kernel's yes.  Raises XfrmError with its no."""
        self._sequence += 1
        flags = _REQUEST | _ACKNOWLEDGE | ((_CREATE | _EXCLUSIVE) if create else 0)
        header = {
            "length": MESSAGE_HEADER.sizeof() + len(body),
            "type": kind,
            "flags": flags,
            "sequence": self._sequence,
            "port": 0,
        }
        try:
            self._socket.send(MESSAGE_HEADER.build(header) + body)
            while True:
                for answer, octets in messages(self._socket.recv(_LARGEST)):
                    if answer.sequence == self._sequence and answer.type == _ERROR:
                        number = -int(S32.parse(octets))
                        if number:
                            raise XfrmError(what, number)
                        return
        except OSError as error:
            raise XfrmError(what, error.errno or errno.ETIMEDOUT) from error

    def security_associations(self) -> list[SecurityAssociation]:
        """All SAs.  Raises XfrmError."""
        return self._dump(_GET_SA, _NEW_SA, parse_security_association, "listing the SAs")

    def policies(self) -> list[SecurityPolicy]:
        """All policies.  Raises XfrmError."""
        return self._dump(_GET_POLICY, _NEW_POLICY, parse_policy, "listing the policies")

    def _dump(self, question: int, answer: int, parse: Callable[[bytes], T], what: str) -> list[T]:
        for _ in range(_ATTEMPTS):
            found = []
            try:
                for header, body in self._ask(question, what):
                    if header.flags & _DUMP_INTERRUPTED:
                        break  # something changed meanwhile: what we have is neither old nor new
                    if header.type == answer:
                        found.append(parse(body))
                else:
                    return found
            except OSError as error:
                raise XfrmError(what, error.errno or errno.ETIMEDOUT) from error
        raise XfrmError(what, errno.EINTR)

    def _ask(self, question: int, what: str) -> Iterator[tuple[Any, bytes]]:
        """The answers to one dump, up to its end."""
        self._sequence += 1
        body = bytes(_BODY_OCTETS[question])
        header = {
            "length": MESSAGE_HEADER.sizeof() + len(body),
            "type": question,
            "flags": _REQUEST | _DUMP,
            "sequence": self._sequence,
            "port": 0,
        }
        self._socket.send(MESSAGE_HEADER.build(header) + body)
        while True:
            for answer, octets in messages(self._socket.recv(_LARGEST)):
                if answer.sequence != self._sequence:
                    continue
                if answer.type == _DONE:
                    return
                if answer.type == _ERROR:
                    raise XfrmError(what, -int(S32.parse(octets)))
                yield answer, octets


class DeletedAssociations:
    """What the kernel tells of SAs as they are deleted: the state that each had when it sent its last packet."""

    def __init__(self) -> None:
        """Raises XfrmError."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LARGEST)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, GROUPS["sa"])
            self._socket.setblocking(False)
        except OSError as error:
            raise XfrmError("listening to the kernel's IPsec database", error.errno or 0) from error

    def forget(self) -> None:
        """Whatever was told up to now is of no interest."""
        while True:
            try:
                self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:  # it ran over meanwhile
                continue

    def take(self) -> Iterator[SecurityAssociation]:
        """All that were deleted since.  Raises XfrmError where some may have been missed."""
        while True:
            try:
                datagram = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                raise XfrmError("listening to the kernel's IPsec database", error.errno or 0) from error
            for header, body in messages(datagram):
                if header.type == _DELETE_SA:
                    yield parse_deleted(body)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


class XfrmEvents:
    """Tells that something changed in the kernel's SAs or policies; what it was is to be looked up."""

    def __init__(self) -> None:
        """Raises XfrmError."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
            self._socket.bind((0, 0))
            for group in GROUPS.values():
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            self._socket.setblocking(False)
        except OSError as error:
            raise XfrmError("listening to the kernel's IPsec database", error.errno or 0) from error

    def fileno(self) -> int:
        """For an event loop's add_reader."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take all that was told; True where anything was, or may have been (the kernel's queue ran over)."""
        changed = False
        while True:
            try:
                self._socket.recv(_LARGEST)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise XfrmError("listening to the kernel's IPsec database", error.errno or 0) from error
            changed = True

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


__all__ = ["MalformedNetlink", "XfrmClient", "XfrmError", "XfrmEvents"]
