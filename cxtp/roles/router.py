"""What previous and new router have in common: how they take a mobile node's CTAR, and answer it."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import ProtocolConfig
from ..constants import FeatureProfileType
from ..messages import (
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    IPAddress,
)
from .events import DropReason, Peer, Random
from .machine import Role
from .memory import Memory, RequestRate


def of_all(status: int) -> tuple[ContextStatus, ...]:
    """One status for a transfer as a whole: the reserved context type 0 stands for all of them (our decision)."""
    return (ContextStatus(FeatureProfileType.RESERVED, status),)


class Router(Role):
    """Rate limit, duplicates and acknowledgement of CTARs (RFC 4067, 2.5.1, 2.5.2 and 3.2).

    A router ignores a CTAR whose sequence number and mobile node it has had; where it answered the first with a
    CTAA, it sends that again, since it is the CTAA's loss that made the mobile node repeat itself.
    """

    def __init__(self, routers: Mapping[IPAddress, Peer], random: Random, config: ProtocolConfig) -> None:
        super().__init__(routers, random, config)
        self._rate = RequestRate(config.limits.request_rate)
        self._activations: Memory[tuple[IPAddress, int], ContextTransferActivateAcknowledge | None] = Memory(
            config.limits.remembered_requests, config.timers.max_handover_time
        )

    def remembers(self, mn_address: IPAddress, sequence_number: int, now: float) -> bool:
        """Whether this role has acted on the mobile node's CTAR with this sequence number."""
        return self._activations.knows((mn_address, sequence_number), now)

    def _is_new(self, request: ContextTransferActivateRequest, peer: Peer, now: float) -> bool:
        """Whether to act on a CTAR; one that is too many or a duplicate is dropped here."""
        mn_address = request.mn_previous_address
        seen = (mn_address, request.sequence_number)
        if not self._rate.admit(now, self._random):
            self._drop(DropReason.RATE_LIMITED, f"CTAR for {mn_address}", peer)
        elif self._activations.knows(seen, now):
            self._drop(DropReason.DUPLICATE_REQUEST, f"CTAR for {mn_address}", peer)
            answer = self._activations.recall(seen, now)
            if answer is not None and request.acknowledge:
                self._send(answer, peer)
        else:
            return True
        return False

    def _note(self, request: ContextTransferActivateRequest, now: float) -> None:
        """Remember a CTAR that is acted on: its repetitions are duplicates from now on."""
        self._remember(self._activations, (request.mn_previous_address, request.sequence_number), None, now)

    def _had_by_another(self, mn_address: IPAddress, sequence_number: int, now: float) -> None:
        """The new router had a CTAR and asked for its contexts, which are there now.  The same CTAR goes to both
        routers (RFC 4067, 5.3): one that comes here late, when nothing is here any more, must not fetch them back."""
        seen = (mn_address, sequence_number)
        if not self._activations.knows(seen, now):
            answer = ContextTransferActivateAcknowledge(mn_previous_address=mn_address)
            self._remember(self._activations, seen, answer, now)

    def _acknowledge(
        self,
        request: ContextTransferActivateRequest,
        peer: Peer,
        statuses: tuple[ContextStatus, ...],
        now: float,
    ) -> None:
        """Send the CTAA, if the CTAR's A asks for one: ``statuses`` of what was not transferred."""
        if not request.acknowledge:
            return
        mn_address = request.mn_previous_address
        told = statuses[: self.config.limits.identifiers_per_packet]
        answer = ContextTransferActivateAcknowledge(mn_previous_address=mn_address, statuses=told)
        self._remember(self._activations, (mn_address, request.sequence_number), answer, now)
        self._send(answer, peer)
