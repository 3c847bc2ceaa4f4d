"""Key files, and the encryption of records under them."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cxtp.errors import ConfigurationError, StoreError
from cxtp.messages import EncodedContext
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey

STORE = bytes(range(16))
KEY = StoreKey(bytes(range(32)))
RECORD = SessionRecord(
    mn_address=IPv4Address("192.0.2.1"),
    state=SessionState.FROZEN,
    generation=7,
    contexts=(EncodedContext(0xFF01, b"the session's key"), EncodedContext(0xFF02, b"", 3)),
    peer="gw-b",
    transfer_id=99,
    updated=1234.5,
)
HEADER = replace(RECORD, contexts=())


def test_create_then_load(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    created = StoreKey.create(path)
    assert path.read_bytes() == created.octets == StoreKey.load(path).octets
    assert len(created.octets) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["store.key"]
    assert created.octets.hex() not in repr(created)
    assert repr(created.octets) not in repr(created)


def test_two_keys_differ(tmp_path: Path) -> None:
    assert StoreKey.create(tmp_path / "a").octets != StoreKey.create(tmp_path / "b").octets


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    first = StoreKey.create(path)
    with pytest.raises(ConfigurationError, match="exists already"):
        StoreKey.create(path)
    assert StoreKey.load(path).octets == first.octets


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "store.key"
    StoreKey.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        StoreKey.load(path)


@pytest.mark.parametrize("length", [0, 31, 33, 4096, 5000])
def test_a_key_file_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "store.key"
    path.write_bytes(b"k" * length)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        StoreKey.load(path)
    assert "kkk" not in str(caught.value)


def test_no_key_file_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        StoreKey.load(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="regular file"):
        StoreKey.load(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="regular file"):
        StoreKey.load(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="can't be written"):
        StoreKey.create(tmp_path / "no" / "such" / "directory")


def test_seal_then_unseal() -> None:
    assert KEY.unseal(STORE, HEADER, KEY.seal(STORE, RECORD)) == RECORD


def test_the_same_record_is_never_sealed_the_same_way() -> None:
    sealed = [KEY.seal(STORE, RECORD) for _ in range(64)]
    assert len({octets[:16] for octets in sealed}) == len({octets[16:28] for octets in sealed}) == 64
    assert not any(b"session" in octets for octets in sealed)


def test_sealed_octets_by_hand() -> None:
    """As docs/store.md tells: another implementation of HMAC, and the parts written out."""
    sealed = KEY.seal(STORE, RECORD)
    derivation = hmac.HMAC(KEY.octets, hashes.SHA256())
    derivation.update(b"cxtp store record 1\0" + sealed[:16])
    parts = [
        b"cxtp store record 1\0",
        STORE,
        bytes((192, 0, 2, 1)),
        b"frozen",
        bytes.fromhex("0000000000000007"),
        bytes.fromhex("0000000000000063"),
        b"gw-b",
        bytes.fromhex("40934a0000000000"),  # 1234.5
    ]
    authenticated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    plain = AESGCM(derivation.finalize()).decrypt(sealed[16:28], sealed[28:], authenticated)
    assert plain == (
        bytes.fromhex("00000002 ff01 00 00000000 00000011")
        + b"the session's key"
        + bytes.fromhex("ff02 01 00000003 00000000")
    )


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, mn_address=IPv4Address("192.0.2.2")),
        replace(HEADER, mn_address=IPv6Address("::ffff:192.0.2.1")),
        replace(HEADER, state=SessionState.OWNED),
        replace(HEADER, generation=8),
        replace(HEADER, transfer_id=None),
        replace(HEADER, transfer_id=0),
        replace(HEADER, peer="gw-c"),
        replace(HEADER, updated=1234.0),
    ],
)
def test_every_field_is_authenticated(header: SessionRecord) -> None:
    with pytest.raises(StoreError, match="damaged or was changed"):
        KEY.unseal(STORE, header, KEY.seal(STORE, RECORD))


def test_every_bit_is_authenticated() -> None:
    sealed = KEY.seal(STORE, RECORD)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError):
            KEY.unseal(STORE, HEADER, bytes(changed))
    for end in range(len(sealed)):
        with pytest.raises(StoreError):
            KEY.unseal(STORE, HEADER, sealed[:end])


def test_neither_another_key_nor_another_store_opens() -> None:
    sealed = KEY.seal(STORE, RECORD)
    with pytest.raises(StoreError):
        StoreKey(bytes(32)).unseal(STORE, HEADER, sealed)
    with pytest.raises(StoreError):
        KEY.unseal(bytes(16), HEADER, sealed)


def test_a_key_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.key"
    StoreKey.create(path)
    if os.geteuid() == 0:  # root's own files are anybody's to use
        os.chown(path, 65534, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(ConfigurationError, match="belongs to user"):
        StoreKey.load(path)
