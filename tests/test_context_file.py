"""Context files: written, sealed, read, validated; and everything that can be wrong with one."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import json
import os
import random
import stat
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import context_strategies
import jsonschema
import pytest
from context_examples import VALUES
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts import presentation
from contexts.base import Context, GenericContext
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext
from contexts.presentation import from_plain, to_plain
from contexts.values import AntiReplayWindow, DerivedKeys, IpsecKeys
from cxtp.adapters import context_file, context_file_seal
from cxtp.adapters.context_file import (
    FileSession,
    Finding,
    FindingKind,
    is_sealed,
    load_schema,
    read_context_file,
    validate_context_file,
    write_context_file,
)
from cxtp.adapters.context_file_seal import KeyFile, Passphrase
from cxtp.errors import (
    ConfigurationError,
    CxtpError,
    IntegrityError,
    LocalError,
    MalformedContextFile,
    MissingPackage,
)
from cxtp.messages import EncodedContext
from cxtp.private_files import create_key_file

MN = IPv4Address("192.0.2.77")
LISTENER = MulticastListenerContext(subnet_prefix=bytes(range(8)), group=IPv6Address("ff02::1:3"))
GENERIC = GenericContext(feature_profile_type=0x1234, data=b"octets nobody here knows", presence_vector=5)
ALL: tuple[Context, ...] = tuple(value for value in VALUES.values() if not isinstance(value, (list, dict)))
IKE = next(value for value in ALL if isinstance(value, IkeSaContext) and isinstance(value.keying, DerivedKeys))
IPSEC = next(value for value in ALL if isinstance(value, IpsecSaContext) and isinstance(value.keying, IpsecKeys))
SESSIONS = (
    FileSession(MN, (IKE, IPSEC, GENERIC)),
    FileSession(IPv6Address("2001:db8::77"), (LISTENER,)),
)
PASSPHRASE = Passphrase("correct horse battery staple")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.json"


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    create_key_file(tmp_path / "travel.key")
    return KeyFile(tmp_path / "travel.key")


@pytest.fixture
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_file_seal, "SCRYPT_N", context_file_seal.MINIMUM_N)


def plain_document(*sessions: FileSession) -> dict[str, Any]:
    """By hand, so that a test can break it."""
    return {
        "cxtp_context_file": 1,
        "sessions": [
            {"mn_address": str(s.mn_address), "contexts": [to_plain(c, show_keys=True) for c in s.contexts]}
            for s in sessions
        ],
    }


def store(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def secrets_of(value: object, secret: bool = False) -> Iterator[bytes]:
    """All octets that a ``repr`` hides."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from secrets_of(getattr(value, field.name), secret or not field.repr)
    elif isinstance(value, tuple):
        for item in value:
            yield from secrets_of(item, secret)
    elif secret and isinstance(value, bytes) and len(value) >= 8:
        yield value


SECRETS = sorted({octets for context in (IKE, IPSEC, GENERIC) for octets in secrets_of(context)})


def test_the_sample_has_secrets() -> None:
    assert isinstance(IKE.keying, DerivedKeys)
    assert IKE.keying.keys.sk_d in SECRETS
    assert GENERIC.data in SECRETS


# --- written and read ----------------------------------------------------------------------------------------------


def test_sealed_with_a_key_file(path: Path, key_file: KeyFile) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    assert is_sealed(path)
    assert read_context_file(path, unseal=key_file) == SESSIONS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == ["sessions.json", "travel.key"]


def test_sealed_with_a_passphrase(path: Path) -> None:
    write_context_file(path, SESSIONS, seal=PASSPHRASE)
    assert read_context_file(path, unseal=PASSPHRASE) == SESSIONS
    key = json.loads(path.read_text())["sealed"]["key"]
    assert (key["method"], key["r"], key["p"]) == ("scrypt", 8, 1)
    assert key["n"] >= 1 << 15


@pytest.mark.usefixtures("quick_scrypt")
def test_a_passphrase_is_the_same_however_it_is_composed(path: Path) -> None:
    write_context_file(path, SESSIONS, seal=Passphrase("u\u0308ber den Berg"))
    assert read_context_file(path, unseal=Passphrase("\u00fcber den Berg")) == SESSIONS


