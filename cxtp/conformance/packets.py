"""What IKE and ESP packets of a capture show, beside the contexts that moved: facts for the rules of content.

A capture is read a second time for them, since contexts are met after the packets that they open.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Union

from contexts.algorithms import ENCRYPTION, INTEGRITY, PRF
from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import ProtectedPacket, RestoredSession
from contexts.values import IPAddress, KeymatDerivation

from ..adapters.capture import IpPacket
from ..constants import IkeExchange
from ..errors import LocalError, RemoteError, UnsupportedAlgorithm
from .associations import Associations
from .bounded import Bounded
from .protection import esp_octets

MAXIMUM_CONTEXTS = 4096
"""Contexts that are tried on a capture's packets (ours)."""

REMEMBERED_NUMBERS = 4096
"""Sequence numbers remembered per SA direction, to know a second use by (ours: the greatest window there is)."""

MAXIMUM_NUMBERS = 262_144
"""Sequence numbers remembered of all SAs together; those of the SA silent the longest go first (ours: some 40 MiB)."""

FINDINGS_KEPT = 64

_PROTECTED_BY_ESP = (50, 17)
_EXCHANGE_TYPE_AT = 18
_KNOWN = {"encryption algorithm": ENCRYPTION, "integrity algorithm": INTEGRITY, "pseudorandom function": PRF}
_LOW_64 = (1 << 64) - 1
_LOW_32 = (1 << 32) - 1
_HALF = 1 << 31

SaKey = tuple[IPAddress, int]
"""Destination and SPI: what names one direction of an SA (RFC 4301, 4.1)."""

SessionKey = tuple[object, ...]
SaContext = Union[IkeSaContext, IpsecSaContext]


@dataclass(frozen=True)
class Moved:
    """A context that moved in the capture (``number`` and ``time`` of its CTD) or came from a file (number 0)."""

    number: int
    time: float
    context: Context = field(repr=False)
    generation: int | None = None


@dataclass
class Direction:
    """One direction of one SA as its ESP packets show it."""

    highest: int = 0
    """Of the 32 bits that are sent; once they have begun anew, the last that went further (RFC 1982, 3.2)."""

    wrapped: bool = False
    packets: int = 0
    first: int = 0
    last: int = 0
    used: OrderedDict[int, int] = field(default_factory=OrderedDict)
    """By sequence number: 64 bits of the packet's hash, then 64 of its number in the capture, as one integer."""

    reused: list[tuple[int, int, int]] = field(default_factory=list)
    owners: list[tuple[int, bytes]] = field(default_factory=list)
    highest_before: dict[int, int] = field(default_factory=dict)
    """By the number of the packet that moved a context: the highest sequence number before it."""

    def take(self, packet: IpPacket, number: int, octets: bytes) -> None:
        self.packets += 1
        self.first = self.first or packet.index
        digest = int.from_bytes(hashlib.blake2b(octets, digest_size=8).digest(), "big")
        before = self.used.get(number)
        if before is not None:
            if before >> 64 != digest and len(self.reused) < FINDINGS_KEPT:
                self.reused.append((before & _LOW_64, packet.index, number))
            return  # the same octets twice: a capture that saw a packet twice
        ahead = (number - self.highest) & _LOW_32
        if number < self.highest and ahead < _HALF:
            self.wrapped = True  # an extended number's low half begins anew (RFC 4303, 2.2.1)
        oldest = next(iter(self.used), self.highest)
        went_back = self.packets > 1 and number < min(self.highest - REMEMBERED_NUMBERS, oldest)
        if went_back and self.highest - number < 1 << 31 and len(self.reused) < FINDINGS_KEPT:
            self.reused.append((self.last, packet.index, number))
        self.last = packet.index
        self.used[number] = digest << 64 | packet.index
        if len(self.used) > REMEMBERED_NUMBERS:
            self.used.popitem(last=False)
        if ahead < _HALF or not self.wrapped:
            self.highest = number if self.wrapped else max(self.highest, number)
        another = not self.owners or self.owners[-1][1] != packet.link_source
        if packet.link_source and another and len(self.owners) < FINDINGS_KEPT:
            self.owners.append((packet.index, packet.link_source))


@dataclass
class Opened:
    """Packets of one kind that the contexts' SAs protect."""

    seen: int = 0
    opened: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


