"""What the kernel is asked to do with SAs and policies, as octets."""

from __future__ import annotations

from dataclasses import dataclass, field

from .algorithms import Suite
from .formats import (
    AF_INET,
    AF_INET6,
    ALGORITHM,
    ALGORITHM_WITH_ICV,
    ASSOCIATION_NAME,
    ATTRIBUTE_HEADER,
    ENCAPSULATION,
    FLAG_AF_UNSPEC,
    FLAG_ESN,
    LIFETIME_CURRENT,
    MARK,
    POLICY,
    SECURITY_ASSOCIATION,
    SELECTOR,
    TEMPLATE,
    U32,
    Attribute,
)
from .replay import ReplayState
from .values import IPAddress, PolicyTemplate, SecurityPolicy, Selector

NEW_SA, DELETE_SA, UPDATE_SA = 0x10, 0x11, 0x1A
NEW_POLICY, DELETE_POLICY, UPDATE_POLICY = 0x13, 0x14, 0x19

INFINITE = (1 << 64) - 1
_EVERYTHING = 0xFFFF_FFFF
_UDP_ENCAPSULATION = 2  # UDP_ENCAP_ESPINUDP (RFC 3948)


@dataclass(frozen=True)
class Limits:
    """Of an SA: octets and packets in all, seconds since it was made; None for no limit."""

    soft_octets: int | None = None
    hard_octets: int | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None
    soft_seconds: int | None = None
    hard_seconds: int | None = None


@dataclass(frozen=True)
class NewAssociation:
    """An SA of one direction.  ``ports``: ESP in UDP, source and destination port; ``used``: octets and packets."""

    source: IPAddress
    destination: IPAddress
    spi: int
    protocol: int
    mode: int
    request_id: int
    suite: Suite = field(repr=False)
    replay: ReplayState
    limits: Limits = Limits()
    used: tuple[int, int] = (0, 0)
    made: int = 0
    ports: tuple[int, int] | None = None
    mark: tuple[int, int] = (0, 0)
    interface_id: int = 0


def family_of(address: IPAddress) -> int:
    return AF_INET if address.version == 4 else AF_INET6


def octets_of(address: IPAddress) -> bytes:
    """16 octets, IPv4 in the first four."""
    return address.packed.ljust(16, b"\0")


def attribute(number: int, octets: bytes) -> bytes:
    """One attribute, padded."""
    size = ATTRIBUTE_HEADER.sizeof()
    head = ATTRIBUTE_HEADER.build({"length": size + len(octets), "type": number})
    return bytes(head) + octets + bytes(-len(octets) % 4)


def identifier(destination: IPAddress, spi: int, protocol: int) -> dict[str, object]:
    return {"destination": octets_of(destination), "spi": spi, "protocol": protocol}


def new_association(association: NewAssociation) -> bytes:
    """XFRM_MSG_NEWSA's and XFRM_MSG_UPDSA's body: replay state and counters in one (they take effect together)."""
    limits, replay = association.limits, association.replay
    body = SECURITY_ASSOCIATION.build(
        {
            "selector": _selector(None),
            "identifier": identifier(association.destination, association.spi, association.protocol),
            "source": octets_of(association.source),
            "lifetime": _lifetime(limits),
            "current": {"octets": 0, "packets": 0, "add_time": 0, "use_time": 0},
            "replay_window_errors": 0,
            "replay_errors": 0,
            "integrity_errors": 0,
            "sequence": 0,
            "request_id": association.request_id,
            "family": family_of(association.destination),
            "mode": association.mode,
            "replay_window": replay.window if replay.is_small else 0,
            "flags": FLAG_AF_UNSPEC * (association.mode != 0) | FLAG_ESN * replay.extended,
        }
    )
    octets, packets = association.used
    current = {"octets": octets, "packets": packets, "add_time": association.made, "use_time": 0}
    parts = [
        bytes(body),
        *_algorithms(association.suite),
        attribute(Attribute.REPLAY if replay.is_small else Attribute.REPLAY_ESN, replay.build()),
        attribute(Attribute.LIFETIME_CURRENT, LIFETIME_CURRENT.build(current)),
        *_marks(association.mark, association.interface_id),
    ]
    if association.ports is not None:
        source_port, destination_port = association.ports
        box = {
            "type": _UDP_ENCAPSULATION,
            "source_port": source_port,
            "destination_port": destination_port,
            "original": bytes(16),
        }
        parts.append(attribute(Attribute.ENCAPSULATION, ENCAPSULATION.build(box)))
    return b"".join(parts)


