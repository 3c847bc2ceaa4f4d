"""After a take-over: the node and the peer agree on Message IDs (RFC 6311), in the IKE daemon's name.

What the daemon that is gone had sent and received last is not on record for sure.  Its heir asks the peer, which
answers with numbers above all of them.  strongSwan answers such requests and does not make them, so the node does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from contexts.ikev2 import IkeSaContext
from contexts.session import IkeSaSession
from contexts.session.message_id_sync import NONCE_OCTETS, build_synchronisation, read_synchronisation
from contexts.values import IkeExtension, MessageIds

from .adapters.ike_socket import IkeSocket
from .adapters.xfrm import Namespace
from .errors import LocalError, ProtectionError, TransportError

log = logging.getLogger(__name__)

MARGIN = 1 << 10
"""Requests that the cluster may have sent beyond what is on record; sixteen times as many with each repetition, for a
peer that has seen more says nothing (RFC 6311, 5.1)."""

ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds until the request is made again; twice as long each time.  The address may still be on its way here."""


class NotSynchronised(LocalError):
    """The peer did not answer, or can't: Message IDs are those on record."""


async def agree_on_message_ids(
    context: IkeSaContext, namespace: Namespace = None, *, random: Callable[[int], bytes] = os.urandom
) -> MessageIds:
    """What is to be sent and expected next.  Raises NotSynchronised."""
    if not context.extensions & IkeExtension.MESSAGE_ID_SYNC:
        raise NotSynchronised("the peer does not support RFC 6311")
    session, told = IkeSaSession(context), context.message_ids
    wait, reason = FIRST_WAIT, "no answer"
    for attempt in range(ATTEMPTS):
        # Each with numbers and a nonce of its own: the peer drops what is not above all that it has seen.
        asked = MessageIds(told.next_request_to_send + (MARGIN << 4 * attempt), told.next_request_expected)
        nonce = random(NONCE_OCTETS)
        request = build_synchronisation(session, nonce, asked, random(session.iv_octets))
        try:
            agreed = await _ask(context, session, request, nonce, wait, namespace)
        except TransportError as error:
            reason = str(error)
            await asyncio.sleep(wait)
        else:
            if agreed is not None:
                return agreed
        wait *= 2
    raise NotSynchronised(f"the peer was asked {ATTEMPTS} times (RFC 6311): {reason}")


async def _ask(
    context: IkeSaContext, session: IkeSaSession, request: bytes, nonce: bytes, wait: float, namespace: Namespace
) -> MessageIds | None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[MessageIds] = loop.create_future()
    opened = IkeSocket(context.local_host, context.remote_host, namespace)

    def receive() -> None:
        try:
            messages = opened.receive()
        except TransportError as error:  # an ICMP error about an earlier message: the next one may arrive
            log.debug("%s", error)
            return
        for message in messages:
            try:
                agreed = read_synchronisation(session, message, nonce)
            except ProtectionError as error:  # others' messages come by here as well
                log.debug("%s", error)
                continue
            if not answer.done():
                answer.set_result(agreed)

    loop.add_reader(opened, receive)
    try:
        opened.send(request)
        return await asyncio.wait_for(answer, wait)
    except asyncio.TimeoutError:
        return None
    finally:
        loop.remove_reader(opened)
        opened.close()
