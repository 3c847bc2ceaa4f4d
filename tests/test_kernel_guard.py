"""The policies that block a session whatever its daemon does: they cover its selectors, and are none of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from node_helpers import recorded_contexts

from contexts.base import decode
from contexts.ipsec import IpsecSaContext
from contexts.values import TrafficSelector
from cxtp.adapters.xfrm.values import Direction, PolicyAction, Selector
from cxtp.errors import LocalError
from cxtp.kernel_contexts import selectors_of
from cxtp.kernel_guard import PRIORITY, guard_policies


def context(local: TrafficSelector, remote: TrafficSelector) -> IpsecSaContext:
    found = next(c for c in map(decode, recorded_contexts()) if isinstance(c, IpsecSaContext))
    return replace(found, local_selectors=(local,), remote_selectors=(remote,))


def selector(text: str, port: tuple[int, int] = (0, 65535), protocol: int = 0) -> TrafficSelector:
    first, _, last = text.partition("-")
    return TrafficSelector(ip_address(first), ip_address(last or first), *port, protocol)


def matches(policy: Selector, source: int, destination: int) -> bool:
    """By the kernel's rule: ports under their masks (net/xfrm/xfrm_policy.c, __xfrm4_selector_match)."""
    return (
        source & policy.source_port_mask == policy.source_port
        and destination & policy.destination_port_mask == policy.destination_port
    )


@pytest.mark.parametrize("ports", [(0, 65535), (443, 443), (0x8000, 0x8000)])
@pytest.mark.parametrize("family", ["10.1.0.0-10.1.255.255 10.2.0.1", "2001:db8::-2001:db8::ffff 2001:db8:1::1"])
def test_every_packet_of_the_session_is_blocked(ports: tuple[int, int], family: str) -> None:
    local, remote = family.split()
    session = context(selector(local, ports, 17), selector(remote, (0, 65535), 17))
    policies = guard_policies([session])
    own = set(selectors_of(session))
    assert {policy.direction for policy in policies} == {Direction.OUT, Direction.IN, Direction.FORWARD}
    for policy in policies:
        assert (policy.action, policy.priority) == (PolicyAction.BLOCK, PRIORITY)
        # A daemon adds and deletes policies by direction and selector: it never meets one of these.
        assert (policy.direction, policy.selector) not in own
    for direction, wanted in own:
        there = [policy.selector for policy in policies if policy.direction is direction]
        networks = {(s.source, s.source_prefix, s.destination, s.destination_prefix, s.protocol) for s in there}
        assert networks == {
            (wanted.source, wanted.source_prefix, wanted.destination, wanted.destination_prefix, wanted.protocol)
        }
        for source in (0, 1, 442, 443, 0x7FFF, 0x8000, 0x8001, 65535):
            for destination in (0, 443, 0x8000, 65535):
                if matches(wanted, source, destination):
                    assert sum(matches(one, source, destination) for one in there) == 1


def test_what_no_policy_can_say_is_an_error() -> None:
    with pytest.raises(LocalError, match="range"):
        guard_policies([context(selector("10.1.0.1-10.1.0.6"), selector("10.2.0.1"))])
