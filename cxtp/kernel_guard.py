"""Policies that block a session's traffic whatever its IKE daemon does to its own policies.

A kernel knows a policy by direction and selector, and a daemon adds and deletes by these: a blocking policy under the
daemon's own selector would be replaced, or deleted, by it.  So a guard has other selectors that together cover the
same packets - the two halves of the source ports; a packet without ports has port 0 - and the highest priority.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from contexts.ipsec import IpsecSaContext

from .adapters.xfrm import requests
from .adapters.xfrm.client import XfrmClient
from .adapters.xfrm.values import Direction, PolicyAction, SecurityPolicy, Selector
from .kernel_contexts import selectors_of

log = logging.getLogger(__name__)

PRIORITY = 1
"""Before all that daemons use; 0 is the kernel's own."""

_HALF = 0x8000
_ALL = 0xFFFF


def guard_policies(contexts: Iterable[IpsecSaContext]) -> list[SecurityPolicy]:
    """What blocks the traffic of IPsec_SA contexts, out, in and forwarded.  Raises LocalError."""
    found = {
        (direction, part): SecurityPolicy(direction, PolicyAction.BLOCK, PRIORITY, 0, part)
        for context in contexts
        for direction, selector in selectors_of(context)
        for part in _parts(selector)
    }
    return list(found.values())


def _parts(selector: Selector) -> Iterator[Selector]:
    if selector.source_port_mask == 0:
        yield replace(selector, source_port=0, source_port_mask=_HALF)
        yield replace(selector, source_port=_HALF, source_port_mask=_HALF)
    else:  # one port: the port beside it is blocked with it, for the time that a move takes
        mask = _ALL - 1
        yield replace(selector, source_port=selector.source_port & mask, source_port_mask=mask)


def block(client: XfrmClient, contexts: Iterable[IpsecSaContext]) -> None:
    """From now on nothing of it passes.  Raises XfrmError, LocalError."""
    for error in client.execute([requests.update_policy(policy) for policy in guard_policies(contexts)]):
        if error is not None:
            raise error


def unblock(client: XfrmClient, contexts: Iterable[IpsecSaContext]) -> None:
    """The guards go, where they are there."""
    guards = guard_policies(contexts)
    for error in client.execute([requests.delete_policy(policy.identifier) for policy in guards]):
        if error is not None and error.number != errno.ENOENT:
            log.error("%s", error)


def is_blocked(client: XfrmClient, contexts: Iterable[IpsecSaContext]) -> bool:
    """Whether any guard is there: a program died while it moved the session."""
    guards = [policy.identifier for policy in guard_policies(contexts) if policy.direction is Direction.OUT]
    return any(policy is not None for policy in client.policies_of(guards))
