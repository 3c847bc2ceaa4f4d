"""Octets of NETLINK_XFRM from and to values: the messages' structures with their attributes.

:mod:`.layouts` has the boxes, :mod:`.attributes` the tables; nothing here asks a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any, NamedTuple

from .attributes import (
    ASYNC_EVENT_TABLE,
    POLICY_ID_TABLE,
    SA_TABLE,
    MalformedNetlink,
    Row,
    Table,
    UnfitValue,
    build_usage,
    octets_of,
    parse_attributes,
    read,
    read_table,
    usage_of,
    write,
    write_table,
)
from .constants import AF_INET, AttributeType
from .layouts import (
    ASYNC_EVENT_ID,
    MESSAGE_HEADER,
    MIGRATION,
    POLICY,
    POLICY_ID,
    SECURITY_ASSOCIATION,
    SECURITY_ASSOCIATION_ID,
    TEMPLATE,
)
from .values import (
    AsyncEvent,
    Errors,
    IPAddress,
    Lifetime,
    Mark,
    Migration,
    PolicyTemplate,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    SecurityPolicyId,
    Selector,
    Usage,
    family_of,
)

_HEADER_OCTETS = MESSAGE_HEADER.sizeof()


class Header(NamedTuple):
    """A netlink message's own."""

    length: int
    type: int
    flags: int
    sequence: int
    port: int


def messages(octets: bytes) -> Iterator[tuple[Header, bytes]]:
    """The netlink messages of one datagram: each one's header and what follows it."""
    offset = 0
    while offset + _HEADER_OCTETS <= len(octets):
        header = Header(**read(MESSAGE_HEADER, octets, offset))
        if not _HEADER_OCTETS <= header.length <= len(octets) - offset:
            raise MalformedNetlink(f"a message of length {header.length} in {len(octets) - offset} octets")
        yield header, octets[offset + _HEADER_OCTETS : offset + header.length]
        offset += (header.length + 3) & ~3


def build_message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message to the kernel."""
    header = {
        "length": _HEADER_OCTETS + len(body),
        "type": kind,
        "flags": flags,
        "sequence": sequence,
        "port": 0,
    }
    return write(MESSAGE_HEADER, header, "a message's header") + body + bytes(-len(body) % 4)


# --- SAs --------------------------------------------------------------------------------------------------------------


def parse_security_association(octets: bytes) -> SecurityAssociation:
    """XFRM_MSG_NEWSA's body.  Raises MalformedNetlink."""
    box = read(SECURITY_ASSOCIATION, octets)
    return SecurityAssociation(
        source=_address(box["source"], box["family"]),
        destination=_address(box["identifier"]["destination"], box["family"]),
        spi=box["identifier"]["spi"],
        protocol=box["identifier"]["protocol"],
        mode=box["mode"],
        request_id=box["request_id"],
        selector=_selector(box["selector"]),
        flags=box["flags"],
        window_field=box["replay_window"],
        lifetime=_lifetime(box["lifetime"]),
        usage=usage_of(box["current"]),
        errors=Errors(box["replay_window_errors"], box["replay_errors"], box["integrity_errors"]),
        sequence=box["sequence"],
        **read_table(SA_TABLE, octets[octets_of(SECURITY_ASSOCIATION) :]),
    )


def build_security_association(sa: SecurityAssociation) -> bytes:
    """The opposite; what came from a recording goes back octet for octet.  Raises UnfitValue."""
    box = {
        "selector": _selector_box(sa.selector),
        "identifier": {"destination": _octets(sa.destination), "spi": sa.spi, "protocol": sa.protocol},
        "source": _octets(sa.source),
        "lifetime": vars(sa.lifetime),
        "current": vars(sa.usage),
        "replay_window_errors": sa.errors.replay_window,
        "replay_errors": sa.errors.replay,
        "integrity_errors": sa.errors.integrity,
        "sequence": sa.sequence,
        "request_id": sa.request_id,
        "family": family_of(sa.destination),
        "mode": sa.mode,
        "replay_window": sa.window_field,
        "flags": sa.flags,
    }
    return write(SECURITY_ASSOCIATION, box, "an SA") + write_table(SA_TABLE, sa)


_TOLD_ONLY = (AttributeType.LAST_USED, AttributeType.ALIGNMENT)

def build_new_security_association(sa: SecurityAssociation) -> bytes:
    """The same as a request: the kernel takes the usage from an attribute only, and never the error counts."""
    other = tuple((number, octets) for number, octets in sa.other if number not in _TOLD_ONLY)
    if sa.usage != Usage():
        other += ((AttributeType.LIFETIME_CURRENT, build_usage(sa.usage)),)
    return build_security_association(replace(sa, last_used=None, errors=Errors(), other=other, order=()))


