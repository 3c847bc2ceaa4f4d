"""The kernel's names of algorithms, and IANA's numbers (IKEv2 Transform Types 1 and 3): one table, both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from contexts.values import IpsecProposal
from cxtp.constants import EncryptionAlgorithm as E
from cxtp.constants import IntegrityAlgorithm as I
from cxtp.constants import IpCompTransform, SecurityProtocol
from cxtp.errors import LocalError, UnsupportedAlgorithm

from .constants import AH
from .values import Algorithm, SecurityAssociation


class UnknownAlgorithm(LocalError):
    """An SA of the kernel's has an algorithm that IKEv2 has no number for."""


AEADS = {
    E.AES_GCM_8: ("rfc4106(gcm(aes))", 64),
    E.AES_GCM_12: ("rfc4106(gcm(aes))", 96),
    E.AES_GCM_16: ("rfc4106(gcm(aes))", 128),
    E.AES_CCM_8: ("rfc4309(ccm(aes))", 64),
    E.AES_CCM_12: ("rfc4309(ccm(aes))", 96),
    E.AES_CCM_16: ("rfc4309(ccm(aes))", 128),
    E.NULL_AUTH_AES_GMAC: ("rfc4543(gcm(aes))", 128),
    E.CHACHA20_POLY1305: ("rfc7539esp(chacha20,poly1305)", 128),
}

CIPHERS = {
    E.AES_CBC: "cbc(aes)",
    E.AES_CTR: "rfc3686(ctr(aes))",
    E.TRIPLE_DES: "cbc(des3_ede)",
    E.NULL: "ecb(cipher_null)",
}

INTEGRITY = {
    I.HMAC_SHA1_96: ("hmac(sha1)", 96),
    I.AES_XCBC_96: ("xcbc(aes)", 96),
    I.AES_CMAC_96: ("cmac(aes)", 96),
    I.HMAC_SHA2_256_128: ("hmac(sha256)", 128),
    I.HMAC_SHA2_384_192: ("hmac(sha384)", 192),
    I.HMAC_SHA2_512_256: ("hmac(sha512)", 256),
}


COMPRESSION = {IpCompTransform.DEFLATE: "deflate", IpCompTransform.LZS: "lzs", IpCompTransform.LZJH: "lzjh"}

_SALT_OCTETS = {E.AES_CTR: 4, E.CHACHA20_POLY1305: 4, **dict.fromkeys(AEADS, 4)}
"""At the end of the key (RFC 4106, 8.1; RFC 3686, 5.1), but for CCM's three (RFC 4309, 7.1)."""
_SALT_OCTETS |= dict.fromkeys((E.AES_CCM_8, E.AES_CCM_12, E.AES_CCM_16), 3)

_FIXED_KEY = (E.CHACHA20_POLY1305, E.TRIPLE_DES, E.NULL)
"""Ciphers whose key length is no transform attribute (RFC 7296, 3.3.5)."""


@dataclass(frozen=True)
class Suite:
    """What one SA is made of; an AEAD stands alone."""

    aead: Algorithm | None = None
    encryption: Algorithm | None = None
    authentication: Algorithm | None = None


def suite_of(proposal: IpsecProposal, encryption_key: bytes, integrity_key: bytes) -> Suite:
    """The kernel's algorithms for a proposal.  Raises UnsupportedAlgorithm for one that it has no name for."""
    number = proposal.encryption
    encryption = authentication = None
    if number in AEADS:
        name, icv_bits = AEADS[E(number)]
        return Suite(aead=Algorithm(name, encryption_key, icv_bits))
    if number is not None:
        if number not in CIPHERS:
            raise UnsupportedAlgorithm("encryption algorithm", number, "Linux has no name for it")
        encryption = Algorithm(CIPHERS[E(number)], encryption_key)
    if proposal.integrity:
        if proposal.integrity not in INTEGRITY:
            raise UnsupportedAlgorithm("integrity algorithm", proposal.integrity, "Linux has no name for it")
        name, icv_bits = INTEGRITY[I(proposal.integrity)]
        authentication = Algorithm(name, integrity_key, icv_bits)
    return Suite(encryption=encryption, authentication=authentication)


def proposal_of(sa: SecurityAssociation) -> IpsecProposal:
    """The opposite.  Raises UnknownAlgorithm for what has no number."""
    if sa.aead is not None:
        number = _find(AEADS, (sa.aead.name, sa.aead.icv_bits or 0))
        return _proposal(sa, number, sa.aead.key, 0)
    integrity = 0
    if sa.authentication is not None and sa.authentication.name not in _NO_INTEGRITY:
        name, icv_bits = sa.authentication.name, sa.authentication.icv_bits
        # Without a length the kernel takes its own default, which for SHA-256 is that of an old draft.
        integrity = _find(INTEGRITY, (name, icv_bits or _DEFAULT_ICV_BITS.get(name, 0)))
    if sa.protocol == AH:
        return _proposal(sa, None, b"", integrity)
    if sa.encryption is None:
        raise UnknownAlgorithm(f"SA {sa.spi:08x} has no algorithm")
    name = sa.encryption.name
    return _proposal(sa, _find(CIPHERS, _ALIASES.get(name, name)), sa.encryption.key, integrity)


def compression_of(name: str) -> int:
    """IPComp's transform.  Raises UnknownAlgorithm."""
    return int(_find(COMPRESSION, name))


_NO_INTEGRITY = ("digest_null",)
_ALIASES = {"cipher_null": "ecb(cipher_null)", "aes": "cbc(aes)", "des3_ede": "cbc(des3_ede)"}
_DEFAULT_ICV_BITS = {"hmac(sha1)": 96, "hmac(sha256)": 96, "hmac(sha384)": 192, "hmac(sha512)": 256,
                     "xcbc(aes)": 96, "cmac(aes)": 96}  # fmt: skip


def _proposal(sa: SecurityAssociation, number: E | None, key: bytes, integrity: int) -> IpsecProposal:
    bits = 0
    if number is not None and number not in _FIXED_KEY:
        bits = 8 * (len(key) - _SALT_OCTETS.get(number, 0))
    protocol = SecurityProtocol.AH if sa.protocol == AH else SecurityProtocol.ESP
    return IpsecProposal(protocol, number, bits, integrity, 0, sa.is_extended)


Number = TypeVar("Number")


def _find(table: Mapping[Number, object], name: object) -> Number:
    for number, known in table.items():
        if known == name:
            return number
    raise UnknownAlgorithm(f"no IANA number is known for the kernel's {name}")
