"""What the kernel tells of its SAs and policies, as values."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Union

from .attributes import MalformedNetlink, octets_of, read
from .constants import Group, MessageType
from .formats import (
    messages,
    parse_async_event,
    parse_deleted_policy,
    parse_deleted_security_association,
    parse_policy,
    parse_security_association,
)
from .layouts import MAPPING, POLICY_EXPIRE, SA_EXPIRE, SECURITY_ASSOCIATION_ID
from .netlink import Namespace, XfrmError, open_socket, receive, set_receive_buffer
from .values import (
    AsyncEvent,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    SecurityPolicyId,
)

LARGEST_READ = 1000
"""Datagrams taken by one :meth:`XfrmEvents.read`: the rest waits in the kernel, so that others get their turn."""


@dataclass(frozen=True)
class SecurityAssociationAdded:
    """Or ``updated``: it was there."""

    sa: SecurityAssociation
    updated: bool


@dataclass(frozen=True)
class SecurityAssociationDeleted:
    """``sa`` is what it was, as far as the kernel tells."""

    identifier: SecurityAssociationId
    sa: SecurityAssociation | None


@dataclass(frozen=True)
class SecurityAssociationsFlushed:
    """All of a protocol; 0 or 255: of every one."""

    protocol: int


@dataclass(frozen=True)
class SecurityAssociationExpired:
    """``hard``: it is gone; else it is to be replaced."""

    sa: SecurityAssociation
    hard: bool


@dataclass(frozen=True)
class PolicyAdded:
    """Or ``updated``: it was there."""

    policy: SecurityPolicy
    updated: bool


@dataclass(frozen=True)
class PolicyDeleted:
    """The policy, or what is known of it."""

    policy: SecurityPolicy | SecurityPolicyId


@dataclass(frozen=True)
class PoliciesFlushed:
    """All of them."""


@dataclass(frozen=True)
class PolicyExpired:
    """``hard``: it is gone."""

    policy: SecurityPolicy
    hard: bool


@dataclass(frozen=True)
class MappingChanged:
    """The peer of an SA in UDP sends from another port; ``new_source`` as the kernel's 16 octets."""

    identifier: SecurityAssociationId
    new_source: bytes
    new_source_port: int


@dataclass(frozen=True)
class EventsLost:
    """The kernel had more to tell than the socket holds: look everything up again."""


@dataclass(frozen=True)
class UnknownEvent:
    """A message of a type, or of a form, that has no value here."""

    kind: int
    octets: bytes = field(repr=False)  # keys may be in them


XfrmEvent = Union[
    SecurityAssociationAdded,
    SecurityAssociationDeleted,
    SecurityAssociationsFlushed,
    SecurityAssociationExpired,
    PolicyAdded,
    PolicyDeleted,
    PoliciesFlushed,
    PolicyExpired,
    MappingChanged,
    AsyncEvent,
    EventsLost,
    UnknownEvent,
]


def parse_event(kind: int, octets: bytes) -> XfrmEvent:
    """One message of a group; never raises."""
    parse = _PARSERS.get(kind)
    try:
        return UnknownEvent(kind, octets) if parse is None else parse(octets)
    except MalformedNetlink:
        return UnknownEvent(kind, octets)


def _sa_expired(octets: bytes) -> XfrmEvent:
    box = read(SA_EXPIRE, octets)
    return SecurityAssociationExpired(
        parse_security_association(box["sa"] + octets[octets_of(SA_EXPIRE) :]), bool(box["hard"])
    )


def _policy_expired(octets: bytes) -> XfrmEvent:
    box = read(POLICY_EXPIRE, octets)
    return PolicyExpired(parse_policy(box["policy"] + octets[octets_of(POLICY_EXPIRE) :]), bool(box["hard"]))


def _mapping(octets: bytes) -> XfrmEvent:
    box = read(MAPPING, octets)
    identifier, _ = parse_deleted_security_association(octets[: octets_of(SECURITY_ASSOCIATION_ID)])
    return MappingChanged(identifier, box["new_source"], box["new_source_port"])


_PARSERS: dict[int, Callable[[bytes], XfrmEvent]] = {
    MessageType.NEW_SA: lambda octets: SecurityAssociationAdded(parse_security_association(octets), False),
    MessageType.UPDATE_SA: lambda octets: SecurityAssociationAdded(parse_security_association(octets), True),
    MessageType.DELETE_SA: lambda octets: SecurityAssociationDeleted(*parse_deleted_security_association(octets)),
    MessageType.FLUSH_SA: lambda octets: SecurityAssociationsFlushed(octets[0] if octets else 0),
    MessageType.EXPIRE: _sa_expired,
    MessageType.NEW_POLICY: lambda octets: PolicyAdded(parse_policy(octets), False),
    MessageType.UPDATE_POLICY: lambda octets: PolicyAdded(parse_policy(octets), True),
    MessageType.DELETE_POLICY: lambda octets: PolicyDeleted(parse_deleted_policy(octets)),
    MessageType.FLUSH_POLICY: lambda octets: PoliciesFlushed(),
    MessageType.POLICY_EXPIRE: _policy_expired,
    MessageType.MAPPING: _mapping,
    MessageType.NEW_ASYNC_EVENT: parse_async_event,
}


class XfrmEvents:
    """A non-blocking socket that is told what changes."""

    def __init__(
        self,
        groups: Sequence[int] = (Group.EXPIRE, Group.SA, Group.POLICY),
        namespace: Namespace = None,
        *,
        receive_buffer: int | None = None,
    ) -> None:
        """``receive_buffer``: octets that may wait in the kernel (None: the system's default).  Raises XfrmError."""
        self._socket = open_socket("listening to the kernel's IPsec database", namespace, tuple(groups))
        self._socket.setblocking(False)
        if receive_buffer is not None:
            set_receive_buffer(self._socket, receive_buffer)

    def fileno(self) -> int:
        """For an event loop's add_reader."""
        return self._socket.fileno()

    def read(self) -> list[XfrmEvent]:
        """What was told since the last time, LARGEST_READ datagrams at most.  Raises XfrmError."""
        events: list[XfrmEvent] = []
        for _ in range(LARGEST_READ):
            octets = self._receive()
            if octets is None:
                break
            if not octets:
                events.append(EventsLost())
                continue
            try:
                events += [parse_event(header.type, body) for header, body in messages(octets)]
            except MalformedNetlink:
                events.append(EventsLost())
        return events

    def read_kinds(self) -> list[int]:
        """As :meth:`read`, for who wants to know no more than the types (MessageType); 0 where something was lost."""
        kinds: list[int] = []
        for _ in range(LARGEST_READ):
            octets = self._receive()
            if octets is None:
                break
            try:
                kinds += [header.type for header, _ in messages(octets)] if octets else [0]
            except MalformedNetlink:
                kinds.append(0)
        return kinds

    def drain(self) -> bool:
        """Take all that was told; True where anything was, or may have been (the kernel's queue ran over)."""
        changed = False
        while self._receive() is not None:
            changed = True
        return changed

    def _receive(self) -> bytes | None:
        """A datagram; none of its octets where some were lost; None where nothing waits."""
        try:
            return receive(self._socket)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                return b""
            raise XfrmError("listening to the kernel's IPsec database", error.errno or 0) from error

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
