"""The kernel's names of algorithms, and IANA's numbers (IKEv2 Transform Types 1 and 3): one table, both directions."""

from __future__ import annotations

from dataclasses import dataclass, field

from contexts.values import IpsecProposal
from cxtp.constants import EncryptionAlgorithm as E
from cxtp.constants import IntegrityAlgorithm as I
from cxtp.errors import UnsupportedAlgorithm


@dataclass(frozen=True)
class Algorithm:
    """As an SA of the kernel has it: ``icv_bits`` is 0 for a cipher without integrity check."""

    name: str
    key: bytes = field(repr=False)
    icv_bits: int = 0


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