def test_nothing_of_the_sessions_is_in_a_sealed_file(path: Path, key_file: KeyFile) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    text = path.read_text()
    assert str(MN) not in text
    assert "ike_sa" not in text
    for octets in (*SECRETS, key_file.path.read_bytes()):
        assert octets.hex() not in text
        assert base64.b64encode(octets).decode().rstrip("=")[:-1] not in text


def test_no_two_files_are_sealed_alike(path: Path, key_file: KeyFile) -> None:
    envelopes = []
    for _ in range(8):
        write_context_file(path, SESSIONS, seal=key_file)
        envelopes.append(json.loads(path.read_text())["sealed"])
    assert len({e["nonce"] for e in envelopes}) == len({e["key"]["salt"] for e in envelopes}) == 8


def test_contexts_without_keys_need_no_seal(path: Path) -> None:
    sessions = (FileSession(MN, (LISTENER,)), FileSession(IPv4Address("192.0.2.78"), ()))
    write_context_file(path, sessions)
    assert not is_sealed(path)
    assert read_context_file(path) == sessions


@pytest.mark.parametrize("context", [IKE, IPSEC, GENERIC])
def test_keys_are_not_written_in_the_clear_unless_that_is_said(path: Path, context: Context) -> None:
    sessions = (FileSession(MN, (LISTENER, context)),)
    with pytest.raises(LocalError, match="hold keys: seal"):
        write_context_file(path, sessions)
    assert not path.exists()
    write_context_file(path, sessions, plaintext_keys=True)
    assert read_context_file(path) == sessions
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_all_worked_examples(path: Path) -> None:
    assert len(ALL) >= 4
    write_context_file(path, [FileSession(MN, ALL)], plaintext_keys=True)
    assert read_context_file(path) == (FileSession(MN, ALL),)
    assert validate_context_file(path) == []


def test_of_encoded_contexts_and_back() -> None:
    encoded = SESSIONS[0].encoded()
    assert FileSession.from_encoded(MN, encoded) == SESSIONS[0]
    unknown = EncodedContext(0x4242, b"\0\1\2", 9)
    session = FileSession.from_encoded(MN, [unknown])
    assert session.contexts == (GenericContext(feature_profile_type=0x4242, data=b"\0\1\2", presence_vector=9),)
    assert session.encoded() == (unknown,)


