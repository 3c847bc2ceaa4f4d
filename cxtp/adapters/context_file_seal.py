"""The seal of a context file: AES-256-GCM under a key from a passphrase (scrypt) or a key file (HKDF).

Parameters of a file that we did not write are bounded before any work is done for them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..errors import IntegrityError, LocalError, MalformedContextFile
from ..private_files import load_key_file

CIPHER = "AES-256-GCM"
METHOD_PASSPHRASE = "scrypt"
METHOD_KEY_FILE = "HKDF-SHA256"

SCRYPT_N = 1 << 17
SCRYPT_R = 8
SCRYPT_P = 1
"""What we write: 128 MiB (RFC 7914; the parameters that OWASP's password storage guide gives)."""

MINIMUM_N, MAXIMUM_N = 1 << 14, 1 << 18
MAXIMUM_R = 16
MAXIMUM_P = 4
MAXIMUM_MEMORY = 256 * 1024 * 1024
"""Octets: what a file may make us spend, 128 * n * r (RFC 7914, 2)."""

MINIMUM_PASSPHRASE = 8
"""Characters of a passphrase that we seal with."""

_SALT_OCTETS = 32
_NONCE_OCTETS = 12
_LABEL = b"cxtp context file 1"


@dataclass(frozen=True, eq=False)
class Passphrase:
    """Seal with a passphrase, as text; composed to NFC, so that another keyboard gives the same octets."""

    text: str = field(repr=False)

    @property
    def octets(self) -> bytes:
        """Raises :class:`LocalError` for text that has no UTF-8 form."""
        try:
            return unicodedata.normalize("NFC", self.text).encode("utf-8")
        except UnicodeEncodeError:
            raise LocalError("the passphrase is no Unicode text") from None


@dataclass(frozen=True)
class KeyFile:
    """Seal with the 32 octets of a file that only its owner may read."""

    path: Path


Unseal = Union[Passphrase, KeyFile]


def seal_octets(seal: Unseal, octets: bytes) -> dict[str, Any]:
    """The ``sealed`` member of a context file; its other members are authenticated with the ciphertext.

    Raises :class:`LocalError` for a passphrase that is too short, ConfigurationError for a bad key file.
    """
    salt = os.urandom(_SALT_OCTETS)
    if isinstance(seal, Passphrase):
        if len(seal.text) < MINIMUM_PASSPHRASE:
            raise LocalError(f"a passphrase to seal with has at least {MINIMUM_PASSPHRASE} characters")
        method = {
            "method": METHOD_PASSPHRASE,
            "salt": _base64(salt),
            "n": SCRYPT_N,
            "r": SCRYPT_R,
            "p": SCRYPT_P,
        }
        key = _scrypt(seal, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    else:
        method = {"method": METHOD_KEY_FILE, "salt": _base64(salt)}
        key = _hkdf(seal, salt)
    nonce = os.urandom(_NONCE_OCTETS)
    envelope = {"cipher": CIPHER, "key": method, "nonce": _base64(nonce)}
    ciphertext = AESGCM(key).encrypt(nonce, octets, _authenticated(envelope))
    return {**envelope, "ciphertext": _base64(ciphertext)}


def open_sealed(unseal: Unseal, sealed: object) -> bytes:
    """The octets of a ``sealed`` member.

    Raises :class:`MalformedContextFile` for a bad envelope, :class:`LocalError` if it takes the other kind of
    key, :class:`IntegrityError` for the wrong passphrase or key, or changed octets.
    """
    envelope = _members(sealed, "$.sealed", "cipher", "key", "nonce", "ciphertext")
    if envelope["cipher"] != CIPHER:
        raise MalformedContextFile("$.sealed.cipher", f"expected {CIPHER}")
    nonce = _octets(envelope["nonce"], "$.sealed.nonce", _NONCE_OCTETS)
    ciphertext = _octets(envelope.pop("ciphertext"), "$.sealed.ciphertext", None)
    key = _key(unseal, envelope["key"])
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, _authenticated(envelope))
    except InvalidTag:
        raise IntegrityError("wrong passphrase or key, or the file was changed") from None


def _key(unseal: Unseal, method: object) -> bytes:
    path = "$.sealed.key"
    name = method.get("method") if isinstance(method, dict) else None
    if name == METHOD_PASSPHRASE:
        members = _members(method, path, "method", "salt", "n", "r", "p")
        n, r, p = _scrypt_parameters(members, path)
        salt = _octets(members["salt"], f"{path}.salt", _SALT_OCTETS)
        if not isinstance(unseal, Passphrase):
            raise LocalError("the file is sealed with a passphrase, not with a key file")
        return _scrypt(unseal, salt, n, r, p)
    if name == METHOD_KEY_FILE:
        members = _members(method, path, "method", "salt")
        salt = _octets(members["salt"], f"{path}.salt", _SALT_OCTETS)
        if not isinstance(unseal, KeyFile):
            raise LocalError("the file is sealed with a key file, not with a passphrase")
        return _hkdf(unseal, salt)
    raise MalformedContextFile(f"{path}.method", f"expected {METHOD_PASSPHRASE} or {METHOD_KEY_FILE}")


def _scrypt_parameters(members: dict[str, Any], path: str) -> tuple[int, int, int]:
    n, r, p = (members[name] for name in ("n", "r", "p"))
    if type(n) is not int or not MINIMUM_N <= n <= MAXIMUM_N or n & (n - 1):
        raise MalformedContextFile(f"{path}.n", f"expected a power of 2 from {MINIMUM_N} to {MAXIMUM_N}")
    if type(r) is not int or not 1 <= r <= MAXIMUM_R or 128 * n * r > MAXIMUM_MEMORY:
        raise MalformedContextFile(f"{path}.r", f"expected 1 to {MAXIMUM_R}, and 128 * n * r up to {MAXIMUM_MEMORY}")
    if type(p) is not int or not 1 <= p <= MAXIMUM_P:
        raise MalformedContextFile(f"{path}.p", f"expected 1 to {MAXIMUM_P}")
    return n, r, p


def _scrypt(passphrase: Passphrase, salt: bytes, n: int, r: int, p: int) -> bytes:
    try:
        return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.octets)
    except MemoryError:
        raise LocalError(f"not enough memory for the passphrase's key: {128 * n * r} octets") from None


def _hkdf(key_file: KeyFile, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=_LABEL).derive(load_key_file(key_file.path))


def _authenticated(envelope: dict[str, Any]) -> bytes:
    """The label, a zero octet, the envelope without ciphertext: JSON, members sorted, no white space."""
    return _LABEL + b"\0" + json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode("ascii")


def _members(value: object, path: str, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise MalformedContextFile(path, f"expected an object of {', '.join(names)}")
    return dict(value)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _octets(value: object, path: str, length: int | None) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        octets = base64.b64decode(value.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise MalformedContextFile(path, "expected octets in base64 (RFC 4648, 4)") from None
    if length is not None and len(octets) != length:
        raise MalformedContextFile(path, f"expected {length} octets")
    return octets
