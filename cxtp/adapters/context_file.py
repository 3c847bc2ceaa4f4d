"""Context files: sessions as JSON, so that they can travel by any means (docs/store.md, "Context file").

A file that holds keys is sealed: encrypted and authenticated as a whole under a passphrase or a key file.  No
error of this module repeats a value of a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

from contexts.base import Context, decode, encode
from contexts.multicast_listener import MulticastListenerContext
from contexts.presentation import from_plain, to_plain

from ..config import ContextTypes
from ..errors import LocalError, MalformedContextFile, MissingPackage, ProtectionError
from ..messages import EncodedContext, IPAddress
from ..private_files import PathLike, read_limited, write_private
from .context_file_seal import Unseal, open_sealed, seal_octets

VERSION = 1
MEMBER_VERSION = "cxtp_context_file"
MAXIMUM_FILE = 64 * 1024 * 1024
"""Octets of a context file, sealed or not."""

MAXIMUM_FINDINGS = 100
_MAXIMUM_DIGITS = 32
"""Digits of a JSON number: the format writes wide integers as text."""

SCHEMA_PATH = Path(__file__).parent.parent / "schemas" / "context-file.schema.json"


@dataclass(frozen=True)
class FileSession:
    """One session of a context file: all contexts of a mobile node."""

    mn_address: IPAddress
    contexts: tuple[Context, ...]

    @classmethod
    def from_encoded(
        cls,
        mn_address: IPAddress,
        contexts: Iterable[EncodedContext],
        context_types: ContextTypes = ContextTypes(),
    ) -> FileSession:
        """Of contexts as a store or a message holds them; raises :class:`cxtp.errors.MalformedContext`.

        A context of a type that is not known becomes a ``generic`` one: its octets, as they are.
        """
        return cls(mn_address, tuple(decode(context, context_types) for context in contexts))

    def encoded(self, context_types: ContextTypes = ContextTypes()) -> tuple[EncodedContext, ...]:
        """The contexts as a store or a message takes them."""
        return tuple(encode(context, context_types) for context in self.contexts)

    @property
    def has_keys(self) -> bool:
        """Whether the contexts hold keys, or may: nobody knows what is in one of an unknown type."""
        return any(not isinstance(context, MulticastListenerContext) for context in self.contexts)


def write_context_file(
    path: PathLike,
    sessions: Sequence[FileSession],
    seal: Unseal | None = None,
    plaintext_keys: bool = False,
) -> None:
    """Write the sessions to ``path``, mode 0600, whole or not at all; an existing file is replaced.

    Without ``seal``, a file that would hold keys is refused (:class:`LocalError`) unless ``plaintext_keys``.
    Raises :class:`LocalError` too for a weak passphrase, no or equal sessions, a value that its field can't hold.
    """
    if not sessions or len({session.mn_address for session in sessions}) != len(sessions):
        raise LocalError("a context file holds at least one session, and each mobile node's address once")
    if seal is not None and plaintext_keys:
        raise LocalError("plaintext_keys and seal contradict each other")
    if seal is None and not plaintext_keys and any(session.has_keys for session in sessions):
        raise LocalError("these contexts hold keys: seal the file with a passphrase or a key file")
    plain = [
        {
            "mn_address": str(session.mn_address),
            "contexts": [to_plain(context, show_keys=True) for context in session.contexts],
        }
        for session in sessions
    ]
    document: dict[str, Any] = {MEMBER_VERSION: VERSION, "sessions": plain}
    if seal is not None:
        document = {MEMBER_VERSION: VERSION, "sealed": seal_octets(seal, json.dumps(document).encode())}
    octets = json.dumps(document, indent=1).encode() + b"\n"
    if len(octets) > MAXIMUM_FILE:
        raise LocalError(f"a context file has at most {MAXIMUM_FILE} octets: write fewer sessions to each")
    write_private(path, octets, replace=True)


def read_context_file(path: PathLike, unseal: Unseal | None = None) -> tuple[FileSession, ...]:
    """The sessions of a context file.

    Raises :class:`ConfigurationError` if it can't be read, :class:`MalformedContextFile` if it is none,
    :class:`LocalError` if it is sealed in another way than ``unseal`` opens, and
    :class:`cxtp.errors.IntegrityError` for the wrong passphrase or key, or a file that was changed.
    """
    document = _parse(read_limited(path, MAXIMUM_FILE))
    if "sealed" in document:
        if unseal is None:
            raise LocalError(f"{path} is sealed: give its passphrase or key file")
        _check_members(document, "sealed")
        document = _parse(open_sealed(unseal, document["sealed"]))
    return _sessions(document)


def is_sealed(path: PathLike) -> bool:
    """Whether a context file asks for a passphrase or key file; errors as :func:`read_context_file`."""
    return "sealed" in _parse(read_limited(path, MAXIMUM_FILE))


# --- JSON ----------------------------------------------------------------------------------------------------------


def _parse(octets: bytes) -> dict[str, Any]:
    """A JSON object of our version; strict where JSON leaves it open (RFC 7493: no member twice, no NaN)."""
    try:
        document = json.loads(
            octets.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise MalformedContextFile("$", f"no JSON: line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise MalformedContextFile("$", "no UTF-8 text") from None
    except RecursionError:
        raise MalformedContextFile("$", "nested too deeply") from None
    if not isinstance(document, dict) or MEMBER_VERSION not in document:
        raise MalformedContextFile("$", f"no context file: it has no {MEMBER_VERSION}")
    version = document[MEMBER_VERSION]
    if type(version) is not int or version != VERSION:
        raise MalformedContextFile(f"$.{MEMBER_VERSION}", f"this cxtp reads version {VERSION}")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedContextFile("$", "an object has a member twice")
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise MalformedContextFile("$", f"{text} is no JSON number")


def _integer(text: str) -> int:
    if len(text) > _MAXIMUM_DIGITS:
        raise MalformedContextFile("$", f"a number has more than {_MAXIMUM_DIGITS} digits")
    return int(text)


def _check_members(document: dict[str, Any], content: str) -> None:
    if set(document) != {MEMBER_VERSION, content}:
        raise MalformedContextFile("$", f"expected {MEMBER_VERSION} and {content}, and nothing else")


def _sessions(document: dict[str, Any]) -> tuple[FileSession, ...]:
    _check_members(document, "sessions")
    plain = document["sessions"]
    if not isinstance(plain, list) or not plain:
        raise MalformedContextFile("$.sessions", "expected a list of sessions")
    sessions: dict[IPAddress, FileSession] = {}
    for index, item in enumerate(plain):
        session = _session(item, f"$.sessions[{index}]")
        if session.mn_address in sessions:
            raise MalformedContextFile(f"$.sessions[{index}].mn_address", "this session is there twice")
        sessions[session.mn_address] = session
    return tuple(sessions.values())


def _session(plain: object, path: str) -> FileSession:
    if not isinstance(plain, dict) or set(plain) != {"mn_address", "contexts"}:
        raise MalformedContextFile(path, "expected an object of mn_address and contexts")
    if not isinstance(plain["contexts"], list):
        raise MalformedContextFile(f"{path}.contexts", "expected a list of contexts")
    return FileSession(
        _mn_address(plain["mn_address"], f"{path}.mn_address"),
        tuple(_context(item, f"{path}.contexts[{index}]") for index, item in enumerate(plain["contexts"])),
    )


def _mn_address(plain: object, path: str) -> IPAddress:
    try:
        if isinstance(plain, str) and "%" not in plain:
            return ip_address(plain)
    except ValueError:
        pass
    raise MalformedContextFile(path, "expected an IP address without a zone")


def _context(plain: object, path: str) -> Context:
    try:
        return from_plain(plain)
    except LocalError as error:
        where, reason = getattr(error, "path", "$"), getattr(error, "reason", str(error))
        raise MalformedContextFile(path + where.removeprefix("$"), reason) from None


# --- validation ----------------------------------------------------------------------------------------------------


class FindingKind(Enum):
    """What a finding is about."""

    SYNTAX = "syntax"
    """No JSON of a context file's version at all."""
    SCHEMA = "schema"
    """Against the published JSON Schema."""
    SEAL = "seal"
    """The sealed content can't be opened."""
    CONTENT = "content"
    """As the schema has it, and yet no session: a value out of its field's range, an address twice."""


