"""How a move ends: a report, or one of three refusals that say where the session is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from contexts.base import Context
from contexts.encoding.vendor import find_vendor_value
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import CommonVendorNumber

from .constants import StatusCode
from .errors import CxtpError, LocalError
from .messages import ContextStatus, IPAddress
from .roles.events import ActivationRequested, ContextsRequested
from .store.records import SessionRecord, SessionState


class MoveRefused(CxtpError):
    """The new router does not take the session; it stays here.  ``statuses`` are the CTDR's."""

    def __init__(
        self, mn_address: IPAddress, router: str, statuses: Iterable[ContextStatus], contexts: Iterable[Context] = ()
    ) -> None:
        """``contexts`` are the session's, for what a status means of them."""
        self.statuses = tuple(statuses)
        names = ", ".join(_status_name(s) for s in self.statuses) or "no reason given"
        if any(s.status == StatusCode.UNKNOWN_CONNECTION for s in self.statuses):
            names += f"; its daemon needs {_connections(contexts)}"
        super().__init__(f"{router} refused {mn_address}: {names}; the session stays here")


class MoveOvertaken(CxtpError):
    """The new router knows a later owner, and an earlier answer may have been lost: it may have had the session and
    passed it on.  It stays frozen here, out of use."""

    def __init__(self, mn_address: IPAddress, router: str) -> None:
        super().__init__(
            f"{router} knows a later owner of {mn_address}, and may have had it from here: it stays frozen here; "
            "once another node is seen to have it, forget it here (cxtp node forget --frozen)"
        )


class MoveUnconfirmed(CxtpError):
    """No answer: the new router may have the session or not.  It stays frozen here until the router answers."""

    def __init__(self, mn_address: IPAddress, router: str) -> None:
        super().__init__(
            f"{router} did not answer for {mn_address}: the session stays frozen here, "
            "since it may be in use there; move it to the same router again once that is back"
        )


def _status_name(status: ContextStatus) -> str:
    known = status.status in StatusCode._value2member_map_
    name = StatusCode(status.status).name if known else f"status {status.status:#04x}"
    return f"{name} (context type {status.feature_profile_type:#06x})"


def _connections(contexts: Iterable[Context]) -> str:
    """What an IKE daemon looks up by its name."""
    found = []
    for context in contexts:
        if isinstance(context, IkeSaContext):
            number, kind, parameters = CommonVendorNumber.CONNECTION_NAME, "connection", context.vendor_parameters
        elif isinstance(context, IpsecSaContext):
            number, kind, parameters = CommonVendorNumber.CHILD_NAME, "child", context.vendor_parameters
        else:
            continue
        found.append(f"the {kind} {find_vendor_value(parameters, number) or '(unnamed)'}")
    return " and ".join(dict.fromkeys(found))


@dataclass(frozen=True)
class MoveReport:
    """A confirmed move: how many contexts and octets of CXTP messages, and how long it took."""

    mn_address: IPAddress
    router: str
    contexts: int
    octets: int
    milliseconds: float


def may_leave(record: SessionRecord, event: ContextsRequested | ActivationRequested) -> bool:
    """Whether the session is here and a request names just the types that it has; none named means all.

    Types that are not named are not sent (RFC 4067, 2.5.1), and what stayed behind of a session would be lost: so one
    that is not named whole does not move (docs/decisions.md, 27).
    """
    asked = event.requested if isinstance(event, ContextsRequested) else event.request.requested
    held = {context.feature_profile_type for context in record.contexts}
    return record.state is SessionState.OWNED and (not asked or held == {item.feature_profile_type for item in asked})


def gone(mn_address: IPAddress) -> LocalError:
    """Something else became of it."""
    return LocalError(f"the session of {mn_address} changed hands while it was being moved")
