"""ESP (RFC 4303) with all algorithms of :mod:`contexts.algorithms`, for one restored IPsec_SA.

An ESP packet is counted from its SPI to its ICV; what carries it (IP, UDP) is :mod:`contexts.session.restored`'s.

    SPI 32 | Sequence Number 32 (low half) | IV | payload | TFC padding | padding | Pad Length 8 | Next Header 8 | ICV
"""

from __future__ import annotations

from contexts.algorithms import ipsec_transforms
from contexts.ipsec import IpsecSaContext
from contexts.keys import check_ipsec_keys
from contexts.values import IpsecKeys
from cxtp.errors import LocalError, ProtectionError, UnsupportedAlgorithm

from .ip_packet import inner_length
from .protection import protection
from .security_association import Direction, OpenedPacket, SequenceState

MAXIMUM_PAYLOAD = 65_535
"""Octets that one packet may protect: an IP packet's length has 16 bits."""

_HEADER = 8
_TRAILER = 2


class IpsecSaSession:
    """Opens and seals the ESP packets of one IPsec_SA, both directions."""

    def __init__(self, context: IpsecSaContext, keys: IpsecKeys) -> None:
        """Raises UnsupportedAlgorithm, MalformedContext (keys that don't fit the proposal)."""
        check_ipsec_keys(keys, context.proposal)
        transforms = ipsec_transforms(context.proposal)
        if transforms.encryption is None:
            raise UnsupportedAlgorithm("security protocol", context.proposal.protocol, "not ESP")
        self.context = context
        self.keys = keys
        self._protections = {
            Direction.INBOUND: protection(
                transforms.encryption, keys.inbound_encryption, transforms.integrity, keys.inbound_integrity
            ),
            Direction.OUTBOUND: protection(
                transforms.encryption, keys.outbound_encryption, transforms.integrity, keys.outbound_integrity
            ),
        }
        self._spis = {Direction.INBOUND: context.inbound_spi, Direction.OUTBOUND: context.outbound_spi}
        self.sequence = SequenceState(context, counter_mode=transforms.encryption.counter_mode)

    @property
    def iv_octets(self) -> int:
        """Octets of the initialisation vectors that sealing takes."""
        return self._protections[Direction.OUTBOUND].iv_octets

    def open_inbound(self, octets: bytes, *, replays: bool = True) -> OpenedPacket:
        """Open a packet from the peer; see :meth:`open`."""
        return self.open(Direction.INBOUND, octets, replays=replays)

    def open_outbound(self, octets: bytes, *, replays: bool = True) -> OpenedPacket:
        """Open a packet to the peer, sent by whoever held the SA; see :meth:`open`."""
        return self.open(Direction.OUTBOUND, octets, replays=replays)

    def open(self, direction: Direction, octets: bytes, *, replays: bool = True) -> OpenedPacket:
        """Verify, decrypt, and count a packet as received.

        ``replays`` False neither refuses nor counts sequence numbers: for recordings.  Raises ProtectionError, of
        which IntegrityError and ReplayError are kinds; nothing is counted then.
        """
        if len(octets) < _HEADER:
            raise ProtectionError(f"{len(octets)} octets are no ESP packet", section="RFC 4303, 2")
        if int.from_bytes(octets[:4], "big") != self._spis[direction]:
            raise ProtectionError("the SPI is another SA's", section="RFC 4303, 3.4.2")
        guard, body = self._protections[direction], octets[_HEADER:]

        def verify(number: int) -> bytes:
            header, associated, suffix = self._authenticated(direction, number)
            return guard.open(header, associated, body, suffix)

        window = self.sequence.windows[direction]
        number, plaintext = window.receive(int.from_bytes(octets[4:8], "big"), verify, replays=replays)
        self.sequence.received(direction, number)
        payload, next_header = _strip_trailer(plaintext)
        length = inner_length(next_header, payload)
        return OpenedPacket(
            spi=self._spis[direction],
            sequence_number=number,
            next_header=next_header,
            payload=payload[:length],
            tfc_octets=len(payload) - length,
        )

    def seal_outbound(self, payload: bytes, next_header: int, iv: bytes, *, tfc_octets: int = 0) -> bytes:
        """Our next packet to the peer; advances the sequence number.

        ``iv`` must never come again under these keys.  Raises LocalError where the counter is not exact or used up
        (:class:`~contexts.session.outbound_counter.OutboundCounter`), and for lengths that can't be.
        """
        number = self.sequence.counter.next()
        sealed = self._seal(Direction.OUTBOUND, number, payload, next_header, iv, tfc_octets)
        self.sequence.counter.sent(number)
        return sealed

    def seal_inbound(
        self, payload: bytes, next_header: int, iv: bytes, sequence_number: int, *, tfc_octets: int = 0
    ) -> bytes:
        """A packet as the peer would send it: test traffic.  Changes nothing here."""
        if not 0 <= sequence_number < (1 << 64 if self.sequence.extended else 1 << 32):
            raise LocalError(f"sequence number {sequence_number} out of range")
        return self._seal(Direction.INBOUND, sequence_number, payload, next_header, iv, tfc_octets)

    def _authenticated(self, direction: Direction, number: int) -> tuple[bytes, bytes, bytes]:
        """Header; the AEAD's associated data (RFC 4106, 5); what follows for a MAC (RFC 4303, 2.2.1)."""
        spi, low, high = self._spis[direction].to_bytes(4, "big"), number & 0xFFFFFFFF, number >> 32
        header = spi + low.to_bytes(4, "big")
        if not self.sequence.extended:
            return header, header, b""
        return header, spi + number.to_bytes(8, "big"), high.to_bytes(4, "big")

    def _seal(
        self, direction: Direction, number: int, payload: bytes, next_header: int, iv: bytes, tfc_octets: int
    ) -> bytes:
        if not 0 <= next_header <= 255:
            raise LocalError(f"next header {next_header} out of range")
        if tfc_octets < 0 or len(payload) + tfc_octets > MAXIMUM_PAYLOAD:
            raise LocalError(f"payload and TFC padding are at most {MAXIMUM_PAYLOAD} octets")
        guard = self._protections[direction]
        padding = -(len(payload) + tfc_octets + _TRAILER) % max(4, guard.block_octets)
        trailer = bytes(range(1, padding + 1)) + bytes([padding, next_header])
        header, associated, suffix = self._authenticated(direction, number)
        return header + guard.seal(header, associated, payload + bytes(tfc_octets) + trailer, iv, suffix)


def _strip_trailer(plaintext: bytes) -> tuple[bytes, int]:
    """Payload and next header; the padding must be 1, 2, 3, ... (RFC 4303, 2.4)."""
    if len(plaintext) < _TRAILER:
        raise ProtectionError("no room for the ESP trailer", section="RFC 4303, 2")
    padding, next_header = plaintext[-2], plaintext[-1]
    end = len(plaintext) - _TRAILER - padding
    if end < 0 or plaintext[end:-_TRAILER] != bytes(range(1, padding + 1)):
        raise ProtectionError("the ESP padding is not 1, 2, 3, ...", section="RFC 4303, 2.4")
    return plaintext[:end], next_header
