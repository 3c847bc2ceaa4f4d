"""Encryption of stored records under a key file.

AES-256-GCM.  A node may write more records in its life than one key allows random 96-bit nonces for (2^32, NIST
SP 800-38D, 8.3), so that each record gets 28 fresh random octets: 16 derive its own key, 12 are its nonce.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import ConfigurationError, StoreError
from ..private_files import KEY_OCTETS, PathLike, create_key_file, load_key_file
from .records import SessionRecord, decode_contexts, encode_contexts

STORE_ID_OCTETS = 16
"""Random, made with a store: records of one store are not valid in another."""

_SALT_OCTETS = 16
_NONCE_OCTETS = 12
_BEFORE_CIPHERTEXT = _SALT_OCTETS + _NONCE_OCTETS
_TAG_OCTETS = 16
_RECORD_LABEL = b"cxtp store record 1\0"
_CHECK_LABEL = b"cxtp store key check 1\0"


@dataclass(frozen=True, eq=False)
class StoreKey:
    """The key of a store: 32 octets, in a file of their own and nothing else in it."""

    octets: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.octets) != KEY_OCTETS:
            raise ConfigurationError(f"a key has {KEY_OCTETS} octets, not {len(self.octets)}")

    @classmethod
    def create(cls, path: PathLike) -> StoreKey:
        """Write a new random key as ``path``, mode 0600; an existing file is refused (ConfigurationError)."""
        return cls(create_key_file(path))

    @classmethod
    def load(cls, path: PathLike) -> StoreKey:
        """Read a key file; :class:`ConfigurationError` if others may read it or it is no key, with what to do."""
        return cls(load_key_file(path))

    def check_value(self, store_id: bytes) -> bytes:
        """What a store keeps to know its key by; tells nothing of the key."""
        return self._derive(_CHECK_LABEL, store_id)

    def seal(self, store_id: bytes, record: SessionRecord) -> bytes:
        """The record's contexts, encrypted; every other field of it is authenticated with them."""
        salt, nonce = os.urandom(_SALT_OCTETS), os.urandom(_NONCE_OCTETS)
        cipher = AESGCM(self._derive(_RECORD_LABEL, salt))
        return salt + nonce + cipher.encrypt(nonce, encode_contexts(record.contexts), _authenticated(store_id, record))

    def unseal(self, store_id: bytes, header: SessionRecord, sealed: bytes) -> SessionRecord:
        """``header`` with its contexts; :class:`StoreError` if any field of it, or ``sealed``, was changed."""
        salt, nonce = sealed[:_SALT_OCTETS], sealed[_SALT_OCTETS:_BEFORE_CIPHERTEXT]
        ciphertext = sealed[_BEFORE_CIPHERTEXT:]
        if len(ciphertext) < _TAG_OCTETS:
            raise StoreError(f"the record of {header.mn_address} is damaged: it is cut short")
        cipher = AESGCM(self._derive(_RECORD_LABEL, salt))
        try:
            octets = cipher.decrypt(nonce, ciphertext, _authenticated(store_id, header))
        except InvalidTag:
            raise StoreError(
                f"the record of {header.mn_address} is damaged or was changed outside of the store"
            ) from None
        return replace(header, contexts=decode_contexts(octets))

    def _derive(self, label: bytes, salt: bytes) -> bytes:
        return hmac.digest(self.octets, label + salt, hashlib.sha256)


def _authenticated(store_id: bytes, record: SessionRecord) -> bytes:
    """All that stands beside the sealed contexts, each part behind its length so that none can shift."""
    parts = [
        _RECORD_LABEL,
        store_id,
        record.mn_address.packed,
        record.state.value.encode(),
        record.generation.to_bytes(8, "big"),
        b"" if record.transfer_id is None else record.transfer_id.to_bytes(8, "big"),
        record.peer.encode("utf-8"),
        struct.pack(">d", record.updated + 0.0),  # + 0.0: SQLite gives -0.0 back as 0.0
    ]
    if record.refused_generation:  # schema 1 did not have it
        parts.append(record.refused_generation.to_bytes(8, "big"))
    if record.standby:  # schemas 1 and 2 did not have it
        parts.append(b"standby " + record.standby.encode("utf-8"))
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
