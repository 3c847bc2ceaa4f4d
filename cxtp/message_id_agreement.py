"""After a take-over: which Message IDs the peer of an IKE_SA has seen, asked in the name of the IKE daemon.

What the daemon that is gone had sent and received last is on record, but for the last moment.  Three ways to be sure:

- RFC 6311, where both ends announced it: the heir asks, and the peer answers with numbers above all that were used.
- Where they did not (strongSwan's gateways never do): a liveness check (RFC 7296, 1.4: an INFORMATIONAL request without
  payloads) under the last Message ID that is on record as used.  A peer that had not got the request answers.  One that
  had it may answer as it did then (2.1), or see that it is another request, and say nothing: then the next number is
  tried, and so on.  Whichever is answered, the peer expects the one after it from then on.
- The other direction shows itself: a peer whose request was not answered sends it again.  For a while its requests are
  listened to, and where they are authentic and have another Message ID than the daemon expects, it is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from contexts.ikev2 import IkeSaContext
from contexts.session import IkeSaSession, OpenedIkeMessage
from contexts.session.ike_message import HEADER_OCTETS, parse_header
from contexts.session.message_id_sync import NONCE_OCTETS, build_synchronisation, read_synchronisation
from contexts.values import IkeExtension, IkeSpis, IPAddress, MessageIds

from .adapters.ike_socket import IkeSocket
from .adapters.xfrm import Namespace
from .constants import IKE_PORT, IkeExchange
from .errors import CxtpError, LocalError, ProtectionError, TransportError

log = logging.getLogger(__name__)

MARGIN = 1 << 10
"""Requests that the cluster may have sent beyond what is on record; sixteen times as many with each repetition, for a
peer that has seen more says nothing (RFC 6311, 5.1)."""

SYNCHRONISATIONS = 4
PROBES = 12
"""Message IDs that are tried, one after another, from the last one on record."""

PATIENCE = 0.5
"""Seconds until a request is made again; the address may still be on its way here."""
ROUNDS = 3
"""The two likeliest numbers are asked so often before the next."""

WATCHED = 300.0
"""Seconds that a peer's requests are listened to; strongSwan sends one again for 165."""
AHEAD = 1 << 10
"""A request's Message ID lies this far ahead of what is expected at the most."""


class NotAgreed(LocalError):
    """The peer did not answer: Message IDs are those on record."""


@dataclass
class _Watched:
    """One IKE_SA whose peer is listened to.  ``answers``: who waits for responses; ``expected``: the next request."""

    session: IkeSaSession
    expected: int
    until: float
    answers: asyncio.Queue[tuple[bytes, OpenedIkeMessage]]
    behind: bool = True
    """The last request before ``expected`` may still come again unanswered."""


