"""What keys and packets need to know of each algorithm: one literal table per kind, by IANA number.

All lengths are octets unless a name says bits.  A number that is not in a table raises
:class:`cxtp.errors.UnsupportedAlgorithm`, which names the kind and the number: only where keys are derived or used,
never where a context is merely passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from cxtp.constants import EncryptionAlgorithm as E
from cxtp.constants import IntegrityAlgorithm as I
from cxtp.constants import PseudorandomFunction as P
from cxtp.constants import SecurityProtocol
from cxtp.errors import MalformedContext, UnsupportedAlgorithm

from .values import IkeProposal, IpsecProposal


class CipherKind(Enum):
    """Which primitive stands behind an ENCR transform."""

    NULL = "NULL"
    TRIPLE_DES_CBC = "3DES-CBC"
    AES_CBC = "AES-CBC"
    AES_CTR = "AES-CTR"
    AES_CCM = "AES-CCM"
    AES_GCM = "AES-GCM"
    AES_GMAC = "AES-GMAC"
    CHACHA20_POLY1305 = "ChaCha20-Poly1305"


class MacKind(Enum):
    """Which primitive stands behind an INTEG or PRF transform."""

    HMAC_SHA1 = "sha1"
    HMAC_SHA2_256 = "sha256"
    HMAC_SHA2_384 = "sha384"
    HMAC_SHA2_512 = "sha512"
    AES_XCBC = "AES-XCBC"
    AES_CMAC = "AES-CMAC"


@dataclass(frozen=True)
class Encryption:
    """One ENCR transform.

    ``key_octets``: the key lengths allowed, without the salt; a single one needs no Key Length attribute.
    ``salt_octets`` follow the key in SK_e* and KEYMAT (RFC 4106, 8.1).  ``iv_octets`` travel in each packet.
    ``block_octets`` is what the plaintext is padded to.  ``icv_octets`` is 0 unless ``aead``.
    """

    number: int
    kind: CipherKind
    key_octets: tuple[int, ...]
    salt_octets: int
    iv_octets: int
    icv_octets: int
    block_octets: int
    aead: bool
    ike: bool
    """May protect an IKE_SA (NULL and GMAC hide nothing: RFC 7296, 5; RFC 4543, 9)."""
    counter_mode: bool
    """Two packets under one nonce give plaintext away: the IV must never repeat under a key."""

    def key_length(self, bits: int) -> int:
        """Octets of the key, salt included, for a proposal's key length in bits (0: fixed by the algorithm).

        Raises UnsupportedAlgorithm for a length that the algorithm does not have, and for 0 where it needs one.
        """
        if bits == 0 and len(self.key_octets) == 1:
            return self.key_octets[0] + self.salt_octets
        if bits % 8 or bits // 8 not in self.key_octets:
            raise UnsupportedAlgorithm("encryption algorithm", self.number, f"key length of {bits} bits")
        return bits // 8 + self.salt_octets


@dataclass(frozen=True)
class Integrity:
    """One INTEG transform; its key length is fixed."""

    number: int
    kind: MacKind
    key_octets: int
    icv_octets: int

    def key_length(self, bits: int) -> int:
        """Octets of the key; ``bits`` must be 0 or what the algorithm has."""
        if bits not in (0, self.key_octets * 8):
            raise UnsupportedAlgorithm("integrity algorithm", self.number, f"key length of {bits} bits")
        return self.key_octets


@dataclass(frozen=True)
class Prf:
    """One PRF transform.

    ``key_octets`` is the preferred key length: what SK_d, SK_pi and SK_pr have (RFC 7296, 2.14).  ``fixed_key``:
    SKEYSEED's key is the first 64 bits of each nonce (RFC 7296, 2.14).
    """

    number: int
    kind: MacKind
    key_octets: int
    output_octets: int
    fixed_key: bool = False


_AES = (16, 24, 32)

#                                                 key   salt iv icv block  aead   ike    counter
_ENCRYPTION_ROWS = (
    Encryption(E.TRIPLE_DES, CipherKind.TRIPLE_DES_CBC, (24,), 0, 8, 0, 8, False, True, False),  # RFC 2451
    Encryption(E.NULL, CipherKind.NULL, (0,), 0, 0, 0, 1, False, False, False),  # RFC 2410
    Encryption(E.AES_CBC, CipherKind.AES_CBC, _AES, 0, 16, 0, 16, False, True, False),  # RFC 3602
    Encryption(E.AES_CTR, CipherKind.AES_CTR, _AES, 4, 8, 0, 1, False, True, True),  # RFC 3686, RFC 5930
    Encryption(E.AES_CCM_8, CipherKind.AES_CCM, _AES, 3, 8, 8, 1, True, True, True),  # RFC 4309, RFC 5282
    Encryption(E.AES_CCM_12, CipherKind.AES_CCM, _AES, 3, 8, 12, 1, True, True, True),
    Encryption(E.AES_CCM_16, CipherKind.AES_CCM, _AES, 3, 8, 16, 1, True, True, True),
    Encryption(E.AES_GCM_8, CipherKind.AES_GCM, _AES, 4, 8, 8, 1, True, True, True),  # RFC 4106, RFC 5282
    Encryption(E.AES_GCM_12, CipherKind.AES_GCM, _AES, 4, 8, 12, 1, True, True, True),
    Encryption(E.AES_GCM_16, CipherKind.AES_GCM, _AES, 4, 8, 16, 1, True, True, True),
    Encryption(E.NULL_AUTH_AES_GMAC, CipherKind.AES_GMAC, _AES, 4, 8, 16, 1, True, False, True),  # RFC 4543
    Encryption(E.CHACHA20_POLY1305, CipherKind.CHACHA20_POLY1305, (32,), 4, 8, 16, 1, True, True, True),  # RFC 7634
)
ENCRYPTION: Mapping[int, Encryption] = {row.number: row for row in _ENCRYPTION_ROWS}

_INTEGRITY_ROWS = (
    Integrity(I.HMAC_SHA1_96, MacKind.HMAC_SHA1, 20, 12),  # RFC 2404
    Integrity(I.AES_XCBC_96, MacKind.AES_XCBC, 16, 12),  # RFC 3566
    Integrity(I.AES_CMAC_96, MacKind.AES_CMAC, 16, 12),  # RFC 4494
    Integrity(I.HMAC_SHA2_256_128, MacKind.HMAC_SHA2_256, 32, 16),  # RFC 4868
    Integrity(I.HMAC_SHA2_384_192, MacKind.HMAC_SHA2_384, 48, 24),
    Integrity(I.HMAC_SHA2_512_256, MacKind.HMAC_SHA2_512, 64, 32),
)
INTEGRITY: Mapping[int, Integrity] = {row.number: row for row in _INTEGRITY_ROWS}

_PRF_ROWS = (
    Prf(P.HMAC_SHA1, MacKind.HMAC_SHA1, 20, 20),  # RFC 2104
    Prf(P.AES128_XCBC, MacKind.AES_XCBC, 16, 16, fixed_key=True),  # RFC 4434
    Prf(P.HMAC_SHA2_256, MacKind.HMAC_SHA2_256, 32, 32),  # RFC 4868
    Prf(P.HMAC_SHA2_384, MacKind.HMAC_SHA2_384, 48, 48),
    Prf(P.HMAC_SHA2_512, MacKind.HMAC_SHA2_512, 64, 64),
    Prf(P.AES128_CMAC, MacKind.AES_CMAC, 16, 16, fixed_key=True),  # RFC 4615
)
PRF: Mapping[int, Prf] = {row.number: row for row in _PRF_ROWS}

_Row = TypeVar("_Row")


def _lookup(table: Mapping[int, _Row], kind: str, number: int) -> _Row:
    row = table.get(number)
    if row is None:
        raise UnsupportedAlgorithm(kind, number)
    return row


def encryption(number: int) -> Encryption:
    """The ENCR transform of that number; raises UnsupportedAlgorithm."""
    return _lookup(ENCRYPTION, "encryption algorithm", number)


def integrity(number: int) -> Integrity:
    """The INTEG transform of that number (0 is none and not found); raises UnsupportedAlgorithm."""
    return _lookup(INTEGRITY, "integrity algorithm", number)


def pseudorandom_function(number: int) -> Prf:
    """The PRF transform of that number; raises UnsupportedAlgorithm."""
    return _lookup(PRF, "pseudorandom function", number)


@dataclass(frozen=True)
class IkeTransforms:
    """What an :class:`~contexts.values.IkeProposal` says, looked up; key lengths in octets, salt included."""

    encryption: Encryption
    encryption_key_octets: int
    integrity: Integrity | None
    integrity_key_octets: int
    prf: Prf


@dataclass(frozen=True)
class IpsecTransforms:
    """What an :class:`~contexts.values.IpsecProposal` says, looked up; ``encryption`` is None for AH."""

    encryption: Encryption | None
    encryption_key_octets: int
    integrity: Integrity | None
    integrity_key_octets: int


def ike_transforms(proposal: IkeProposal) -> IkeTransforms:
    """Look a proposal up.

    Raises UnsupportedAlgorithm for an unknown number or key length, and for what can't protect an IKE_SA;
    MalformedContext for an AEAD together with an integrity algorithm.
    """
    cipher = encryption(proposal.encryption)
    if not cipher.ike:
        raise UnsupportedAlgorithm("encryption algorithm", cipher.number, "it can't protect an IKE_SA")
    mac, mac_octets = _authentication("IKE_SA", cipher, proposal.integrity, proposal.integrity_key_length)
    return IkeTransforms(
        encryption=cipher,
        encryption_key_octets=cipher.key_length(proposal.encryption_key_length),
        integrity=mac,
        integrity_key_octets=mac_octets,
        prf=pseudorandom_function(proposal.prf),
    )


def ipsec_transforms(proposal: IpsecProposal) -> IpsecTransforms:
    """Look a proposal up; raises as :func:`ike_transforms`, and MalformedContext where protocol and transforms
    don't fit each other."""
    if proposal.protocol == SecurityProtocol.AH and proposal.encryption is None:
        mac = integrity(proposal.integrity)
        return IpsecTransforms(None, 0, mac, mac.key_length(proposal.integrity_key_length))
    if proposal.protocol != SecurityProtocol.ESP or proposal.encryption is None:
        raise MalformedContext("IPsec_SA", "proposal", 0, f"no ESP or AH proposal (protocol {proposal.protocol})")
    cipher = encryption(proposal.encryption)
    found, mac_octets = _authentication("IPsec_SA", cipher, proposal.integrity, proposal.integrity_key_length)
    return IpsecTransforms(cipher, cipher.key_length(proposal.encryption_key_length), found, mac_octets)


def _authentication(context: str, cipher: Encryption, number: int, bits: int) -> tuple[Integrity | None, int]:
    if not cipher.aead:
        mac = integrity(number)
        return mac, mac.key_length(bits)
    if number:
        raise MalformedContext(
            context, "proposal", 0, f"integrity algorithm {number} beside an AEAD", section="RFC 5282, 8"
        )
    return None, 0
