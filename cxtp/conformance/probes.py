"""What a live peer is provoked with, role by role: each probe a few messages, and what they gave is taken back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..config import ContextTypes
from ..dissect import Transport
from ..messages import (
    ContextRequest,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    PredictiveContextTransferData,
)
from ..wire import build
from .live import PROBE_TYPE, QUIET_SECONDS, Probe, Prober

_SHORT_PAUSE = 0.05
_DIGEST_AT = 24
"""Where a manifest's digest stands (docs/context-formats.md, 6)."""

# --- a new router: it is given contexts, and gives them back ------------------------------------------------------


async def whole_transfer(prober: Prober) -> None:
    """CTD, CTDR."""
    if prober.config.has_routers:
        said = len(prober.records)
        prober.say(prober.data())
        await prober.hear(ContextTransferDataReply, after=said)
        await prober.take_back()


async def duplicate_data(prober: Prober) -> None:
    """The same CTD three times: each copy may draw the reply, none another effect."""
    if prober.config.has_routers:
        said = len(prober.records)
        data = prober.data()
        for _ in range(3):
            prober.say(data)
            await asyncio.sleep(_SHORT_PAUSE)
        await prober.hear(ContextTransferDataReply, after=said)
        await prober.take_back()


async def unasked_reply(prober: Prober) -> None:
    """Data without A."""
    if prober.config.has_routers:
        prober.say(prober.data(acknowledge=False))
        await prober.hear(ContextTransferDataReply, within=QUIET_SECONDS)
        await prober.take_back()