def test_an_existing_file_is_replaced_as_a_whole(path: Path, key_file: KeyFile) -> None:
    path.write_text("something else " * 10_000)
    path.chmod(0o644)
    write_context_file(path, SESSIONS, seal=key_file)
    assert read_context_file(path, key_file) == SESSIONS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file(path: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    write_context_file(path, SESSIONS[1:], seal=key_file)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_context_file(path, SESSIONS, seal=key_file)
    assert read_context_file(path, key_file) == SESSIONS[1:]
    assert sorted(os.listdir(path.parent)) == ["sessions.json", "travel.key"]


@pytest.mark.parametrize(
    ("sessions", "options"),
    [
        ((), {"plaintext_keys": True}),
        ((SESSIONS[0], SESSIONS[0]), {"plaintext_keys": True}),
        (SESSIONS, {"seal": PASSPHRASE, "plaintext_keys": True}),
        (SESSIONS, {"seal": Passphrase("short")}),
        (SESSIONS, {"seal": Passphrase("")}),
        (SESSIONS, {"seal": Passphrase("\ud800" * 8)}),
        (SESSIONS, {"seal": KeyFile(Path("/nonexistent/key"))}),
    ],
)
def test_what_is_not_written(path: Path, sessions: tuple[FileSession, ...], options: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        write_context_file(path, sessions, **options)
    assert not path.exists()


def test_keys_to_seal_with_are_in_no_repr(key_file: KeyFile) -> None:
    assert "horse" not in repr(PASSPHRASE)
    assert key_file.path.read_bytes().hex() not in repr(key_file)


# --- the seal ------------------------------------------------------------------------------------------------------


def reseal_by_hand(document: dict[str, Any], key: bytes, content: bytes) -> None:
    """Put ``content`` under a document's seal as docs/store.md tells, with no code of ours."""
    envelope = {name: document["sealed"][name] for name in ("cipher", "key", "nonce")}
    authenticated = b"cxtp context file 1\0" + json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()
    ciphertext = AESGCM(key).encrypt(base64.b64decode(envelope["nonce"]), content, authenticated)
    document["sealed"]["ciphertext"] = base64.b64encode(ciphertext).decode()


def hkdf_by_hand(octets: bytes, salt: bytes) -> bytes:
    """RFC 5869 for one block of output, out of HMAC."""

    def mac(key: bytes, data: bytes) -> bytes:
        code = hmac.HMAC(key, hashes.SHA256())
        code.update(data)
        return code.finalize()

    return mac(mac(salt, octets), b"cxtp context file 1\x01")


def test_a_file_sealed_by_another_implementation_is_read(path: Path, key_file: KeyFile) -> None:
    content = json.dumps(plain_document(*SESSIONS)).encode()
    salt = bytes(range(32))
    document: dict[str, Any] = {
        "cxtp_context_file": 1,
        "sealed": {
            "nonce": base64.b64encode(bytes(12)).decode(),
            "key": {"salt": base64.b64encode(salt).decode(), "method": "HKDF-SHA256"},
            "cipher": "AES-256-GCM",
        },
    }
    reseal_by_hand(document, hkdf_by_hand(key_file.path.read_bytes(), salt), content)
    assert read_context_file(store(path, document), key_file) == SESSIONS
    assert validate_context_file(path, key_file) == []

    document["sealed"]["key"] = {
        "method": "scrypt",
        "salt": base64.b64encode(salt).decode(),
        "n": 1 << 15,
        "r": 8,
        "p": 2,
    }
    octets = PASSPHRASE.text.encode()
    key = hashlib.scrypt(octets, salt=salt, n=1 << 15, r=8, p=2, dklen=32, maxmem=1 << 26)
    reseal_by_hand(document, key, content)
    assert read_context_file(store(path, document), PASSPHRASE) == SESSIONS


@pytest.mark.usefixtures("quick_scrypt")
def test_the_wrong_key(path: Path, key_file: KeyFile, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other.key")
    other = KeyFile(tmp_path / "other.key")
    write_context_file(path, SESSIONS, seal=key_file)
    with pytest.raises(IntegrityError, match="wrong passphrase or key"):
        read_context_file(path, unseal=other)
    assert [finding.kind for finding in validate_context_file(path, other)] == [FindingKind.SEAL]
    with pytest.raises(LocalError, match="sealed: give"):
        read_context_file(path)
    with pytest.raises(LocalError, match="not with a passphrase"):
        read_context_file(path, unseal=PASSPHRASE)
    write_context_file(path, SESSIONS, seal=PASSPHRASE)
    with pytest.raises(IntegrityError, match="wrong passphrase or key"):
        read_context_file(path, unseal=Passphrase("correct horse battery stable"))
    with pytest.raises(LocalError, match="not with a key file"):
        read_context_file(path, unseal=key_file)


def test_a_changed_envelope_is_noticed(path: Path, key_file: KeyFile) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    document = json.loads(path.read_text())
    choices = random.Random(4067)
    for member in ("nonce", "ciphertext", "salt"):
        original = base64.b64decode(document["sealed"].get(member) or document["sealed"]["key"][member])
        for bit in choices.sample(range(len(original) * 8), 48):
            octets = bytearray(original)
            octets[bit // 8] ^= 1 << bit % 8
            changed = copy.deepcopy(document)
            owner = changed["sealed"]["key"] if member == "salt" else changed["sealed"]
            owner[member] = base64.b64encode(octets).decode()
            with pytest.raises(IntegrityError):
                read_context_file(store(path, changed), key_file)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("n", 1 << 13),
        ("n", 1 << 19),
        ("n", 3 << 14),
        ("n", 10**30),
        ("n", -(1 << 15)),
        ("n", 0),
        ("n", True),
        ("n", 32768.0),
        ("n", "32768"),
        ("r", 0),
        ("r", 17),
        ("r", 1 << 30),
        ("p", 0),
        ("p", 5),
        ("p", None),
        ("salt", ""),
        ("salt", base64.b64encode(bytes(31)).decode()),
        ("salt", "*" * 44),
        ("salt", "ü" * 44),
        ("method", "pbkdf2"),
        ("method", ["scrypt"]),
        ("extra", 1),
    ],
)
def test_no_work_is_done_for_parameters_out_of_bounds(
    path: Path, monkeypatch: pytest.MonkeyPatch, member: str, value: object
) -> None:
    salt = base64.b64encode(bytes(32)).decode()
    sealed: dict[str, Any] = {
        "cipher": "AES-256-GCM",
        "key": {"method": "scrypt", "salt": salt, "n": 1 << 15, "r": 8, "p": 1, member: value},
        "nonce": base64.b64encode(bytes(12)).decode(),
        "ciphertext": base64.b64encode(bytes(64)).decode(),
    }

    def never(*arguments: object, **named: object) -> bytes:
        raise AssertionError("scrypt ran")

    monkeypatch.setattr(context_file_seal, "Scrypt", never)
    with pytest.raises(MalformedContextFile, match=r"^\$\.sealed\.key"):
        read_context_file(store(path, {"cxtp_context_file": 1, "sealed": sealed}), PASSPHRASE)


def test_memory_is_bounded_by_the_product(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MalformedContextFile, match="128"):
        context_file_seal._scrypt_parameters({"n": 1 << 18, "r": 16, "p": 1}, "$")
    assert context_file_seal._scrypt_parameters({"n": 1 << 18, "r": 8, "p": 4}, "$") == (1 << 18, 8, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed.pop("cipher"),
        lambda sealed: sealed.pop("ciphertext"),
        lambda sealed: sealed.update(cipher="AES-128-GCM"),
        lambda sealed: sealed.update(cipher=1),
        lambda sealed: sealed.update(nonce="AAAA"),
        lambda sealed: sealed.update(nonce=7),
        lambda sealed: sealed.update(ciphertext="not base64"),
        lambda sealed: sealed.update(ciphertext=None),
        lambda sealed: sealed.update(key="key"),
        lambda sealed: sealed.update(key={}),
        lambda sealed: sealed.update(more=1),
    ],
)
def test_a_broken_envelope(path: Path, key_file: KeyFile, change: Callable[[dict[str, Any]], None]) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    document = json.loads(path.read_text())
    change(document["sealed"])
    store(path, document)
    with pytest.raises(MalformedContextFile, match=r"^\$\.sealed"):
        read_context_file(path, key_file)
    assert validate_context_file(path)  # with no key: the envelope is looked at


# --- files that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense",
        "[]",
        "1",
        "{}",
        '{"cxtp_context_file": 2, "sessions": []}',
        '{"cxtp_context_file": true, "sessions": []}',
        '{"cxtp_context_file": "1", "sessions": []}',
        '{"cxtp_context_file": 1}',
        '{"cxtp_context_file": 1, "sessions": []}',
        '{"cxtp_context_file": 1, "sessions": {}}',
        '{"cxtp_context_file": 1, "sessions": [1]}',
        '{"cxtp_context_file": 1, "sessions": [{}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "192.0.2.1", "contexts": 1}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "192.0.2.1", "contexts": [1]}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "192.0.2.1", "contexts": [{}]}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "gw", "contexts": []}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "fe80::1%1", "contexts": []}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": 1, "contexts": []}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "192.0.2.1", "contexts": [], "x": 1}]}',
        '{"cxtp_context_file": 1, "sessions": [{"mn_address": "192.0.2.1", "contexts": []}], "x": 1}',
        '{"cxtp_context_file": 1, "cxtp_context_file": 1, "sessions": []}',
        '{"cxtp_context_file": 1, "sessions": NaN}',
        '{"cxtp_context_file": 1, "sessions": -Infinity}',
        '{"cxtp_context_file": 1, "sessions": ' + "9" * 10_000 + "}",
        '{"cxtp_context_file": 1, "sessions": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"cxtp_context_file": 1, "sessions": ' + "[" * 200_000,
        '{"cxtp_context_file": 1, "sessions": ' + "[" * 500 + "]" * 500 + "}",
    ],
)
def test_files_that_are_no_context_file(path: Path, content: str) -> None:
    store(path, content)
    with pytest.raises(MalformedContextFile):
        read_context_file(path)
    assert validate_context_file(path)