class MessageIdAgreement:
    """For all IKE_SAs that were taken over.  ``told`` is called with an IKE_SA and the Message ID that its daemon is to
    expect."""

    def __init__(
        self,
        told: Callable[[IkeSaContext, int], None],
        namespace: Namespace = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._told = told
        self._namespace = namespace
        self._random = random
        self._sockets: dict[IPAddress, IkeSocket] = {}
        self._watched: dict[IkeSpis, _Watched] = {}

    def close(self) -> None:
        """Listen no more."""
        for local in list(self._sockets):
            self._close(local)
        self._watched.clear()

    async def agree(self, context: IkeSaContext) -> MessageIds:
        """What is to be sent and expected next; the peer is listened to from now on.  Raises NotAgreed."""
        watched = _Watched(
            IkeSaSession(context),
            context.message_ids.next_request_expected,
            time.monotonic() + WATCHED,
            asyncio.Queue(64),
        )
        self._watched[context.spis] = watched
        if context.extensions & IkeExtension.MESSAGE_ID_SYNC:
            return await self._synchronise(context, watched)
        if not context.message_ids.next_request_to_send:
            await self._until_here(context)
            return context.message_ids  # the daemon that is gone had sent nothing
        return await self._probe(context, watched)

    # --- RFC 6311 ---------------------------------------------------------------------------------------------------

    async def _synchronise(self, context: IkeSaContext, watched: _Watched) -> MessageIds:
        session, told, reason = watched.session, context.message_ids, "no answer"
        for attempt in range(SYNCHRONISATIONS):
            # Each with numbers and a nonce of its own: the peer drops what is not above all that it has seen.
            asked = replace(told, next_request_to_send=told.next_request_to_send + (MARGIN << 4 * attempt))
            nonce = self._random(NONCE_OCTETS)
            request = build_synchronisation(session, nonce, asked, self._random(session.iv_octets))
            try:
                self._send(context, request)
                while (answer := await self._answer(watched, PATIENCE * 2**attempt)) is not None:
                    try:
                        agreed = read_synchronisation(session, answer[0], nonce)
                    except ProtectionError as error:  # a response to something else
                        reason = str(error)
                        continue
                    watched.expected, watched.behind = agreed.next_request_expected, False
                    return agreed
            except TransportError as error:
                reason = str(error)
                await asyncio.sleep(PATIENCE)
        raise NotAgreed(f"the peer was asked {SYNCHRONISATIONS} times (RFC 6311): {reason}")

    # --- liveness checks --------------------------------------------------------------------------------------------

    async def _probe(self, context: IkeSaContext, watched: _Watched) -> MessageIds:
        last, reason = context.message_ids.next_request_to_send - 1, "no answer"
        for number in (last, last + 1) * ROUNDS + tuple(range(last + 2, last + PROBES)):
            iv = self._random(watched.session.iv_octets)
            try:
                self._send(context, watched.session.seal(IkeExchange.INFORMATIONAL, number, (), iv))
                while (answer := await self._answer(watched, PATIENCE)) is not None:
                    if answer[1].header.message_id >= last:
                        following = answer[1].header.message_id + 1
                        return replace(context.message_ids, next_request_to_send=following)
            except TransportError as error:
                reason = str(error)
                await asyncio.sleep(PATIENCE)
        raise NotAgreed(f"the peer answers no request of number {last} to {number}: {reason}")

    # --- the peer's messages ----------------------------------------------------------------------------------------

    async def _until_here(self, context: IkeSaContext) -> None:
        """Listening begins once the address is here."""
        for _ in range(2 * ROUNDS):
            try:
                return self._listen(context.local_host.address)
            except TransportError as error:
                log.debug("%s", error)
                await asyncio.sleep(PATIENCE)

    def _send(self, context: IkeSaContext, message: bytes) -> None:
        local = context.local_host
        self._listen(local.address)
        try:
            self._sockets[local.address].send(message, local.port or IKE_PORT, context.remote_host)
        except TransportError:
            self._close(local.address)  # the address may have come and gone
            raise

    def _listen(self, local: IPAddress) -> None:
        if local not in self._sockets:
            opened = self._sockets[local] = IkeSocket(local, self._namespace)
            asyncio.get_running_loop().add_reader(opened, self._receive, local)

    def _close(self, local: IPAddress) -> None:
        opened = self._sockets.pop(local, None)
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()

    async def _answer(self, watched: _Watched, seconds: float) -> tuple[bytes, OpenedIkeMessage] | None:
        try:
            return await asyncio.wait_for(watched.answers.get(), seconds)
        except asyncio.TimeoutError:
            return None

    def _receive(self, local: IPAddress) -> None:
        now = time.monotonic()
        self._watched = {spis: watched for spis, watched in self._watched.items() if watched.until > now}
        try:
            messages = self._sockets[local].receive()
        except TransportError as error:  # an ICMP error about an earlier message: the next one may arrive
            log.debug("%s", error)
            return
        for message, _ in messages:
            self._take(message)
        if not self._watched:
            self._close(local)

    def _take(self, message: bytes) -> None:
        try:
            header = parse_header(message[:HEADER_OCTETS] if len(message) < HEADER_OCTETS else message)
            watched = self._watched.get(header.spis)
            if watched is None or header.from_initiator is watched.session.context.initiator:
                return
            opened = watched.session.open(message)
        except CxtpError as error:  # forged, or not whole: the daemon's matter
            log.debug("%s", error)
            return
        if opened is None:
            return
        if header.response:
            if not watched.answers.full():
                watched.answers.put_nowait((message, opened))
        elif header.exchange_type in (IkeExchange.INFORMATIONAL, IkeExchange.CREATE_CHILD_SA):
            self._asked(watched, header.message_id)

    def _asked(self, watched: _Watched, number: int) -> None:
        again = watched.behind and number == watched.expected - 1
        if again or watched.expected < number <= watched.expected + AHEAD:
            self._told(watched.session.context, number)
        if number >= watched.expected or again:
            watched.expected, watched.behind = max(watched.expected, number + 1), False
