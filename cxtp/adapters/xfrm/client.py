"""Asks the kernel for its SAs and policies, and has it change them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from . import requests
from .attributes import read
from .constants import HeaderFlag, MessageType
from .formats import build_message, messages, parse_async_event, parse_policy, parse_security_association
from .layouts import S32
from .netlink import Namespace, XfrmError, error_of, open_socket, receive
from .requests import Request
from .values import (
    AsyncEvent,
    Migration,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    SecurityPolicyId,
)

_ATTEMPTS = 5
_TIMEOUT = 5.0  # seconds; the kernel answers within the call, but for dumps
_PIPELINE = 64
"""Requests sent before their acknowledgements are read: those wait in our socket's buffer, which is not endless."""
_PIPELINE_OCTETS = 32_768
_QUESTIONS = 16
"""Questions sent before their answers are read, for the same reason: an answer is larger than an acknowledgement."""

T = TypeVar("T")


class XfrmClient:
    """One netlink socket; closed by :meth:`close` or as a context manager.  Not for several threads at once."""

    def __init__(self, namespace: Namespace = None) -> None:
        """Raises XfrmError."""
        self._socket = open_socket("opening a socket to the kernel's IPsec database", namespace)
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0

    def __enter__(self) -> XfrmClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    # --- what is there ------------------------------------------------------------------------------------------------

    def security_associations(self) -> list[SecurityAssociation]:
        """All SAs, larval ones too.  Raises XfrmError."""
        return self._dump(requests.LIST_SECURITY_ASSOCIATIONS, MessageType.NEW_SA, parse_security_association)

    def policies(self) -> list[SecurityPolicy]:
        """All policies, the sockets' own too.  Raises XfrmError."""
        return self._dump(requests.LIST_POLICIES, MessageType.NEW_POLICY, parse_policy)

    def security_association(self, identifier: SecurityAssociationId) -> SecurityAssociation:
        """One SA.  Raises XfrmError, ESRCH where there is none."""
        request = requests.get_security_association(identifier)
        return self._get(request, MessageType.NEW_SA, parse_security_association)

    def security_associations_of(
        self, identifiers: Sequence[SecurityAssociationId]
    ) -> list[SecurityAssociation | None]:
        """Several SAs at once, in their order; None where there is none.  Raises XfrmError."""
        asked = [requests.get_security_association(identifier) for identifier in identifiers]
        return self._get_many(asked, MessageType.NEW_SA, parse_security_association, errno.ESRCH)

    def policies_of(self, identifiers: Sequence[SecurityPolicyId]) -> list[SecurityPolicy | None]:
        """Several policies at once, in their order; None where there is none.  Raises XfrmError."""
        asked = [requests.get_policy(identifier) for identifier in identifiers]
        return self._get_many(asked, MessageType.NEW_POLICY, parse_policy, errno.ENOENT)

    def async_event(self, identifier: SecurityAssociationId) -> AsyncEvent:
        """One SA's sequence numbers and usage.  Raises XfrmError, ESRCH where there is none."""
        return self._get(requests.get_async_event(identifier), MessageType.NEW_ASYNC_EVENT, parse_async_event)

    def policy(self, identifier: SecurityPolicyId) -> SecurityPolicy:
        """One policy.  Raises XfrmError, ENOENT where there is none."""
        return self._get(requests.get_policy(identifier), MessageType.NEW_POLICY, parse_policy)

    # --- changes ------------------------------------------------------------------------------------------------------

    def add(self, sa: SecurityAssociation) -> None:
        """Raises XfrmError, as do all below; their docstrings in :mod:`.requests` name the usual errors."""
        self.do(requests.add_security_association(sa))

    def update(self, sa: SecurityAssociation) -> None:
        """See :func:`.requests.update_security_association`."""
        self.do(requests.update_security_association(sa))

    def delete(self, identifier: SecurityAssociationId) -> None:
        """See :func:`.requests.delete_security_association`."""
        self.do(requests.delete_security_association(identifier))

    def set_async_event(self, event: AsyncEvent) -> None:
        """See :func:`.requests.set_async_event`."""
        self.do(requests.set_async_event(event))

    def add_policy(self, policy: SecurityPolicy) -> None:
        """See :func:`.requests.add_policy`."""
        self.do(requests.add_policy(policy))

    def update_policy(self, policy: SecurityPolicy) -> None:
        """See :func:`.requests.update_policy`."""
        self.do(requests.update_policy(policy))

    def delete_policy(self, identifier: SecurityPolicyId) -> None:
        """See :func:`.requests.delete_policy`."""
        self.do(requests.delete_policy(identifier))

    def migrate(self, identifier: SecurityPolicyId, migrations: Sequence[Migration]) -> None:
        """See :func:`.requests.migrate`."""
        self.do(requests.migrate(identifier, migrations))

    def do(self, request: Request) -> None:
        """One request.  Raises XfrmError where the kernel does not do it."""
        (error,) = self.execute([request])
        if error is not None:
            raise error

    def execute(self, todo: Sequence[Request]) -> list[XfrmError | None]:
        """Many, many at a time: what became of each, in their order; one that fails keeps none from being done.

        Raises XfrmError where the kernel does not answer; what was done then is unknown, and to be looked up.
        """
        results: list[XfrmError | None] = []
        for batch in _batches(todo):
            results += self._execute(batch)
        return results

    def _execute(self, batch: Sequence[Request]) -> list[XfrmError | None]:
        """The kernel does one after another, tells of each that failed, and of the last one in any case."""
        first = self._sequence + 1
        last = len(batch) - 1
        octets = b"".join(
            self._message(request, HeaderFlag.ACKNOWLEDGE if at == last else 0) for at, request in enumerate(batch)
        )
        told: dict[int, XfrmError | None] = {}
        try:
            self._socket.send(octets)
            while last not in told:
                for header, body in messages(receive(self._socket)):
                    index = header.sequence - first
                    if header.type == MessageType.ERROR and 0 <= index <= last:
                        number, detail = error_of(header.flags, body)
                        told[index] = XfrmError(batch[index].what, number, detail) if number else None
        except OSError as error:
            raise XfrmError(batch[0].what, error.errno or errno.ETIMEDOUT) from error
        return [told.get(index) for index in range(len(batch))]

    # --- questions ----------------------------------------------------------------------------------------------------

    def _get(self, request: Request, answer: int, parse: Callable[[bytes], T]) -> T:
        ((found, error),) = self._questions([request], answer, parse)
        if error is not None or found is None:
            raise error or XfrmError(request.what, errno.ENOMSG)
        return found

    def _get_many(
        self, asked: Sequence[Request], answer: int, parse: Callable[[bytes], T], none: int
    ) -> list[T | None]:
        found: list[T | None] = []
        for at in range(0, len(asked), _QUESTIONS):
            for value, error in self._questions(asked[at : at + _QUESTIONS], answer, parse):
                if error is not None and error.number != none:
                    raise error
                found.append(value)
        return found

    def _questions(
        self, asked: Sequence[Request], answer: int, parse: Callable[[bytes], T]
    ) -> list[tuple[T | None, XfrmError | None]]:
        """One answer, or one error, for each: nothing else is told of a question without the ACKNOWLEDGE flag."""
        first = self._sequence + 1
        octets = b"".join(self._message(request, 0) for request in asked)
        told: dict[int, tuple[T | None, XfrmError | None]] = {}
        try:
            self._socket.send(octets)
            while len(told) < len(asked):
                for header, body in messages(receive(self._socket)):
                    index = header.sequence - first
                    if not 0 <= index < len(asked):
                        continue
                    if header.type == MessageType.ERROR:
                        number, detail = error_of(header.flags, body)
                        told[index] = None, XfrmError(asked[index].what, number or errno.ENOMSG, detail)
                    elif header.type == answer:
                        told[index] = parse(body), None
        except OSError as error:
            raise XfrmError(asked[0].what, error.errno or errno.ETIMEDOUT) from error
        return [told[index] for index in range(len(asked))]

    def _dump(self, request: Request, answer: int, parse: Callable[[bytes], T]) -> list[T]:
        for _ in range(_ATTEMPTS):
            found = []
            whole = True
            try:
                for header, body in self._answers(self._message(request, HeaderFlag.DUMP), request.what):
                    # Something changed meanwhile: what we have is neither old nor new.
                    whole = whole and not header.flags & HeaderFlag.DUMP_INTERRUPTED
                    if header.type == answer:
                        found.append(parse(body))
            except OSError as error:
                raise XfrmError(request.what, error.errno or errno.ETIMEDOUT) from error
            if whole:
                return found
        raise XfrmError(request.what, errno.EINTR)

    def _answers(self, question: bytes, what: str) -> Iterator[tuple[Any, bytes]]:
        """The answers to one question up to the last, which says that it is over."""
        self._socket.send(question)
        while True:
            for header, body in messages(receive(self._socket)):
                if header.sequence != self._sequence:
                    continue
                if header.type == MessageType.ERROR:
                    number, detail = error_of(header.flags, body)
                    if number:
                        raise XfrmError(what, number, detail)
                    return
                yield header, body
                if header.type == MessageType.DONE:
                    number = -int(read(S32, body)) if body else 0
                    if number > 0:
                        raise XfrmError(what, number)
                    return

    def _message(self, request: Request, flags: int) -> bytes:
        self._sequence += 1
        return build_message(request.kind, HeaderFlag.REQUEST | flags | request.flags, self._sequence, request.body)


def _batches(todo: Sequence[Request]) -> Iterator[list[Request]]:
    batch: list[Request] = []
    octets = 0
    for request in todo:
        if batch and (len(batch) == _PIPELINE or octets + len(request.body) > _PIPELINE_OCTETS):
            yield batch
            batch, octets = [], 0
        batch.append(request)
        octets += len(request.body)
    if batch:
        yield batch