def test_octets_that_are_no_text(path: Path) -> None:
    for content in (b"\xff\xfe", b'{"cxtp_context_file": 1, "sessions": "\xff"}', bytes(100)):
        path.write_bytes(content)
        with pytest.raises(MalformedContextFile):
            read_context_file(path)
        assert [finding.kind for finding in validate_context_file(path)] == [FindingKind.SYNTAX]


def test_the_same_session_twice(path: Path) -> None:
    document = plain_document(SESSIONS[1], FileSession(MN, ()))
    document["sessions"].append({"mn_address": "2001:0db8::0077", "contexts": []})
    with pytest.raises(MalformedContextFile, match=r"^\$\.sessions\[2\]\.mn_address: .* twice"):
        read_context_file(store(path, document))
    [finding] = validate_context_file(path)
    assert (finding.kind, finding.path) == (FindingKind.CONTENT, "$.sessions[2].mn_address")


def test_a_file_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tmp_path, tmp_path / "missing"):
        for call in (read_context_file, validate_context_file, is_sealed):
            with pytest.raises(ConfigurationError):
                call(name)
    monkeypatch.setattr(context_file, "MAXIMUM_FILE", 1000)
    store(tmp_path / "large", " " * 1001)
    with pytest.raises(ConfigurationError, match="larger than 1000"):
        read_context_file(tmp_path / "large")
    with pytest.raises(LocalError, match="at most 1000"):
        write_context_file(tmp_path / "new", SESSIONS, plaintext_keys=True)


