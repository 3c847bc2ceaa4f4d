"""What the kernel can be asked to do, one request each: pure, so that it can be looked at without a kernel.

A request's ``what`` goes into errors; it names SAs by SPI and destination, never by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .constants import HeaderFlag, MessageType
from .formats import (
    build_async_event,
    build_migration,
    build_new_security_association,
    build_policy,
    build_policy_id,
    build_security_association_id,
)
from .layouts import POLICY_ID, SECURITY_ASSOCIATION_ID
from .values import (
    AsyncEvent,
    Migration,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    SecurityPolicyId,
)


@dataclass(frozen=True)
class Request:
    """One message to the kernel; the client gives it its number and asks for an acknowledgement."""

    kind: int
    body: bytes = field(repr=False)  # keys are in it
    what: str
    flags: int = 0


def add_security_association(sa: SecurityAssociation) -> Request:
    """With its replay state and usage; EEXIST where it is there."""
    return Request(MessageType.NEW_SA, build_new_security_association(sa), f"adding {sa.identifier}")


def update_security_association(sa: SecurityAssociation) -> Request:
    """A larval one becomes this; of a whole one, lifetimes, encapsulation and marks change, and no replay state."""
    return Request(MessageType.UPDATE_SA, build_new_security_association(sa), f"updating {sa.identifier}")


def delete_security_association(identifier: SecurityAssociationId) -> Request:
    """ESRCH where there is none."""
    return Request(MessageType.DELETE_SA, build_security_association_id(identifier), f"deleting {identifier}")


def get_security_association(identifier: SecurityAssociationId) -> Request:
    """It is answered by NEW_SA."""
    return Request(MessageType.GET_SA, build_security_association_id(identifier), f"reading {identifier}")


def get_async_event(identifier: SecurityAssociationId) -> Request:
    """An SA's sequence numbers and usage, and nothing else of it; answered by NEW_ASYNC_EVENT."""
    event = AsyncEvent(identifier, identifier.destination)  # the kernel looks at no source
    return Request(MessageType.GET_ASYNC_EVENT, build_async_event(event), f"reading the counters of {identifier}")


def set_async_event(event: AsyncEvent) -> Request:
    """Set an SA's replay state, usage and thresholds: all that are not None.

    A replay state has the SA's own form, its bitmap the SA's own length; else EINVAL.  Both directions may be set.
    """
    return Request(
        MessageType.NEW_ASYNC_EVENT,
        build_async_event(replace(event, other=(), order=())),
        f"setting the counters of {event.identifier}",
        HeaderFlag.REPLACE,
    )


def add_policy(policy: SecurityPolicy) -> Request:
    """EEXIST where there is one with the same selector, direction, mark and kind."""
    body = build_policy(replace(policy, index=0, order=()))
    return Request(MessageType.NEW_POLICY, body, f"adding {policy.identifier}")


def update_policy(policy: SecurityPolicy) -> Request:
    """Add it, or put it in the place of the one that is there."""
    body = build_policy(replace(policy, index=0, order=()))
    return Request(MessageType.UPDATE_POLICY, body, f"updating {policy.identifier}")


def delete_policy(identifier: SecurityPolicyId) -> Request:
    """ENOENT where there is none."""
    return Request(MessageType.DELETE_POLICY, build_policy_id(identifier), f"deleting {identifier}")


def get_policy(identifier: SecurityPolicyId) -> Request:
    """It is answered by NEW_POLICY."""
    return Request(MessageType.GET_POLICY, build_policy_id(identifier), f"reading {identifier}")


def migrate(identifier: SecurityPolicyId, migrations: Sequence[Migration]) -> Request:
    """Change the ends of a policy's templates and of the SAs behind them, as MOBIKE does (RFC 4555).

    The kernel makes new SAs of the old ones, sequence numbers kept.  EINVAL without a migration.
    """
    return Request(MessageType.MIGRATE, build_migration(identifier, migrations), f"migrating {identifier}")


def flush_security_associations(protocol: int = 0) -> Request:
    """Delete all SAs of a protocol, 0 for every one."""
    return Request(MessageType.FLUSH_SA, bytes((protocol,)), "deleting all SAs")


def flush_policies() -> Request:
    """Delete all policies of kind main."""
    return Request(MessageType.FLUSH_POLICY, b"", "deleting all policies")


LIST_SECURITY_ASSOCIATIONS = Request(MessageType.GET_SA, bytes(SECURITY_ASSOCIATION_ID.sizeof()), "listing the SAs")
LIST_POLICIES = Request(MessageType.GET_POLICY, bytes(POLICY_ID.sizeof()), "listing the policies")
"""Dumps: they have a structure that nobody reads."""
