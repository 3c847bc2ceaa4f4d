"""A session restored from its contexts: the proof that a move kept everything.

Give it the contexts, then packets as they cross the network: it tells which of them the SAs protect
(:meth:`RestoredSession.classify`, which no octets can make raise) and opens them (:meth:`RestoredSession.open`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, Union

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import derive_ipsec_keys
from contexts.values import IkeKeys, IkeSpis, IPAddress, IpsecKeys, KeymatDerivation
from cxtp.constants import IKE_PORT, NAT_TRAVERSAL_PORT, NON_ESP_MARKER, SecurityProtocol, StatusCode
from cxtp.errors import IntegrityError, LocalError, ProtectionError, RemoteError, ReplayError

from .ah import AhSaSession
from .esp import IpsecSaSession
from .ike import IkeSaSession, OpenedIkeMessage
from .ike_message import split_message
from .ip_packet import IpPacket, inner_length, parse_ip
from .ipcomp import decompress
from .security_association import PROTOCOL_AH, PROTOCOL_ESP, PROTOCOL_IPCOMP, PROTOCOL_UDP, Direction, OpenedPacket

ProtectionKind = Literal["ike", "esp", "ah"]
AnyIpsecSession = Union[IpsecSaSession, AhSaSession]

_UDP_HEADER = 8
_SPI = 4
_KINDS: dict[int, ProtectionKind] = {PROTOCOL_ESP: "esp", PROTOCOL_AH: "ah"}


@dataclass(frozen=True)
class ProtectedPacket:
    """A packet that one of our SAs protects.

    ``octets``: an IKE message from its header, an ESP packet from its SPI, or the whole IP packet that AH stands in.
    ``spi`` is the ESP's or AH's, ``ike_spis`` the IKE message's.  ``inbound_spi`` names the IPsec_SA.
    """

    kind: ProtectionKind
    direction: Direction
    octets: bytes = field(repr=False)
    ike_spis: IkeSpis | None = None
    spi: int | None = None
    inbound_spi: int | None = None


@dataclass(frozen=True)
class _Entry:
    """One direction of one IPsec_SA, as a packet finds it."""

    session: AnyIpsecSession
    direction: Direction
    source: IPAddress
    destination: IPAddress


class RestoredSession:
    """All SAs of one or more sessions, their keys derived, their windows and counters as the contexts say."""

    def __init__(self, ike_sas: Iterable[IkeSaSession] = (), ipsec_sas: Iterable[AnyIpsecSession] = ()) -> None:
        """Raises RemoteError with status SPI_COLLISION where two SAs can't be told apart."""
        self._ike: dict[IkeSpis, IkeSaSession] = {}
        self._ipsec: dict[int, list[AnyIpsecSession]] = {}
        self._entries: dict[tuple[ProtectionKind, int], list[_Entry]] = {}
        self._ports = {IKE_PORT, NAT_TRAVERSAL_PORT}
        for ike_sa in ike_sas:
            if ike_sa.context.spis in self._ike:
                raise _collision(f"two IKE_SAs have the SPIs {ike_sa.context.spis}")
            self._ike[ike_sa.context.spis] = ike_sa
            self._learn_ports(ike_sa.context)
        for ipsec_sa in ipsec_sas:
            self._add_ipsec(ipsec_sa)

    @classmethod
    def restore(cls, contexts: Iterable[IkeSaContext | IpsecSaContext]) -> RestoredSession:
        """Derive all keys and put the SAs up.

        Raises RemoteError: UnsupportedAlgorithm; MalformedContext; status NO_SUCH_CONTEXT where an IPsec_SA's keys
        come from an IKE_SA that is not among ``contexts``; status SPI_COLLISION.
        """
        every = list(contexts)
        ike_sas = [IkeSaSession(context) for context in every if isinstance(context, IkeSaContext)]
        by_spis = {ike_sa.context.spis: ike_sa for ike_sa in ike_sas}
        ipsec_sas: list[AnyIpsecSession] = []
        for context in every:
            if isinstance(context, IpsecSaContext):
                keys = _ipsec_keys(context, by_spis)
                is_ah = context.proposal.protocol == SecurityProtocol.AH
                ipsec_sas.append(AhSaSession(context, keys) if is_ah else IpsecSaSession(context, keys))
        return cls(ike_sas, ipsec_sas)

    # --- what is here -------------------------------------------------------------------------------------------

    @property
    def ike_sas(self) -> tuple[IkeSaSession, ...]:
        """All IKE_SAs."""
        return tuple(self._ike.values())

    @property
    def ipsec_sas(self) -> tuple[AnyIpsecSession, ...]:
        """All IPsec_SAs."""
        return tuple(session for sessions in self._ipsec.values() for session in sessions)

    def ike_sa(self, spis: IkeSpis) -> IkeSaSession:
        """The IKE_SA with these SPIs; LocalError where there is none."""
        found = self._ike.get(spis)
        if found is None:
            raise LocalError(f"no IKE_SA {spis} here")
        return found

    def ipsec_sa(self, inbound_spi: int) -> AnyIpsecSession:
        """The IPsec_SA with this inbound SPI; LocalError where there is none, or more than one."""
        found = self._ipsec.get(inbound_spi, [])
        if len(found) != 1:
            raise LocalError(f"{len(found) or 'no'} IPsec_SA with the inbound SPI {inbound_spi:08x} here")
        return found[0]

    def ike_keys(self, spis: IkeSpis) -> IkeKeys:
        """The current SK_* of an IKE_SA, for comparison; LocalError where there is none."""
        return self.ike_sa(spis).keys

    def ipsec_keys(self, inbound_spi: int) -> IpsecKeys:
        """The keys of an IPsec_SA, for comparison; LocalError where there is none."""
        return self.ipsec_sa(inbound_spi).keys

    # --- packets ------------------------------------------------------------------------------------------------

    def classify(self, ip_packet: bytes) -> ProtectedPacket | None:
        """Which of our SAs protects this IPv4 or IPv6 packet, if any.

        None for all else: IKE messages without an SK or SKF payload, unknown SPIs, NAT keepalives, IP fragments,
        octets that are no packet.  Raises nothing.
        """
        try:
            ip = parse_ip(bytes(ip_packet))
            if ip.fragment:
                return None
            if ip.protocol == PROTOCOL_UDP:
                return self._classify_udp(ip)
            kind = _KINDS.get(ip.protocol)
            if kind == "esp":
                return self._find(kind, ip, ip.payload, ip.payload)
            return self._find(kind, ip, ip.payload[4:], ip.octets) if kind == "ah" else None
        except ProtectionError:
            return None

    def open(self, packet: ProtectedPacket, *, replays: bool = True) -> OpenedIkeMessage | OpenedPacket | None:
        """Verify and decrypt; IPComp inside ESP or AH is undone.

        None for an IKE fragment whose message is not complete.  ``replays`` False: sequence numbers of ESP and AH are
        neither refused nor counted (recordings).  Raises ProtectionError; LocalError for a packet of no SA here.
        """
        if packet.ike_spis is not None:
            return self.ike_sa(packet.ike_spis).open(packet.octets)
        session = self._session_of(packet)
        opened = session.open(packet.direction, packet.octets, replays=replays)
        ipcomp = session.context.ipcomp
        if ipcomp is None or opened.next_header != PROTOCOL_IPCOMP:
            return opened
        inbound = packet.direction is Direction.INBOUND
        cpi = ipcomp.inbound_cpi if inbound else ipcomp.outbound_cpi
        next_header, payload = decompress(opened.payload, cpi, ipcomp.algorithm)
        length = inner_length(next_header, payload)
        return replace(
            opened,
            next_header=next_header,
            payload=payload[:length],
            tfc_octets=opened.tfc_octets + len(payload) - length,
            compressed=True,
        )

    def open_recorded(self, packet: ProtectedPacket) -> OpenedIkeMessage | OpenedPacket | None:
        """Open a packet of a recording, whose order and time are not the SA's own.

        As :meth:`open`; but one that a receiver would refuse by its window is opened all the same: a packet that is
        there twice, or is from long before the counters were read.  With extended sequence numbers the window takes
        such a low number for one of the next 2^32 (RFC 4303, A2.1), so that its integrity check seems to fail.
        """
        try:
            return self.open(packet)
        except (ReplayError, IntegrityError):
            if packet.kind == "ike":
                raise
            return self.open(packet, replays=False)

    # --- within -------------------------------------------------------------------------------------------------

    def _learn_ports(self, context: IkeSaContext | IpsecSaContext) -> None:
        self._ports.update(host.port for host in (context.local_host, context.remote_host) if host.port)

    def _add_ipsec(self, session: AnyIpsecSession) -> None:
        context = session.context
        kind: ProtectionKind = "ah" if isinstance(session, AhSaSession) else "esp"
        local, remote = context.local_host.address, context.remote_host.address
        same_spi = self._ipsec.setdefault(context.inbound_spi, [])
        if any(type(other) is type(session) for other in same_spi):
            raise _collision(f"two IPsec_SAs have the inbound SPI {context.inbound_spi:08x}")
        same_spi.append(session)
        for entry in (
            _Entry(session, Direction.INBOUND, remote, local),
            _Entry(session, Direction.OUTBOUND, local, remote),
        ):
            spi = context.inbound_spi if entry.direction is Direction.INBOUND else context.outbound_spi
            others = self._entries.setdefault((kind, spi), [])
            if any(other.destination == entry.destination for other in others):
                raise _collision(f"two IPsec_SAs have the SPI {spi:08x} towards {entry.destination}")
            others.append(entry)
        self._learn_ports(context)

    def _classify_udp(self, ip: IpPacket) -> ProtectedPacket | None:
        """IKE and UDP-encapsulated ESP (RFC 7296, 2.23; RFC 3948, 2).

        Only port 500 carries IKE without the non-ESP marker; any other port that we know is one of NAT traversal.
        """
        datagram = ip.payload
        if len(datagram) < _UDP_HEADER:
            return None
        ports = {int.from_bytes(datagram[0:2], "big"), int.from_bytes(datagram[2:4], "big")}
        length = int.from_bytes(datagram[4:6], "big")
        if not ports & self._ports or not _UDP_HEADER <= length <= len(datagram):
            return None
        payload = datagram[_UDP_HEADER:length]
        if payload.startswith(NON_ESP_MARKER):
            return self._classify_ike(payload[len(NON_ESP_MARKER) :])
        found = None if ports == {IKE_PORT} else self._find("esp", ip, payload, payload)
        if found is None and IKE_PORT in ports:
            return self._classify_ike(payload)
        return found

    def _classify_ike(self, message: bytes) -> ProtectedPacket | None:
        header, _, protected = split_message(message)
        session = self._ike.get(header.spis)
        if session is None or protected is None:
            return None
        ours = header.from_initiator is session.context.initiator
        direction = Direction.OUTBOUND if ours else Direction.INBOUND
        return ProtectedPacket("ike", direction, message[: header.length], ike_spis=header.spis)

    def _find(self, kind: ProtectionKind, ip: IpPacket, from_spi: bytes, octets: bytes) -> ProtectedPacket | None:
        """By SPI, then by the destination address where that leaves a choice.

        Addresses need not be the context's own (MOBIKE, a gateway that took over under another one), but must not
        say the opposite direction.
        """
        if len(from_spi) < _SPI:
            return None
        spi = int.from_bytes(from_spi[:_SPI], "big")
        entries = self._entries.get((kind, spi), [])
        exact = [entry for entry in entries if entry.destination == ip.destination]
        possible = exact or [
            entry for entry in entries if ip.destination != entry.source and ip.source != entry.destination
        ]
        if len(possible) != 1:
            return None
        entry = possible[0]
        inbound_spi = entry.session.context.inbound_spi
        return ProtectedPacket(kind, entry.direction, octets, spi=spi, inbound_spi=inbound_spi)

    def _session_of(self, packet: ProtectedPacket) -> AnyIpsecSession:
        wanted = AhSaSession if packet.kind == "ah" else IpsecSaSession
        for session in self._ipsec.get(packet.inbound_spi or 0, []):
            if isinstance(session, wanted):
                return session
        raise LocalError("the packet belongs to no IPsec_SA here")


def _ipsec_keys(context: IpsecSaContext, ike_sas: dict[IkeSpis, IkeSaSession]) -> IpsecKeys:
    if not isinstance(context.keying, KeymatDerivation):
        return derive_ipsec_keys(context.keying, context.proposal)
    parent = ike_sas.get(context.keying.ike_spis)
    if parent is None:
        raise RemoteError(
            f"IPsec_SA {context.inbound_spi:08x}: its keys come from the IKE_SA {context.keying.ike_spis}, whose "
            "context is not here",
            status=StatusCode.NO_SUCH_CONTEXT,
            section="RFC 7296, 2.17",
        )
    return derive_ipsec_keys(context.keying, context.proposal, parent.keys.sk_d, parent.context.proposal.prf)


def _collision(reason: str) -> RemoteError:
    return RemoteError(reason, status=StatusCode.SPI_COLLISION, section="RFC 4301, 4.4.2")