@dataclass(frozen=True)
class Finding:
    """One fault of a context file: where (JSON path, in the sealed content if ``sealed``), and what is expected."""

    kind: FindingKind
    path: str
    message: str
    sealed: bool = False

    def __str__(self) -> str:
        return f"{self.path}{' of the sealed content' if self.sealed else ''}: {self.message}"


def load_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of context files."""
    schema: dict[str, Any] = json.loads(SCHEMA_PATH.read_bytes())
    return schema


def validate_context_file(path: PathLike, unseal: Unseal | None = None) -> list[Finding]:
    """All faults of a context file, at most 100; an empty list: :func:`read_context_file` takes it.

    Of a sealed file, the envelope alone is looked at unless ``unseal`` opens it.  Raises
    :class:`ConfigurationError` if the file can't be read, :class:`MissingPackage` without jsonschema,
    :class:`LocalError` if it is sealed in another way than ``unseal`` opens.
    """
    octets = read_limited(path, MAXIMUM_FILE)
    findings: list[Finding] = []
    document = _validate_document(octets, findings, sealed=False)
    if document is None or "sealed" not in document or findings or unseal is None:
        return findings
    try:
        octets = open_sealed(unseal, document["sealed"])
    except ProtectionError as error:
        return [Finding(FindingKind.SEAL, "$.sealed", str(error))]
    except MalformedContextFile as error:
        return [Finding(FindingKind.SEAL, error.path, error.reason)]
    _validate_document(octets, findings, sealed=True)
    return findings


def _validate_document(octets: bytes, findings: list[Finding], *, sealed: bool) -> dict[str, Any] | None:
    try:
        document = _parse(octets)
    except MalformedContextFile as error:
        findings.append(Finding(FindingKind.SYNTAX, error.path, error.reason, sealed))
        return None
    if sealed and "sealed" in document:
        findings.append(Finding(FindingKind.SCHEMA, "$.sealed", "sealed twice", sealed))
        return None
    for where, message in _schema_errors(document):
        findings.append(Finding(FindingKind.SCHEMA, where, message, sealed))
        if len(findings) == MAXIMUM_FINDINGS:
            break
    if not findings and "sealed" not in document:
        try:
            _sessions(document)
        except MalformedContextFile as error:
            findings.append(Finding(FindingKind.CONTENT, error.path, error.reason, sealed))
    return document


def _schema_errors(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """JSON path and message of each; jsonschema's own messages repeat values, which may be keys."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        raise MissingPackage("jsonschema", "schema") from None
    for error in Draft202012Validator(load_schema()).iter_errors(document):
        where = "$" + "".join(map(_step, error.absolute_path))
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            yield where, f"missing: {', '.join(missing)}"
        elif error.validator in ("additionalProperties", "unevaluatedProperties"):
            yield where, "has a member that is none of this object's"
        else:
            yield (
                where,
                _EXPECTED.get(str(error.validator), "expected {0} {1}").format(
                    error.validator, json.dumps(error.validator_value)[:200]
                ),
            )


_EXPECTED = {
    "type": "expected {1}",
    "const": "expected {1}",
    "enum": "expected one of {1}",
    "pattern": "expected text like {1}",
    "minimum": "expected at least {1}",
    "maximum": "expected at most {1}",
    "minItems": "expected at least {1} items",
    "maxLength": "expected at most {1} characters",
    "minLength": "expected at least {1} characters",
}


def _step(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step[:64]}"