async def oversized(prober: Prober) -> None:
    """As much as a message holds, of types that nobody knows."""
    if prober.config.has_routers:
        room = min(prober.largest_message, 65_000) - 1000
        contexts = [EncodedContext(PROBE_TYPE + n, b"oversized..." * 150) for n in range(room // 1900)]
        said = len(prober.records)
        prober.say(prober.data(*contexts))
        await prober.hear(ContextTransferDataReply, after=said)
        await prober.take_back()


async def late_data(prober: Prober) -> None:
    """Data, and once more long after its reply."""
    if prober.config.has_routers:
        data = prober.data()
        said = len(prober.records)
        prober.say(data)
        await prober.hear(ContextTransferDataReply, after=said)
        await asyncio.sleep(2 * QUIET_SECONDS)
        prober.say(data)
        await prober.hear(ContextTransferDataReply, within=QUIET_SECONDS)
        await prober.take_back()


async def stale(prober: Prober) -> None:
    """Contexts of a generation that the peer gave away, and that we confirmed."""
    if not prober.config.has_routers:
        return
    await whole_transfer(prober)
    said = len(prober.records)
    prober.say(prober.data(again=True))
    await prober.hear(ContextTransferDataReply, after=said)
    await asyncio.sleep(QUIET_SECONDS)


async def unusable(prober: Prober) -> None:
    """A digest that is not the contexts', then an IKE_SA that is none: what is refused need not be taken back."""
    if not prober.config.has_routers:
        return
    corrupted = prober.data()
    manifest, *rest = corrupted.blocks
    manifest = replace(manifest, data=manifest.data[:_DIGEST_AT] + bytes(16) + manifest.data[_DIGEST_AT + 16 :])
    no_context = prober.data(EncodedContext(ContextTypes().ike_sa, bytes(16), 0))
    for data in (replace(corrupted, blocks=(manifest, *rest)), no_context):
        said = len(prober.records)
        prober.say(data)
        answer = await prober.hear(ContextTransferDataReply, after=said)
        if answer is not None and isinstance(answer.message, ContextTransferDataReply) and answer.message.success:
            await prober.take_back()
        await asyncio.sleep(QUIET_SECONDS)


def _spoiled(octets: bytes) -> list[bytes]:
    """What is no message: another version, an unknown type, wrong lengths, cut short, and noise."""
    length = len(octets)
    return [
        bytes((octets[0] & 31 | 2 << 5,)) + octets[1:],
        bytes((octets[0] & 0xE0 | 31,)) + octets[1:],
        octets[:2] + (length + 1).to_bytes(2, "big") + octets[4:],
        octets[:2] + (length - 1).to_bytes(2, "big") + octets[4:],
        octets[:2] + (length - 8).to_bytes(2, "big") + octets[4 : length - 8],
        octets[:3],
    ]


async def malformed(prober: Prober) -> None:
    """Each of these, then a message that is one: the peer must still be there."""
    if not prober.config.has_routers:
        return
    new = prober.config.role == "new-router"
    spoiled = _spoiled(build(prober.data() if new else prober.request()))
    if prober.config.transport is Transport.TCP:  # a stream whose lengths are wrong is a stream no more
        spoiled = spoiled[:2]
    for octets in spoiled:
        prober.say(octets)
        await asyncio.sleep(_SHORT_PAUSE)
    await asyncio.sleep(QUIET_SECONDS)
    await (whole_transfer(prober) if new else asked(prober))


async def predictive(prober: Prober) -> None:
    """Contexts ahead, then a CTAR with a wrong token: nothing is activated.  Then the right one, and all back."""
    config = prober.config
    if not (config.has_mobile_nodes and config.has_routers):
        return
    key = _new_key(prober)
    said = len(prober.records)
    prober.say(PredictiveContextTransferData(key=key, **vars(prober.data())))
    await prober.hear(ContextTransferDataReply, after=said)
    for forged in (True, False):
        said = len(prober.records)
        prober.say(prober.activation(key=key, forged=forged))
        await prober.hear(ContextTransferActivateAcknowledge, after=said)
        await asyncio.sleep(QUIET_SECONDS)
    await prober.take_back()


def _new_key(prober: Prober) -> bytes:
    return prober.random.getrandbits(128).to_bytes(16, "big")


async def reactive(prober: Prober) -> None:
    """A CTAR: the peer asks us, and gets contexts.  The CTAR once more when all is done: nothing.  One without A.

    The key is the mobile node's and ours, who had its session; the peer knows nothing of it.
    """
    config = prober.config
    if not (config.has_mobile_nodes and config.has_routers):
        return
    for acknowledge in (True, False):
        said = len(prober.records)
        ctar = prober.activation(key=_new_key(prober), acknowledge=acknowledge)
        prober.say(ctar)
        asked_for = await prober.hear(ContextTransferRequest, after=said)
        if asked_for is None:
            return
        prober.say(prober.data())
        await prober.hear(ContextTransferDataReply, after=said)
        if acknowledge:
            await prober.hear(ContextTransferActivateAcknowledge, after=said)
            await asyncio.sleep(QUIET_SECONDS)
            prober.say(ctar)
        await asyncio.sleep(QUIET_SECONDS)
        await prober.take_back()


async def never_answered(prober: Prober) -> None:
    """A CTAR, and silence at each CT-Req that it draws: the repetitions wait longer, and end.  Then: no contexts."""
    config = prober.config
    if not (config.has_mobile_nodes and config.has_routers):
        return
    said = len(prober.records)
    prober.say(prober.activation(key=_new_key(prober)))
    if await prober.hear(ContextTransferRequest, after=said) is not None:
        await asyncio.sleep(min(1.0, config.timers.max_handover_time / 2))
        prober.say(ContextTransferData(mn_previous_address=config.mn, elapsed_time=0, blocks=(), acknowledge=False))
        await prober.hear(ContextTransferActivateAcknowledge, after=said)


# --- a previous router: it has a session, is asked for it, and keeps it -------------------------------------------


async def asked(prober: Prober) -> None:
    """CT-Req, CTD, and: no, thank you."""
    if prober.config.has_routers:
        said = len(prober.records)
        prober.say(prober.request())
        await _refuse(prober, said)


async def _refuse(prober: Prober, said: int, *, with_receipt: bool = True) -> None:
    data = await prober.hear(ContextTransferData, after=said)
    if data is not None and isinstance(data.message, ContextTransferData) and data.message.acknowledge:
        prober.say(prober.reply(data, False, with_receipt=with_receipt))
    await asyncio.sleep(QUIET_SECONDS)


async def without_receipt(prober: Prober) -> None:
    """Refused by a router that knows no receipts: the repetitions end all the same."""
    if prober.config.has_routers:
        said = len(prober.records)
        prober.say(prober.request())
        await _refuse(prober, said, with_receipt=False)


async def listed(prober: Prober) -> None:
    """Asked for all types that the session has, each by its number, and for one of them alone."""
    if not prober.config.has_routers:
        return
    types: list[int] = []
    for count in (0, None, 1):  # first without a list, to see what there is
        said = len(prober.records)
        prober.say(prober.request(requested=tuple(ContextRequest(kind) for kind in types[:count])))
        await _refuse(prober, said)
        ours = (ContextTypes().transfer_manifest, ContextTypes().continuation)
        sent = [b for r in prober.records[said:] for b in getattr(r.message, "blocks", ()) if not r.ours]
        types = types or sorted({b.feature_profile_type for b in sent}.difference(ours))


async def silence(prober: Prober) -> None:
    """No reply while CT_MAX_TRANSFER_TIME lasts: repetitions wait longer, and end.  Then: no, thank you."""
    if not prober.config.has_routers:
        return
    said = len(prober.records)
    prober.say(prober.request())
    data = await prober.hear(ContextTransferData, after=said)
    await asyncio.sleep(prober.config.timers.max_transfer_time * 1.5)
    if data is not None:
        prober.say(prober.reply(data, False))
    await asyncio.sleep(QUIET_SECONDS)


async def forged_request(prober: Prober) -> None:
    """A CT-Req with a wrong token."""
    if prober.config.key and prober.config.has_routers:
        said = len(prober.records)
        prober.say(prober.request(forged=True))
        await prober.hear(ContextTransferData, within=2 * QUIET_SECONDS, after=said)


async def cancelled(prober: Prober) -> None:
    """A CTC in the middle of a transfer."""
    if not prober.config.has_routers:
        return
    said = len(prober.records)
    prober.say(prober.request())
    data = await prober.hear(ContextTransferData, after=said)
    prober.say(ContextTransferCancel(mn_previous_address=prober.config.mn))
    await asyncio.sleep(QUIET_SECONDS)
    if data is not None:
        prober.say(prober.reply(data, False))
    await asyncio.sleep(QUIET_SECONDS)


async def null_request(prober: Prober) -> None:
    """Asked for with a null token: the key has to come as well."""
    if prober.config.has_routers:
        said = len(prober.records)
        prober.say(replace(prober.request(), authorization_token=bytes(4)))
        await _refuse(prober, said)


async def repeated_request(prober: Prober) -> None:
    """The same CT-Req twice."""
    if prober.config.has_routers:
        said = len(prober.records)
        request = prober.request()
        prober.say(request)
        prober.say(request)
        await _refuse(prober, said)


async def activated(prober: Prober) -> None:
    """A mobile node that is about to leave: CTARs with a wrong token, without A, and the right one.

    As its new router we say that the contexts did not come, ask for them by the CTAR's number, and refuse them.
    """
    config = prober.config
    if not (config.has_mobile_nodes and config.key):
        return
    for acknowledge in (True, False):
        said = len(prober.records)
        ctar = prober.activation(forged=True, acknowledge=acknowledge)
        for _ in range(2):  # as a mobile node repeats it
            prober.say(ctar)
            await asyncio.sleep(QUIET_SECONDS)
        await prober.hear(ContextTransferActivateAcknowledge, within=QUIET_SECONDS, after=said)
    if config.has_routers:
        number, said = prober.number(), len(prober.records)
        prober.say(prober.activation(number=number))
        await prober.hear(PredictiveContextTransferData, after=said)
        said = len(prober.records)
        prober.say(prober.request(number=number))
        await _refuse(prober, said)
        await prober.hear(ContextTransferActivateAcknowledge, after=said)


# --- any router ----------------------------------------------------------------------------------------------------


async def flood(prober: Prober) -> None:
    """Forty CTARs at once, for addresses that have no session: the rate limit shows, and that the peer goes on.

    What it asks us for because of them, we have not: it need not go on asking.
    """
    if not prober.config.has_mobile_nodes:
        return
    said = len(prober.records)
    base = int(prober.config.mn)
    for n in range(40):
        prober.say(prober.activation(mn=type(prober.config.mn)(base ^ (n + 1)), forged=True))
    if prober.config.has_routers:
        await asyncio.sleep(_SHORT_PAUSE)
        heard = [r.message for r in prober.records[said:]]
        asked_for = {m.mn_previous_address: None for m in heard if isinstance(m, ContextTransferRequest)}
        for mn in asked_for:
            prober.say(ContextTransferData(mn_previous_address=mn, elapsed_time=0, blocks=(), acknowledge=False))
    await (whole_transfer(prober) if prober.config.role == "new-router" else asked(prober))
    await asyncio.sleep(1.0)


async def stranger(prober: Prober) -> None:
    """A router that the peer does not know asks for the session, and offers one."""
    if prober.config.stranger is not None:
        prober.say(prober.request(), way="stranger")
        prober.say(prober.data(), way="stranger")
        await asyncio.sleep(2 * QUIET_SECONDS)


# --- a mobile node: it asks, and is answered late -----------------------------------------------------------------


async def mobile_node(prober: Prober) -> None:
    """Its CTAR is answered after three repetitions."""
    config = prober.config
    first = await prober.hear(ContextTransferActivateRequest, within=config.patience, after=0)
    if first is None:
        return
    retry, most = config.timers.request_retry, config.timers.retry_max
    waited = min(retry * 7 + 1, most * 0.9)  # three repetitions: after 1, 3 and 7 waits
    await asyncio.sleep(waited)
    if isinstance(first.message, ContextTransferActivateRequest) and first.message.acknowledge:
        prober.say(ContextTransferActivateAcknowledge(mn_previous_address=first.message.mn_previous_address))
    # One more would be due after 15 waits.
    await asyncio.sleep(max(retry * 3, min(retry * 15, most) - waited) + QUIET_SECONDS)


PROBES: dict[str, tuple[Probe, ...]] = {
    "new-router": (
        whole_transfer,
        duplicate_data,
        unasked_reply,
        malformed,
        late_data,
        oversized,
        stale,
        unusable,
        predictive,
        reactive,
        never_answered,
        stranger,
        flood,
        whole_transfer,
    ),
    "previous-router": (
        without_receipt,  # first: once there were receipts, a reply without one may be an older transfer's
        asked,
        null_request,
        repeated_request,
        listed,
        malformed,
        silence,
        forged_request,
        cancelled,
        activated,
        stranger,
        flood,
        asked,
    ),
    "mobile-node": (mobile_node,),
}
