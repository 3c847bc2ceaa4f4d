"""The Encrypted (SK) payload of IKEv2, and its fragments: RFC 7296, 3.14; RFC 5282; RFC 7383.

A session opens messages of both directions: the I flag tells whose keys protect one.  It does not look at Message
IDs, so that recordings can be opened in any order; :class:`contexts.session.message_window.MessageWindow` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from contexts.algorithms import ike_transforms
from contexts.ikev2 import IkeSaContext
from contexts.keys import check_ike_keys, ike_key_generations
from contexts.values import IkeKeys
from cxtp.constants import IkePayload
from cxtp.errors import IntegrityError, LocalError, ProtectionError

from .ike_message import (
    FLAG_INITIATOR,
    FLAG_RESPONSE,
    GENERIC_HEADER_OCTETS,
    HEADER_OCTETS,
    MAXIMUM_MESSAGE,
    IkeHeader,
    IkePayloadItem,
    ProtectedPayload,
    build_header,
    build_payloads,
    generic_header,
    parse_payloads,
    split_message,
)
from .protection import Protection, protection

MAXIMUM_FRAGMENTS = 128
"""Fragments of one message (ours): 64 KiB in fragments that fit an IPv6 minimum MTU need 55."""
MAXIMUM_FRAGMENTED_MESSAGES = 4
"""Messages of one IKE_SA whose fragments are awaited at once (ours); the oldest is given up for a fifth."""

_FRAGMENT_NUMBERS = 4
_PAD_LENGTH = 1


@dataclass(frozen=True)
class OpenedIkeMessage:
    """An opened message: header, what was inside, what stood before it in the clear, and which keys opened it.

    ``generation`` counts as :func:`contexts.keys.ike_key_generations`: the last is the current one.  Of a fragmented
    message, ``header`` is the first fragment's and ``fragments`` their number (1: an SK payload).
    """

    header: IkeHeader
    payloads: tuple[IkePayloadItem, ...]
    clear_payloads: tuple[IkePayloadItem, ...]
    generation: int
    fragments: int = 1


@dataclass
class _Reassembly:
    """Fragments of one message so far (RFC 7383, 2.6)."""

    total: int
    plaintexts: dict[int, bytes] = field(default_factory=dict, repr=False)
    header: IkeHeader | None = None
    clear_payloads: tuple[IkePayloadItem, ...] = ()
    first_inner: int = 0

    @property
    def octets(self) -> int:
        return sum(map(len, self.plaintexts.values()))


_ReassemblyKey = tuple[bool, bool, int, int, int]


class IkeSaSession:
    """Opens and seals the protected messages of one IKE_SA."""

    def __init__(self, context: IkeSaContext, generations: Sequence[IkeKeys] | None = None) -> None:
        """``generations``: oldest first, the current last; derived from the context when left out.

        Raises UnsupportedAlgorithm, MalformedContext.
        """
        if generations is None:
            generations = ike_key_generations(context.keying, context.proposal, context.spis)
        if not generations:
            raise LocalError("an IKE_SA needs one generation of keys at least")
        for keys in generations:
            check_ike_keys(keys, context.proposal)
        transforms = ike_transforms(context.proposal)
        self.context = context
        self.generations = tuple(generations)
        cipher, integrity = transforms.encryption, transforms.integrity
        self._protections: list[dict[bool, Protection]] = [
            {
                True: protection(cipher, keys.sk_ei, integrity, keys.sk_ai),
                False: protection(cipher, keys.sk_er, integrity, keys.sk_ar),
            }
            for keys in self.generations
        ]
        self._reassemblies: dict[_ReassemblyKey, _Reassembly] = {}

    @property
    def keys(self) -> IkeKeys:
        """The current SK_*."""
        return self.generations[-1]

    @property
    def iv_octets(self) -> int:
        """Octets of the initialisation vectors that sealing takes."""
        return self._protections[-1][True].iv_octets

    # --- opening ------------------------------------------------------------------------------------------------

    def open(self, message: bytes) -> OpenedIkeMessage | None:
        """Verify and decrypt a message; None for a fragment whose message is not complete yet.

        ``message`` begins with the IKE header (no non-ESP marker).  Raises ProtectionError, of which IntegrityError is
        a kind; a fragment that does not verify is not kept.
        """
        header, clear_payloads, protected = split_message(message)
        if header.spis != self.context.spis:
            raise ProtectionError("the SPIs are another IKE_SA's", section="RFC 7296, 2.6")
        if protected is None:
            raise ProtectionError("no Encrypted payload", section="RFC 7296, 3.14")
        if protected.type == IkePayload.ENCRYPTED_FRAGMENT:
            return self._open_fragment(message, header, clear_payloads, protected)
        generation, plaintext = self._decrypt(message, header, protected, 0)
        payloads = parse_payloads(protected.first_inner, plaintext)
        return OpenedIkeMessage(header, payloads, clear_payloads, generation)

    def _decrypt(
        self, message: bytes, header: IkeHeader, protected: ProtectedPayload, prefix: int
    ) -> tuple[int, bytes]:
        """Generation and plaintext without padding; ``prefix``: octets of the body that stand before the IV."""
        associated, body = message[: protected.offset + prefix], protected.body[prefix:]
        failure: IntegrityError | None = None
        for generation in reversed(range(len(self.generations))):
            guard = self._protections[generation][header.from_initiator]
            try:
                plaintext = guard.open(associated, associated, body)
            except IntegrityError as error:
                failure = failure or error
                continue
            if not plaintext or plaintext[-1] >= len(plaintext):
                raise ProtectionError("the IKE padding does not fit", section="RFC 7296, 3.14")
            return generation, plaintext[: len(plaintext) - _PAD_LENGTH - plaintext[-1]]
        raise failure or IntegrityError("no keys")

    def _open_fragment(
        self,
        message: bytes,
        header: IkeHeader,
        clear_payloads: tuple[IkePayloadItem, ...],
        protected: ProtectedPayload,
    ) -> OpenedIkeMessage | None:
        number = int.from_bytes(protected.body[0:2], "big")
        total = int.from_bytes(protected.body[2:4], "big")
        if not 1 <= number <= total <= MAXIMUM_FRAGMENTS or (number > 1 and protected.first_inner):
            raise ProtectionError(f"fragment {number} of {total}", section="RFC 7383, 2.5")
        generation, plaintext = self._decrypt(message, header, protected, _FRAGMENT_NUMBERS)
        key = (header.from_initiator, header.response, header.exchange_type, header.message_id, generation)
        parts = self._reassembly(key, total)
        if parts is None or number in parts.plaintexts:
            return None
        if parts.octets + len(plaintext) > MAXIMUM_MESSAGE:
            del self._reassemblies[key]
            raise ProtectionError("the fragments are too long together", section="RFC 7383, 2.6")
        parts.plaintexts[number] = plaintext
        if number == 1:
            parts.header, parts.clear_payloads, parts.first_inner = header, clear_payloads, protected.first_inner
        if len(parts.plaintexts) < total or parts.header is None:
            return None
        del self._reassemblies[key]
        joined = b"".join(parts.plaintexts[index] for index in range(1, total + 1))
        payloads = parse_payloads(parts.first_inner, joined)
        return OpenedIkeMessage(parts.header, payloads, parts.clear_payloads, generation, total)

    def _reassembly(self, key: _ReassemblyKey, total: int) -> _Reassembly | None:
        """The set that a fragment belongs to; None for one of a set that was sent again in smaller pieces."""
        parts = self._reassemblies.get(key)
        if parts is not None and total < parts.total:
            return None
        if parts is None or total > parts.total:
            self._reassemblies.pop(key, None)
            while len(self._reassemblies) >= MAXIMUM_FRAGMENTED_MESSAGES:
                del self._reassemblies[next(iter(self._reassemblies))]
            parts = self._reassemblies[key] = _Reassembly(total)
        return parts

    # --- sealing ------------------------------------------------------------------------------------------------

    def seal(
        self,
        exchange_type: int,
        message_id: int,
        payloads: Sequence[IkePayloadItem],
        iv: bytes,
        *,
        response: bool = False,
        as_peer: bool = False,
    ) -> bytes:
        """A message with one SK payload under the current keys; ``as_peer`` as the other side would send it.

        ``iv`` must never come again under these keys.  Raises LocalError for what can't be built.
        """
        first, chain = build_payloads(payloads)
        header = self._header(exchange_type, message_id, IkePayload.ENCRYPTED, response, as_peer)
        return self._encrypt(header, first, b"", chain, iv)

    def seal_fragments(
        self,
        exchange_type: int,
        message_id: int,
        payloads: Sequence[IkePayloadItem],
        ivs: Iterable[bytes],
        *,
        fragment_octets: int,
        response: bool = False,
        as_peer: bool = False,
    ) -> tuple[bytes, ...]:
        """The same in SKF payloads, each message of ``fragment_octets`` at most (RFC 7383, 2.5).

        ``ivs`` gives one initialisation vector per fragment.  Raises LocalError, also where ``ivs`` ends too soon or
        more than MAXIMUM_FRAGMENTS would be needed.
        """
        first, chain = build_payloads(payloads)
        header = self._header(exchange_type, message_id, IkePayload.ENCRYPTED_FRAGMENT, response, as_peer)
        guard = self._protections[-1][header.from_initiator]
        overhead = HEADER_OCTETS + GENERIC_HEADER_OCTETS + _FRAGMENT_NUMBERS + guard.iv_octets + guard.icv_octets
        room = (fragment_octets - overhead) // guard.block_octets * guard.block_octets - _PAD_LENGTH
        if room < 1:
            raise LocalError(f"fragments of {fragment_octets} octets have no room for anything")
        pieces = [chain[at : at + room] for at in range(0, max(len(chain), 1), room)]
        if len(pieces) > MAXIMUM_FRAGMENTS:
            raise LocalError(f"{len(pieces)} fragments would be needed, at most {MAXIMUM_FRAGMENTS} are sent")
        sealed = []
        vectors = iter(ivs)
        for number, piece in enumerate(pieces, 1):
            iv = next(vectors, None)
            if iv is None:
                raise LocalError(f"{len(pieces)} initialisation vectors are needed, {number - 1} were given")
            numbers = number.to_bytes(2, "big") + len(pieces).to_bytes(2, "big")
            sealed.append(self._encrypt(header, first if number == 1 else 0, numbers, piece, iv))
        return tuple(sealed)

    def _header(
        self, exchange_type: int, message_id: int, next_payload: int, response: bool, as_peer: bool
    ) -> IkeHeader:
        initiator = self.context.initiator is not as_peer
        flags = (FLAG_INITIATOR if initiator else 0) | (FLAG_RESPONSE if response else 0)
        return IkeHeader(self.context.spis, next_payload, exchange_type, flags, message_id, 0)

    def _encrypt(self, header: IkeHeader, first: int, prefix: bytes, chain: bytes, iv: bytes) -> bytes:
        guard = self._protections[-1][header.from_initiator]
        padding = -(len(chain) + _PAD_LENGTH) % guard.block_octets
        plaintext = chain + bytes(padding) + bytes([padding])
        body_octets = len(prefix) + guard.iv_octets + len(plaintext) + guard.icv_octets
        length = HEADER_OCTETS + GENERIC_HEADER_OCTETS + body_octets
        associated = build_header(replace(header, length=length)) + generic_header(first, body_octets) + prefix
        return associated + guard.seal(associated, associated, plaintext, iv)