def delete_association(association: NewAssociation) -> bytes:
    """XFRM_MSG_DELSA's body."""
    name = {
        "destination": octets_of(association.destination),
        "spi": association.spi,
        "family": family_of(association.destination),
        "protocol": association.protocol,
    }
    marks = b"".join(_marks(association.mark, association.interface_id))
    return bytes(ASSOCIATION_NAME.build(name)) + marks


def new_policy(policy: SecurityPolicy) -> bytes:
    """XFRM_MSG_NEWPOLICY's and XFRM_MSG_UPDPOLICY's body."""
    body = POLICY.build(
        {
            "selector": _selector(policy.selector),
            "lifetime": _lifetime(Limits()),
            "current": {"octets": 0, "packets": 0, "add_time": 0, "use_time": 0},
            "priority": policy.priority,
            "index": 0,
            "direction": policy.direction,
            "action": policy.action,
            "flags": 0,
            "share": 0,
        }
    )
    templates = b"".join(map(_template, policy.templates))
    return bytes(body) + attribute(Attribute.TEMPLATES, templates) + b"".join(_marks(policy.mark, policy.interface_id))


def delete_policy(policy: SecurityPolicy) -> bytes:
    """XFRM_MSG_DELPOLICY's body: selector, index 32, direction 8, padding 24."""
    selector = bytes(SELECTOR.build(_selector(policy.selector)))
    marks = b"".join(_marks(policy.mark, policy.interface_id))
    return selector + bytes(4) + bytes((policy.direction, 0, 0, 0)) + marks


def _template(template: PolicyTemplate) -> bytes:
    return bytes(
        TEMPLATE.build(
            {
                "identifier": identifier(template.destination, template.spi, template.protocol),
                "family": family_of(template.destination),
                "source": octets_of(template.source),
                "request_id": template.request_id,
                "mode": template.mode,
                "share": 0,
                "optional": int(template.optional),
                "authentication_algorithms": _EVERYTHING,
                "encryption_algorithms": _EVERYTHING,
                "compression_algorithms": _EVERYTHING,
            }
        )
    )


def _selector(selector: Selector | None) -> dict[str, object]:
    names = ("source_port", "source_port_mask", "destination_port", "destination_port_mask", "protocol", "interface")
    if selector is None:
        empty = dict.fromkeys((*names, "source_prefix", "destination_prefix", "family", "user"), 0)
        return {**empty, "source": bytes(16), "destination": bytes(16)}
    return {
        **{name: getattr(selector, name) for name in names},
        "source": octets_of(selector.source),
        "source_prefix": selector.source_prefix,
        "destination": octets_of(selector.destination),
        "destination_prefix": selector.destination_prefix,
        "family": family_of(selector.source),
        "user": 0,
    }


def _lifetime(limits: Limits) -> dict[str, int]:
    def limit(number: int | None) -> int:
        return INFINITE if number is None else number

    return {
        "soft_octets": limit(limits.soft_octets),
        "hard_octets": limit(limits.hard_octets),
        "soft_packets": limit(limits.soft_packets),
        "hard_packets": limit(limits.hard_packets),
        "soft_add_seconds": limits.soft_seconds or 0,
        "hard_add_seconds": limits.hard_seconds or 0,
        "soft_use_seconds": 0,
        "hard_use_seconds": 0,
    }


def _algorithms(suite: Suite) -> list[bytes]:
    parts = []
    for number, algorithm, layout in (
        (Attribute.AEAD, suite.aead, ALGORITHM_WITH_ICV),
        (Attribute.ENCRYPTION, suite.encryption, ALGORITHM),
        (Attribute.AUTHENTICATION_TRUNCATED, suite.authentication, ALGORITHM_WITH_ICV),
    ):
        if algorithm is not None:
            box = {"name": algorithm.name.encode(), "key_bits": len(algorithm.key) * 8, "icv_bits": algorithm.icv_bits}
            parts.append(attribute(number, bytes(layout.build(box)) + algorithm.key))
    return parts


def _marks(mark: tuple[int, int], interface_id: int) -> list[bytes]:
    parts = []
    if mark != (0, 0):
        parts.append(attribute(Attribute.MARK, MARK.build({"value": mark[0], "mask": mark[1]})))
    if interface_id:
        parts.append(attribute(Attribute.INTERFACE_ID, U32.build(interface_id)))
    return parts
