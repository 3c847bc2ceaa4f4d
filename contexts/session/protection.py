"""Encryption and integrity of one direction of one SA, the same for IKEv2's SK payload and for ESP.

``body`` is IV | ciphertext | ICV throughout.  Two families stand behind :class:`Protection`: an AEAD authenticates
``associated`` and the ciphertext (RFC 5116; RFC 4106, 5; RFC 5282, 5.1); a cipher with a separate integrity
algorithm authenticates all octets from the packet's first (``header``) to the ciphertext's last, then ``suffix``, which
is not sent (the high half of an ESN: RFC 4303, 2.2.1).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.exceptions import UnsupportedAlgorithm as PrimitiveMissing
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, ChaCha20Poly1305

from contexts.algorithms import CipherKind, Encryption, Integrity
from contexts.keys import mac
from cxtp.errors import IntegrityError, LocalError, ProtectionError, UnsupportedAlgorithm


class Protection(Protocol):
    """One direction's keys at work."""

    iv_octets: int
    icv_octets: int
    block_octets: int

    def open(self, header: bytes, associated: bytes, body: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext, padding still on.  Raises IntegrityError, ProtectionError."""
        ...

    def seal(self, header: bytes, associated: bytes, plaintext: bytes, iv: bytes, suffix: bytes = b"") -> bytes:
        """IV | ciphertext | ICV.  Raises LocalError for an IV or plaintext of the wrong length."""
        ...


def protection(
    encryption: Encryption, encryption_key: bytes, integrity: Integrity | None, integrity_key: bytes
) -> Protection:
    """The protection for one direction; keys as :mod:`contexts.keys` cuts them, salt last, lengths already checked.

    Raises UnsupportedAlgorithm where the OpenSSL below lacks a primitive.
    """
    try:
        if encryption.aead:
            return _AeadProtection(encryption, encryption_key)
        if integrity is None:
            raise UnsupportedAlgorithm("integrity algorithm", 0, "only an AEAD goes without")
        return _SeparateProtection(encryption, encryption_key, integrity, integrity_key)
    except PrimitiveMissing:
        raise UnsupportedAlgorithm("encryption algorithm", encryption.number, "missing from this OpenSSL") from None


def _check_iv(encryption: Encryption, iv: bytes) -> None:
    if len(iv) != encryption.iv_octets:
        raise LocalError(f"an initialisation vector of {encryption.iv_octets} octets is needed, not {len(iv)}")


class _SeparateProtection:
    """A block or stream cipher, then a MAC over the ciphertext (encrypt-then-MAC)."""

    def __init__(self, encryption: Encryption, key: bytes, integrity: Integrity, integrity_key: bytes) -> None:
        self.iv_octets = encryption.iv_octets
        self.icv_octets = integrity.icv_octets
        self.block_octets = encryption.block_octets
        self._encryption = encryption
        self._cipher = _CIPHERS[encryption.kind]
        self._key = key
        self._integrity = integrity
        self._integrity_key = integrity_key

    def _icv(self, octets: bytes) -> bytes:
        return mac(self._integrity.kind, self._integrity_key, octets)[: self.icv_octets]

    def open(self, header: bytes, associated: bytes, body: bytes, suffix: bytes = b"") -> bytes:
        end = len(body) - self.icv_octets
        if end < self.iv_octets:
            raise ProtectionError(f"{len(body)} octets hold no IV and ICV")
        if not hmac.compare_digest(self._icv(header + body[:end] + suffix), body[end:]):
            raise IntegrityError("the integrity check value does not match")
        ciphertext = body[self.iv_octets : end]
        if len(ciphertext) % self.block_octets:
            raise ProtectionError(f"{len(ciphertext)} octets of ciphertext are no whole blocks of {self.block_octets}")
        cipher = self._cipher(self._key, body[: self.iv_octets])
        return cipher.decryptor().update(ciphertext) if cipher else ciphertext

    def seal(self, header: bytes, associated: bytes, plaintext: bytes, iv: bytes, suffix: bytes = b"") -> bytes:
        _check_iv(self._encryption, iv)
        if len(plaintext) % self.block_octets:
            raise LocalError(f"{len(plaintext)} octets of plaintext are no whole blocks of {self.block_octets}")
        cipher = self._cipher(self._key, iv)
        body = iv + (cipher.encryptor().update(plaintext) if cipher else plaintext)
        return body + self._icv(header + body + suffix)


def _aes_cbc(key: bytes, iv: bytes) -> Cipher[modes.CBC] | None:
    return Cipher(algorithms.AES(key), modes.CBC(iv))


def _triple_des_cbc(key: bytes, iv: bytes) -> Cipher[modes.CBC] | None:
    triple_des: BlockCipherAlgorithm = TripleDES(key)
    return Cipher(triple_des, modes.CBC(iv))


def _aes_ctr(key: bytes, iv: bytes) -> Cipher[modes.CTR] | None:
    return Cipher(algorithms.AES(key[:-4]), modes.CTR(key[-4:] + iv + b"\0\0\0\1"))  # RFC 3686, 4


def _null(key: bytes, iv: bytes) -> None:
    return None


_CIPHERS: Mapping[CipherKind, Callable[[bytes, bytes], Cipher[modes.CBC] | Cipher[modes.CTR] | None]] = {
    CipherKind.AES_CBC: _aes_cbc,
    CipherKind.TRIPLE_DES_CBC: _triple_des_cbc,
    CipherKind.AES_CTR: _aes_ctr,
    CipherKind.NULL: _null,
}


class _AeadProtection:
    """One AEAD; its nonce is salt | IV."""

    def __init__(self, encryption: Encryption, key: bytes) -> None:
        self.iv_octets = encryption.iv_octets
        self.icv_octets = encryption.icv_octets
        self.block_octets = encryption.block_octets
        self._encryption = encryption
        self._salt = key[len(key) - encryption.salt_octets :]
        self._aead = _AEADS[encryption.kind](key[: len(key) - encryption.salt_octets], encryption.icv_octets)

    def open(self, header: bytes, associated: bytes, body: bytes, suffix: bytes = b"") -> bytes:
        if len(body) < self.iv_octets + self.icv_octets:
            raise ProtectionError(f"{len(body)} octets hold no IV and ICV")
        iv, protected = body[: self.iv_octets], body[self.iv_octets :]
        try:
            return self._aead.decrypt(self._salt, iv, protected, associated)
        except InvalidTag:
            raise IntegrityError("the integrity check value does not match") from None

    def seal(self, header: bytes, associated: bytes, plaintext: bytes, iv: bytes, suffix: bytes = b"") -> bytes:
        _check_iv(self._encryption, iv)
        return iv + self._aead.encrypt(self._salt, iv, plaintext, associated)


class _Aead(Protocol):
    def __init__(self, key: bytes, icv_octets: int) -> None: ...

    def encrypt(self, salt: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes: ...

    def decrypt(self, salt: bytes, iv: bytes, protected: bytes, associated: bytes) -> bytes:
        """Raises InvalidTag."""
        ...


class _Gcm:
    """AES-GCM with tags of 8, 12 or 16 octets; cryptography's AESGCM knows 16 only."""

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._key = algorithms.AES(key)
        self._icv_octets = icv_octets

    def encrypt(self, salt: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
        encryptor = Cipher(self._key, modes.GCM(salt + iv)).encryptor()
        encryptor.authenticate_additional_data(associated)
        ciphertext = encryptor.update(plaintext) + encryptor.finalize()
        return ciphertext + encryptor.tag[: self._icv_octets]

    def decrypt(self, salt: bytes, iv: bytes, protected: bytes, associated: bytes) -> bytes:
        end = len(protected) - self._icv_octets
        mode = modes.GCM(salt + iv, protected[end:], min_tag_length=self._icv_octets)
        decryptor = Cipher(self._key, mode).decryptor()
        decryptor.authenticate_additional_data(associated)
        return decryptor.update(protected[:end]) + decryptor.finalize()


class _Gmac(_Gcm):
    """ENCR_NULL_AUTH_AES_GMAC: the IV and the payload in the clear are associated data (RFC 4543, 3.3)."""

    def encrypt(self, salt: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
        return plaintext + super().encrypt(salt, iv, b"", associated + iv + plaintext)

    def decrypt(self, salt: bytes, iv: bytes, protected: bytes, associated: bytes) -> bytes:
        end = len(protected) - self._icv_octets
        super().decrypt(salt, iv, protected[end:], associated + iv + protected[:end])
        return protected[:end]


class _Ccm:
    """AES-CCM with a nonce of 11 octets (RFC 4309, 4)."""

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._aead = AESCCM(key, tag_length=icv_octets)

    def encrypt(self, salt: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
        return self._aead.encrypt(salt + iv, plaintext, associated)

    def decrypt(self, salt: bytes, iv: bytes, protected: bytes, associated: bytes) -> bytes:
        return self._aead.decrypt(salt + iv, protected, associated)


class _ChaCha20Poly1305:
    """RFC 7634, 2."""

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._aead = ChaCha20Poly1305(key)

    def encrypt(self, salt: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
        return self._aead.encrypt(salt + iv, plaintext, associated)

    def decrypt(self, salt: bytes, iv: bytes, protected: bytes, associated: bytes) -> bytes:
        return self._aead.decrypt(salt + iv, protected, associated)


_AEADS: Mapping[CipherKind, type[_Aead]] = {
    CipherKind.AES_GCM: _Gcm,
    CipherKind.AES_GMAC: _Gmac,
    CipherKind.AES_CCM: _Ccm,
    CipherKind.CHACHA20_POLY1305: _ChaCha20Poly1305,
}