class PacketFacts:
    """Takes every IP packet of a capture, once the contexts are known.

    ``unrestored``: packets whose contexts give no keys, and why; ``unknown``: those whose algorithms the judge lacks.
    """

    def __init__(self, moved: Iterable[Moved]) -> None:
        self.moved = list(moved)[:MAXIMUM_CONTEXTS]
        self.opened = {"ike": Opened(), "esp": Opened(), "ah": Opened()}
        self.directions: OrderedDict[SaKey, Direction] = Bounded()
        self._active: OrderedDict[SaKey, Direction] = OrderedDict()
        self._remembered = 0
        self.associations = Associations()
        self.unrestored: list[tuple[int, str]] = []
        self.unknown: list[tuple[int, str]] = []
        self.session = self._restore()
        self._moves: dict[SaKey, deque[int]] = {}
        for item in self.moved:
            if item.number and isinstance(item.context, IpsecSaContext):
                key = (item.context.remote_host.address, item.context.outbound_spi)
                self._moves.setdefault(key, deque()).append(item.number)

    def newest(self) -> list[Moved]:
        """Each SA's context as it moved last."""
        found: dict[SessionKey, Moved] = {}
        for item in self.moved:
            found[identity(item.context)] = item
        return list(found.values())

    def _restore(self) -> RestoredSession | None:
        wanted = [(m.number, m.context) for m in self.newest() if isinstance(m.context, (IkeSaContext, IpsecSaContext))]
        if not wanted:
            return None
        try:
            return RestoredSession.restore(context for _, context in wanted)
        except (RemoteError, LocalError) as error:
            whole = (wanted[-1][0], str(error))
        usable = self._usable(wanted)
        try:
            return RestoredSession.restore(usable) if usable else None
        except (RemoteError, LocalError):  # each by itself, and not all together
            self.unrestored.append(whole)
            return None

    def _usable(self, wanted: list[tuple[int, SaContext]]) -> list[SaContext]:
        """What can be restored by itself, or an IPsec_SA with its IKE_SA; why the rest can't be is kept."""
        parents = {context.spis: context for _, context in wanted if isinstance(context, IkeSaContext)}
        usable: list[SaContext] = []
        for number, context in sorted(wanted, key=lambda item: isinstance(item[1], IpsecSaContext)):
            own: list[SaContext] = [context]
            if isinstance(context, IpsecSaContext) and isinstance(context.keying, KeymatDerivation):
                parent = parents.get(context.keying.ike_spis)
                if parent is not None and parent not in usable:
                    continue  # said of the IKE_SA
                own += [] if parent is None else [parent]
            try:
                RestoredSession.restore(own)
            except UnsupportedAlgorithm as error:
                known = error.number in _KNOWN.get(error.kind, ())  # then its key length is what is wrong
                (self.unrestored if known else self.unknown).append((number, str(error)))
            except (RemoteError, LocalError) as error:
                self.unrestored.append((number, str(error)))
            else:
                usable.append(context)
        return usable

    def take(self, packet: IpPacket) -> None:
        """One packet of the capture."""
        self.associations.take(packet)
        if packet.protocol not in _PROTECTED_BY_ESP:
            if self.session is not None and packet.protocol == 51:
                self._open(packet)
            return
        esp = esp_octets(packet)
        if esp is not None:
            self._follow(packet, esp)
        if self.session is not None:
            self._open(packet)

    def _follow(self, packet: IpPacket, esp: bytes) -> None:
        key = (packet.destination, int.from_bytes(esp[:4], "big"))
        direction = self.directions.get(key)
        if direction is None:
            forgotten = self._active.pop(key, None)
            self._remembered -= 0 if forgotten is None else len(forgotten.used)
            direction = self.directions[key] = Direction()
        number = int.from_bytes(esp[4:8], "big")
        moves = self._moves.get(key)
        while moves and moves[0] < packet.index:
            direction.highest_before[moves.popleft()] = direction.highest
        known = len(direction.used)
        direction.take(packet, number, esp)
        self._remembered += len(direction.used) - known
        self._active[key] = direction
        self._active.move_to_end(key)
        while self._remembered > MAXIMUM_NUMBERS:
            silent, quiet = next(iter(self._active.items()))
            quiet.used.popitem(last=False)
            self._remembered -= 1
            if not quiet.used:
                del self._active[silent]

    def _open(self, packet: IpPacket) -> None:
        session = self.session
        if session is None:
            return
        protected = session.classify(packet.octets)
        if protected is None:
            return
        tally = self.opened[protected.kind]
        tally.seen += 1
        try:
            session.open_recorded(protected)
            tally.opened += 1
        except RemoteError as error:
            if _from_before_the_last_key_update(session, protected):
                tally.seen -= 1
            elif len(tally.failures) < FINDINGS_KEPT:
                tally.failures.append((packet.index, str(error)))


def _from_before_the_last_key_update(session: RestoredSession, packet: ProtectedPacket) -> bool:
    """Whether an IKE_INTERMEDIATE message may be under keys that a context need not have.

    Each of these exchanges updates the keys and is itself under those before (RFC 9370, 2.2.2), which an IKE_SA in use
    has no more use for (docs/context-formats.md, 4.2).
    """
    if packet.ike_spis is None or packet.octets[_EXCHANGE_TYPE_AT] != IkeExchange.IKE_INTERMEDIATE:
        return False
    ike_sa = session.ike_sa(packet.ike_spis)
    updates = len(ike_sa.context.proposal.additional_key_exchanges)
    return len(ike_sa.generations) < 1 + max(1, updates)


def identity(context: Context) -> SessionKey:
    """What names the SA that a context describes."""
    if isinstance(context, IkeSaContext):
        return ("ike", context.spis)
    if isinstance(context, IpsecSaContext):
        return ("ipsec", context.proposal.protocol, context.inbound_spi, context.outbound_spi)
    return ("other", id(context))


__all__ = ["Direction", "Moved", "Opened", "PacketFacts", "SaKey", "SessionKey", "identity"]