def test_a_seal_within_a_seal(path: Path, key_file: KeyFile) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    document = json.loads(path.read_text())
    key = hkdf_by_hand(key_file.path.read_bytes(), base64.b64decode(document["sealed"]["key"]["salt"]))
    reseal_by_hand(document, key, path.read_bytes())
    with pytest.raises(MalformedContextFile):
        read_context_file(store(path, document), key_file)
    assert [finding.sealed for finding in validate_context_file(path, key_file)] == [True]


def test_faults_in_the_sealed_content(path: Path, key_file: KeyFile) -> None:
    write_context_file(path, SESSIONS, seal=key_file)
    document = json.loads(path.read_text())
    key = hkdf_by_hand(key_file.path.read_bytes(), base64.b64decode(document["sealed"]["key"]["salt"]))
    content = plain_document(*SESSIONS)
    del content["sessions"][0]["contexts"][0]["spis"]["responder"]
    reseal_by_hand(document, key, json.dumps(content).encode())
    assert validate_context_file(store(path, document)) == []  # the envelope alone is fine
    assert validate_context_file(path, key_file) == [
        Finding(FindingKind.SCHEMA, "$.sessions[0].contexts[0].spis", "missing: responder", sealed=True)
    ]
    with pytest.raises(MalformedContextFile, match=r"^\$\.sessions\[0\]\.contexts\[0\]\.spis\.responder: missing"):
        read_context_file(path, key_file)


# --- findings, and the schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "where", "message"),
    [
        (lambda c: c.pop("initiator"), FindingKind.SCHEMA, "", "missing: initiator"),
        (lambda c: c.update(kind="car"), FindingKind.SCHEMA, ".kind", "expected one of"),
        (lambda c: c.update(secret_member=1), FindingKind.SCHEMA, "", "a member that is none"),
        (lambda c: c["spis"].update(initiator="xyz"), FindingKind.SCHEMA, ".spis.initiator", "expected text like"),
        (lambda c: c["local_host"].update(port=65536), FindingKind.SCHEMA, ".local_host.port", "at most 65535"),
        (lambda c: c["keying"].update(kind=None), FindingKind.SCHEMA, ".keying.kind", "expected one of"),
        (lambda c: c["keying"]["keys"].update(sk_d=5), FindingKind.SCHEMA, ".keying.keys.sk_d", "expected"),
        (
            lambda c: c["keying"]["keys"].update(sk_d={"hidden": True, "octets": 32}),
            FindingKind.SCHEMA,
            ".keying.keys.sk_d",
            'expected "string"',
        ),
        (
            lambda c: c["spis"].update(initiator="1" * 17),  # 68 bits: no schema keyword counts them
            FindingKind.CONTENT,
            ".spis",
            "",
        ),
    ],
)
def test_findings(
    path: Path, change: Callable[[dict[str, Any]], None], kind: FindingKind, where: str, message: str
) -> None:
    document = plain_document(*SESSIONS)
    change(document["sessions"][0]["contexts"][0])
    [finding] = validate_context_file(store(path, document))
    assert finding.kind is kind
    assert finding.path.startswith("$.sessions[0].contexts[0]" + where)
    assert message in finding.message
    assert str(finding) == f"{finding.path}: {finding.message}"
    with pytest.raises(MalformedContextFile):
        read_context_file(path)