def build_security_association_id(identifier: SecurityAssociationId) -> bytes:
    """What GETSA and DELSA ask for."""
    return write(SECURITY_ASSOCIATION_ID, _id_box(identifier), "an SA's identifier") + _bare(
        {AttributeType.MARK: SA_TABLE[AttributeType.MARK]}, mark=identifier.mark
    )


def parse_deleted_security_association(octets: bytes) -> tuple[SecurityAssociationId, SecurityAssociation | None]:
    """XFRM_MSG_DELSA's body: the SA's structure is an attribute, beside the SA's own attributes."""
    identifier = _id(read(SECURITY_ASSOCIATION_ID, octets))
    rest = octets[octets_of(SECURITY_ASSOCIATION_ID) :]
    structure = dict(parse_attributes(rest)).get(AttributeType.SECURITY_ASSOCIATION)
    if structure is None:
        return identifier, None
    sa = parse_security_association(structure[: octets_of(SECURITY_ASSOCIATION)] + rest)
    other = tuple(item for item in sa.other if item[0] != AttributeType.SECURITY_ASSOCIATION)
    return replace(identifier, mark=sa.mark), replace(sa, other=other, order=())


# --- async events -----------------------------------------------------------------------------------------------------


def parse_async_event(octets: bytes) -> AsyncEvent:
    """XFRM_MSG_NEWAE's body.  Raises MalformedNetlink."""
    box = read(ASYNC_EVENT_ID, octets)
    named = read_table(ASYNC_EVENT_TABLE, octets[octets_of(ASYNC_EVENT_ID) :])
    return AsyncEvent(
        identifier=_id(box["identifier"], named.pop("mark", None)),
        source=_address(box["source"], box["identifier"]["family"]),
        flags=box["flags"],
        request_id=box["request_id"],
        **named,
    )


def build_async_event(event: AsyncEvent) -> bytes:
    """The opposite.  Raises UnfitValue."""
    box = {
        "identifier": _id_box(event.identifier),
        "source": _octets(event.source),
        "flags": event.flags,
        "request_id": event.request_id,
    }
    value = SimpleNamespace(mark=event.identifier.mark, **vars(event))
    return write(ASYNC_EVENT_ID, box, "an event") + write_table(ASYNC_EVENT_TABLE, value)


# --- policies ---------------------------------------------------------------------------------------------------------


def parse_policy(octets: bytes) -> SecurityPolicy:
    """XFRM_MSG_NEWPOLICY's body.  Raises MalformedNetlink."""
    box = read(POLICY, octets)
    return SecurityPolicy(
        direction=box["direction"],
        action=box["action"],
        priority=box["priority"],
        index=box["index"],
        selector=_selector(box["selector"]),
        flags=box["flags"],
        share=box["share"],
        lifetime=_lifetime(box["lifetime"]),
        usage=usage_of(box["current"]),
        **read_table(POLICY_TABLE, octets[octets_of(POLICY) :]),
    )


def build_policy(policy: SecurityPolicy) -> bytes:
    """The opposite.  Raises UnfitValue."""
    box = {
        "selector": _selector_box(policy.selector),
        "lifetime": vars(policy.lifetime),
        "current": vars(policy.usage),
        "priority": policy.priority,
        "index": policy.index,
        "direction": policy.direction,
        "action": policy.action,
        "flags": policy.flags,
        "share": policy.share,
    }
    return write(POLICY, box, "a policy") + write_table(POLICY_TABLE, policy)


def build_policy_id(identifier: SecurityPolicyId) -> bytes:
    """What GETPOLICY, DELPOLICY and MIGRATE ask for."""
    box = {
        "selector": _selector_box(identifier.selector),
        "index": identifier.index,
        "direction": identifier.direction,
    }
    return write(POLICY_ID, box, "a policy's identifier") + _bare(
        POLICY_ID_TABLE, kind=identifier.kind, mark=identifier.mark, interface_id=identifier.interface_id
    )


def parse_deleted_policy(octets: bytes) -> SecurityPolicy | SecurityPolicyId:
    """XFRM_MSG_DELPOLICY's body: the whole policy where the kernel tells it."""
    box = read(POLICY_ID, octets)
    rest = octets[octets_of(POLICY_ID) :]
    structure = dict(parse_attributes(rest)).get(AttributeType.POLICY)
    if structure is None:
        return SecurityPolicyId(box["direction"], _selector(box["selector"]), box["index"])
    policy = parse_policy(structure[: octets_of(POLICY)] + rest)
    other = tuple(item for item in policy.other if item[0] != AttributeType.POLICY)
    return replace(policy, other=other, order=())


def build_migration(identifier: SecurityPolicyId, migrations: Sequence[Migration]) -> bytes:
    """XFRM_MSG_MIGRATE's body."""
    content = b"".join(_migration(migration) for migration in migrations)
    head = build_policy_id(identifier)
    return head + _bare({AttributeType.MIGRATE: Row("content", bytes, bytes)}, content=content)


