"""Every error that cxtp and contexts raise on purpose.

Two blames, as in h11: :class:`LocalError` is the caller's fault, :class:`RemoteError` the peer's (or the
input's).  A remote error names what was wrong, where, and the section that says so; its ``status`` is what a
CTDR or CTAA carries back.  No error ever holds key material.
"""

from __future__ import annotations


class CxtpError(Exception):
    """The root: ``except CxtpError`` catches all that this project raises on purpose."""


class LocalError(CxtpError):
    """The caller asked for something that can't be done: a value out of range, a call in the wrong state."""


class ConfigurationError(LocalError):
    """A setting, file or option is unusable; the message says which and what to do."""


class MissingPackage(LocalError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'cxtp[{extra}]'")
        self.package = package
        self.extra = extra


class InvalidContext(LocalError):
    """A context value that its format can't hold, or plain data (JSON) that is no context.

    ``path`` is the field (``proposal.encryption``, or ``$.proposal.encryption`` in JSON); no value is repeated.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StoreError(CxtpError):
    """The store could not keep or give back a context: the disk is full, the key is wrong, the file is not ours."""


class StoreFull(StoreError):
    """There is no room to write: nothing of the transaction was kept, what was stored before is untouched."""


class StaleGeneration(StoreError):
    """A record older than the stored one was to be written; nothing of its transaction was.

    ``mn_address`` is the session's, ``stored`` and ``offered`` are the two generations.
    """

    def __init__(self, mn_address: object, stored: int, offered: int) -> None:
        super().__init__(f"{mn_address}: generation {offered} is older than the stored {stored}; nothing was written")
        self.mn_address = mn_address
        self.stored = stored
        self.offered = offered


class TransportError(CxtpError):
    """A message could not be sent or a connection could not be made; nothing is known of its arrival."""


class RemoteError(CxtpError):
    """What came from outside is wrong.

    ``status`` is the status code (see :class:`cxtp.constants.StatusCode`) that tells the peer, ``section`` the
    place in the RFC or in docs/context-formats.md that was broken.
    """

    status: int = 0x03  # StatusCode.MALFORMED; a bare number, since errors stand below constants
    section: str = ""

    def __init__(self, message: str, *, status: int | None = None, section: str | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status
        if section is not None:
            self.section = section


class MalformedMessage(RemoteError):
    """Octets that are no CXTP message (RFC 4067, 2.4 and 2.5).

    ``field`` is the field's name in the RFC's box (dotted where nested: ``blocks[2].length``), ``offset`` its
    first octet counted from the start of the message.
    """

    def __init__(self, field: str, offset: int, section: str, reason: str) -> None:
        super().__init__(f"{field} at octet {offset}: {reason} ({section})", section=section)
        self.field = field
        self.offset = offset
        self.reason = reason


class MalformedContext(RemoteError):
    """Octets that are no context of the type they claim (docs/context-formats.md).

    ``context`` is the context type's name, ``parameter`` the parameter's, ``offset`` the octet of the context's
    data where it was noticed.
    """

    def __init__(
        self, context: str, parameter: str, offset: int, reason: str, *, status: int | None = None, section: str = ""
    ) -> None:
        where = f" ({section})" if section else ""
        super().__init__(
            f"{context}, {parameter} at octet {offset}: {reason}{where}", status=status, section=section
        )
        self.context = context
        self.parameter = parameter
        self.offset = offset
        self.reason = reason


class MalformedContextFile(RemoteError):
    """A file that is no context file (docs/store.md); ``path`` is the JSON path of the fault, such as
    ``$.sessions[0].mn_address``, and the text never holds a value of the file."""

    section = "docs/store.md, context file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class MissingParameter(MalformedContext):
    """A mandatory parameter is not there: the SA would be lost, so the context is refused (seed draft, 4)."""

    status = 0x04  # StatusCode.MANDATORY_PARAMETER_MISSING

    def __init__(self, context: str, parameter: str, *, section: str = "") -> None:
        super().__init__(context, parameter, 0, "mandatory parameter missing", section=section)


class UnsupportedAlgorithm(RemoteError):
    """An algorithm number that keys must be derived or used for, and that is not known here."""

    status = 0x05  # StatusCode.UNSUPPORTED_ALGORITHM

    def __init__(self, kind: str, number: int, detail: str = "") -> None:
        super().__init__(f"{kind} {number} is not supported" + (f": {detail}" if detail else ""))
        self.kind = kind
        self.number = number


class TokenRejected(RemoteError):
    """The authorization token does not match (RFC 4067, 2.5.1)."""

    status = 0x08  # StatusCode.NOT_AUTHORIZED
    section = "RFC 4067, 2.5.1"


class ProtectionError(RemoteError):
    """A protected packet (IKEv2 SK payload, ESP, AH) can't be opened; nothing of it was used."""


class IntegrityError(ProtectionError):
    """The integrity check value does not match."""


class ReplayError(ProtectionError):
    """The sequence number was seen before or lies left of the window (RFC 4303, 3.4.3)."""