def test_findings_have_an_end(path: Path) -> None:
    document = {"cxtp_context_file": 1, "sessions": [1] * 1000}
    assert len(validate_context_file(store(path, document))) == 100


def test_without_jsonschema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(path, plain_document(*SESSIONS))
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingPackage, match=r"cxtp\[schema\]"):
        validate_context_file(path)
    assert read_context_file(path) == SESSIONS  # reading needs none


def test_the_schema_is_one() -> None:
    schema = load_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_schema_has_every_field() -> None:
    definitions = load_schema()["$defs"]
    classes = {cls for cls, _ in presentation.HEX_DIGITS} | set(presentation.KINDS.values()) | {AntiReplayWindow}
    for cls in classes:
        definition = definitions[cls.__name__]
        fields = {field.name for field in dataclasses.fields(cls)}
        assert set(definition["properties"]) - {"kind"} == fields
        needed = {
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        assert set(definition.get("required", [])) - {"kind"} == needed
        assert definition["additionalProperties"] is False


CONTEXT_VALIDATOR = jsonschema.Draft202012Validator({"$ref": "#/$defs/context", "$defs": load_schema()["$defs"]})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(context_strategies.contexts)
def test_every_context_is_as_the_schema_has_it(context: Context) -> None:
    plain = json.loads(json.dumps(to_plain(context, show_keys=True)))
    assert [error.json_path for error in CONTEXT_VALIDATOR.iter_errors(plain)] == []
    assert from_plain(plain) == context


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each member and item."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def readable(plain: object) -> bool:
    try:
        from_plain(plain)
    except CxtpError:
        return False
    return True


JUNK: list[Any] = [None, True, -1, 3, 1 << 70, 0.5, "", "text", "00", "-1", "1.2.3", [], [1], {}, {"number": 1}]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(context_strategies.contexts, st.data())
def test_schema_and_reader_agree(context: Context, data: st.DataObject) -> None:
    """What the reader takes, the schema takes; a wrong JSON type or a member too many, both refuse."""
    plain = json.loads(json.dumps(to_plain(context, show_keys=True)))
    path = data.draw(st.sampled_from(list(places(plain))))
    owner = plain
    for step in path[:-1]:
        owner = owner[step]
    what = data.draw(st.sampled_from(["remove", "replace", "add"]))
    if what == "remove":
        del owner[path[-1]]
    elif what == "replace":
        owner[path[-1]] = data.draw(st.sampled_from(JUNK))
    else:
        owner = owner if isinstance(owner, dict) else plain
        owner["no such member"] = 1
        assert not readable(plain)
    valid = CONTEXT_VALIDATOR.is_valid(plain)
    if readable(plain):
        assert valid
    if what == "add":
        assert not valid


# --- no key in an error --------------------------------------------------------------------------------------------


def test_no_error_or_finding_repeats_a_key(path: Path) -> None:
    """Each secret is spoiled, moved or misnamed in turn; whatever is then said holds none of them."""
    context = to_plain(IKE, show_keys=True)
    hidden = [octets.hex() for octets in SECRETS]
    secret_places = [place for place in places(context) if _at(context, place) in hidden]
    assert len(secret_places) >= 4
    said = []
    for place in secret_places:
        for spoil in (lambda v: v + "0", lambda v: v + "zz", lambda v: [v], lambda v: {"hidden": v}, lambda v: {v: v}):
            changed = copy.deepcopy(context)
            _at(changed, place[:-1])[place[-1]] = spoil(_at(context, place))
            store(
                path,
                {"cxtp_context_file": 1, "sessions": [{"mn_address": str(MN), "contexts": [changed]}]},
            )
            with pytest.raises(MalformedContextFile) as caught:
                read_context_file(path)
            said.append(f"{caught.value} {caught.value!r}")
            findings = validate_context_file(path)
            assert findings
            said += [f"{finding} {finding!r}" for finding in findings]
    for text in said:
        assert not any(secret[:16] in text for secret in hidden)


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value