def _migration(migration: Migration) -> bytes:
    box = {
        "old_source": _octets(migration.old_source),
        "old_destination": _octets(migration.old_destination),
        "new_source": _octets(migration.new_source),
        "new_destination": _octets(migration.new_destination),
        "protocol": migration.protocol,
        "mode": migration.mode,
        "request_id": migration.request_id,
        "old_family": family_of(migration.old_destination),
        "new_family": family_of(migration.new_destination),
    }
    return write(MIGRATION, box, "a migration")


def _parse_templates(octets: bytes) -> tuple[PolicyTemplate, ...]:
    size = octets_of(TEMPLATE)
    if len(octets) % size:
        raise MalformedNetlink(f"templates of {len(octets)} octets")
    return tuple(_template(octets[at : at + size]) for at in range(0, len(octets), size))


def _template(octets: bytes) -> PolicyTemplate:
    box = read(TEMPLATE, octets)
    return PolicyTemplate(
        protocol=box["identifier"]["protocol"],
        mode=box["mode"],
        source=_address(box["source"], box["family"]),
        destination=_address(box["identifier"]["destination"], box["family"]),
        spi=box["identifier"]["spi"],
        request_id=box["request_id"],
        optional=bool(box["optional"]),
        share=box["share"],
        authentication_algorithms=box["authentication_algorithms"],
        encryption_algorithms=box["encryption_algorithms"],
        compression_algorithms=box["compression_algorithms"],
    )


def _build_templates(templates: tuple[PolicyTemplate, ...]) -> bytes | None:
    return b"".join(map(_build_template, templates)) if templates else None


def _build_template(template: PolicyTemplate) -> bytes:
    box = {
        **vars(template),
        "identifier": {
            "destination": _octets(template.destination),
            "spi": template.spi,
            "protocol": template.protocol,
        },
        "family": family_of(template.destination),
        "source": _octets(template.source),
        "optional": int(template.optional),
    }
    return write(TEMPLATE, box, "a template")


POLICY_TABLE: Table = {
    AttributeType.TEMPLATES: Row("templates", _parse_templates, _build_templates),
    **POLICY_ID_TABLE,
}


# --- parts of them ----------------------------------------------------------------------------------------------------


def _bare(table: Table, **fields: Any) -> bytes:
    return write_table(table, SimpleNamespace(other=(), order=(), **fields))


def _id(box: Any, mark: Mark | None = None) -> SecurityAssociationId:
    return SecurityAssociationId(_address(box["destination"], box["family"]), box["spi"], box["protocol"], mark)


def _id_box(identifier: SecurityAssociationId) -> dict[str, Any]:
    return {
        "destination": _octets(identifier.destination),
        "spi": identifier.spi,
        "family": family_of(identifier.destination),
        "protocol": identifier.protocol,
    }


def _selector(box: Any) -> Selector:
    return Selector(
        source=_address(box["source"], box["family"]),
        source_prefix=box["source_prefix"],
        destination=_address(box["destination"], box["family"]),
        destination_prefix=box["destination_prefix"],
        protocol=box["protocol"],
        source_port=box["source_port"],
        source_port_mask=box["source_port_mask"],
        destination_port=box["destination_port"],
        destination_port_mask=box["destination_port_mask"],
        interface=box["interface"],
        user=box["user"],
        any_family=box["family"] == 0,
    )


def _selector_box(selector: Selector) -> dict[str, Any]:
    return {
        "source": _octets(selector.source),
        "source_prefix": selector.source_prefix,
        "destination": _octets(selector.destination),
        "destination_prefix": selector.destination_prefix,
        "protocol": selector.protocol,
        "source_port": selector.source_port,
        "source_port_mask": selector.source_port_mask,
        "destination_port": selector.destination_port,
        "destination_port_mask": selector.destination_port_mask,
        "family": selector.family,
        "interface": selector.interface,
        "user": selector.user,
    }


def _lifetime(box: Any) -> Lifetime:
    return Lifetime(**box)


_FAMILIES: dict[int, Callable[[bytes], IPAddress]] = {AF_INET: lambda octets: IPv4Address(octets[:4])}


def _address(octets: bytes, family: int) -> IPAddress:
    # 0: a selector or template for packets of any family has addresses of zeros.
    return _FAMILIES.get(family, IPv6Address)(octets)


def _octets(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


__all__ = [
    "MalformedNetlink",
    "UnfitValue",
    "build_async_event",
    "build_message",
    "build_migration",
    "build_new_security_association",
    "build_policy",
    "build_policy_id",
    "build_security_association",
    "build_security_association_id",
    "messages",
    "parse_async_event",
    "parse_attributes",
    "parse_deleted_policy",
    "parse_deleted_security_association",
    "parse_policy",
    "parse_security_association",
]
