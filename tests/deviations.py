"""Our node with one deviation each: for every rule that a live peer can break, a node that breaks it alone.

A deviation is a flag of the tests' alone: what stands between node and wire changes a message, drops one or sends one
more, or a piece of the node's code has another in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from conformance_pairs import SHORT_KEY
from conformance_traces import MOVED
from context_examples import IKE_SA
from live_nodes import KEY, MN, MOBILE_TIMERS, QUICK, Packet, Pass, Wire, as_it_is
from mutators import a_reserved_bit, no_type, one_octet_less_and_told, one_too_long, the_last_octet_set, version_2
from node_helpers import without_parameter

from contexts.base import encode
from cxtp.config import Timers
from cxtp.conformance import probes
from cxtp.conformance.live import Probe, Prober
from cxtp.continuation import from_blocks
from cxtp.errors import RemoteError
from cxtp.manifest import TransferManifest, plan_parts, receipt
from cxtp.messages import (
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    Message,
    PredictiveContextTransferData,
)
from cxtp.roles.schedule import Backoff
from cxtp.transports.endpoint import Peer
from cxtp.wire import build, parse

NEW, PREVIOUS, MOBILE = "new-router", "previous-router", "mobile-node"
CTAR, CTAA, REQUEST = ContextTransferActivateRequest, ContextTransferActivateAcknowledge, ContextTransferRequest
DATA, PCTD, REPLY, CANCEL = (
    ContextTransferData, PredictiveContextTransferData, ContextTransferDataReply, ContextTransferCancel
)  # fmt: skip


@dataclass(frozen=True)
class Deviation:
    """``timers``: the judge's, where it has to be less patient; ``place``, ``substitute``: code that is replaced."""

    role: str
    probe: Probe
    out: Pass = as_it_is
    into: Pass = as_it_is
    place: str = ""
    substitute: Any = None
    timers: Timers | None = None
    own_timers: Timers = MOBILE_TIMERS
    key: bytes = KEY
    contexts: tuple[EncodedContext, ...] = ()
    two_ways: bool = False


UNKNOWN_TYPE = ContextStatus(0x7001, 2)

# --- how messages are changed -------------------------------------------------------------------------------------


def read(octets: bytes) -> Message | None:
    try:
        return parse(octets)
    except RemoteError:
        return None


def spoil(kind: type[Message], mutator: Callable[[bytes, Any], bytes]) -> Pass:
    """Its octets, by one of the fuzzers' mutators."""

    def change(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
        return ((mutator(octets, None) if isinstance(read(octets), kind) else octets, peer),)

    return change


def edit(kind: type[Message], change: Callable[[Any], Message]) -> Pass:
    """A message of this type, by what ``change`` makes of it."""

    def edited(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
        message = read(octets)
        return ((build(change(message)) if isinstance(message, kind) else octets, peer),)

    return edited


def fields(kind: type[Message], **changes: Any) -> Pass:
    return edit(kind, lambda message: replace(message, **changes))


def drop(kind: type[Message]) -> Pass:
    return lambda wire, octets, peer: () if isinstance(read(octets), kind) else ((octets, peer),)


Contexts = tuple[EncodedContext, ...]


def with_contexts(message: Any, change: Callable[[Contexts], Contexts], **manifest: int) -> Any:
    """Data with other contexts, the manifest made anew."""
    if not message.blocks:
        return message
    first, *contexts = from_blocks(message.blocks)
    told = TransferManifest.decode(first)
    names = {"transfer_id": told.transfer_id, "generation": told.generation, **manifest}
    (blocks,) = plan_parts(change(tuple(contexts)), **names)
    return replace(message, blocks=blocks)


def contexts(change: Callable[[Contexts], Contexts], **manifest: int) -> Pass:
    return edit(DATA, lambda message: with_contexts(message, change, **manifest))


def first(change: Callable[[EncodedContext], EncodedContext]) -> Pass:
    """The IKE_SA context changed."""
    return contexts(lambda whole: (change(whole[0]), *whole[1:]))


def octets_at(position: int, value: bytes) -> Callable[[EncodedContext], EncodedContext]:
    return lambda c: replace(c, data=c.data[:position] + value + c.data[position + len(value) :])


def in_manifest(offset: int, change: Callable[[int], int]) -> Callable[[bytes, Any], bytes]:
    """An octet of the manifest's block, counted from its Feature Profile Type."""

    def changed(octets: bytes, rng: Any) -> bytes:
        at = octets.find(b"\xff\x03\x06\x00") + offset
        return octets[:at] + bytes((change(octets[at]),)) + octets[at + 1 :] if at >= offset else octets

    return changed


def cut(length: int) -> Callable[[bytes, Any], bytes]:
    """Fewer octets, and Length says so."""
    return lambda octets, rng: octets[:2] + length.to_bytes(2, "big") + octets[4:length]


def statuses(message: Any, change: Callable[[ContextStatus], ContextStatus | None]) -> Any:
    """A CTDR's or CTAA's, the receipt left as it is."""
    changed = [s if s.feature_profile_type == 0xFF03 else change(s) for s in message.statuses]
    return replace(message, statuses=tuple(s for s in changed if s is not None))


# --- deviations that take more than a changed message -------------------------------------------------------------


def acknowledged(kind: type[Message]) -> Pass:
    """The node takes A for set."""
    return fields(kind, acknowledge=True)


def asks_again(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: a CTAR that was had before draws its CT-Req once more."""
    message = read(octets)
    if isinstance(message, CTAR):
        if message in wire.memory and wire.router is not None:
            wire.send(wire.memory[message], wire.router)
            return
        wire.memory["last"] = message
    yield octets, peer


def remember_request(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    if isinstance(read(octets), REQUEST):
        wire.memory[wire.memory["last"]] = octets
    yield octets, peer


def asks_although_it_has(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: each CTAR draws a CT-Req, once contexts came ahead and the first, forged, one is over."""
    message = read(octets)
    yield octets, peer
    if isinstance(message, CTAR) and wire.router is not None:
        wire.memory["ctars"] = wire.memory.get("ctars", 0) + 1
        if wire.memory["ctars"] == 2:
            request = REQUEST(
                mn_previous_address=message.mn_previous_address,
                sequence_number=message.sequence_number,
                authorization_token=message.authorization_token,
                requested=message.requested,
            )
            wire.send(build(request), wire.router)


def keep_last_data(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    if isinstance(read(octets), DATA):
        wire.memory["data"] = (read(octets), peer)
    yield octets, peer


def data_after_cancel(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: 0.15 s after a CTC, another transfer of the same contexts."""
    if isinstance(read(octets), CANCEL) and "data" in wire.memory:
        message, to = wire.memory["data"]
        other = with_contexts(replace(message, elapsed_time=message.elapsed_time + 150), lambda c: c, transfer_id=99)
        wire.send(build(other), to, 0.15)
        return
    yield octets, peer


def data_to_another(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: once the data was confirmed, it goes to another router as well."""
    message = read(octets)
    if isinstance(message, REPLY) and message.success and "data" in wire.memory and wire.stranger is not None:
        wire.send(build(wire.memory["data"][0]), wire.stranger, 0.05)
    yield octets, peer


def to_stranger(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    to = wire.stranger if isinstance(read(octets), DATA) and wire.stranger is not None else peer
    yield octets, to


def to_router(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: a CTAA the routers' way."""
    yield octets, wire.router if isinstance(read(octets), CTAA) and wire.router is not None else peer


def to_mobile_node(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: contexts the mobile nodes' way."""
    yield octets, wire.mobile if isinstance(read(octets), DATA) and wire.mobile is not None else peer


def takes_strangers(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: a stranger's request is taken for a router's that the node knows."""
    if wire.stranger is not None and peer.address == wire.stranger.address and wire.router is not None:
        yield octets, wire.router
    else:
        yield octets, peer


def version_1(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: whatever its version, it is taken."""
    yield (bytes((octets[0] & 31 | 32,)) + octets[1:] if octets else octets), peer


def others_again(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: what is sent once it was asked for again is less than what was sent before."""
    message = read(octets)
    if isinstance(message, DATA) and message.blocks and wire.memory.get("asked"):
        wire.memory["transfer"] = TransferManifest.decode(from_blocks(message.blocks)[0]).transfer_id
        octets = build(with_contexts(message, lambda c: c[:1], transfer_id=99))
    yield octets, peer


def note_request(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: the reply to what was sent in its place is the reply to what it would have sent."""
    message = read(octets)
    wire.memory["asked"] = wire.memory.get("asked") or isinstance(message, REQUEST)
    if isinstance(message, REPLY) and "transfer" in wire.memory:
        octets = build(replace(message, statuses=(message.statuses[0], *receipt(wire.memory["transfer"]))))
    yield octets, peer


def silent_after_flood(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Into: forty CTARs, and nothing is heard any more."""
    wire.memory["ctars"] = wire.memory.get("ctars", 0) + isinstance(read(octets), CTAR)
    return () if wire.memory["ctars"] >= 40 and not isinstance(read(octets), CTAR) else ((octets, peer),)


def first_refusal_unsaid(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: the CTAA to a wrong token says nothing of it."""
    message = read(octets)
    yield (build(replace(message, statuses=())) if isinstance(message, CTAA) else octets), peer


def learn_key(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    message = read(octets)
    if isinstance(message, PCTD):
        wire.memory.setdefault("key", message.key)
    yield octets, peer


def same_key(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: the key that proved a mobile node goes with its contexts ever after."""
    message = read(octets)
    if isinstance(message, PCTD) and "key" in wire.memory:
        octets = build(replace(message, key=wire.memory["key"]))
    yield octets, peer


def another_story(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    """Out: repetitions say another generation of the same transfer."""
    message = read(octets)
    if isinstance(message, DATA) and message.blocks:
        if wire.memory.get("sent"):
            octets = build(with_contexts(message, lambda c: c, generation=77))
        wire.memory["sent"] = True
    yield octets, peer


def one_wait(self: Backoff, now: float) -> None:
    self.at = now + self.wait


async def twice_predictive(prober: Prober) -> None:
    """Contexts ahead and back, and once more without."""
    await probes.predictive(prober)
    await asyncio.sleep(0.3)
    await probes.whole_transfer(prober)


async def long_silence(prober: Prober) -> None:
    """Asked for, and refused when all repetitions have come."""
    said = len(prober.records)
    prober.say(prober.request())
    data = await prober.hear(DATA, after=said)
    await asyncio.sleep(QUICK.timers.max_transfer_time * 1.5)
    if data is not None:
        prober.say(prober.reply(data, False))


async def kept_a_while(prober: Prober) -> None:
    """Given, and taken back later."""
    prober.say(prober.data())
    await prober.hear(REPLY)
    await asyncio.sleep(0.2)
    await prober.take_back()


async def answered_at_once(prober: Prober) -> None:
    """A mobile node's CTAR, and its answer."""
    if await prober.hear(CTAR, within=2.0, after=0) is not None:
        prober.say(CTAA(mn_previous_address=MN))
        await asyncio.sleep(0.5)


async def four_ctars(prober: Prober) -> None:
    """Until a mobile node has repeated its CTAR three times."""
    for _ in range(4):
        await prober.hear(CTAR, within=2.0)


async def one_ctar(prober: Prober) -> None:
    await prober.hear(CTAR, CTAA, within=1.0, after=0)


# --- the table ----------------------------------------------------------------------------------------------------

ask, take, forged = probes.null_request, probes.whole_transfer, probes.forged_request
SHORT = replace(QUICK.timers, max_handover_time=0.3, retry_max=0.3)
IKE_KEY: bytes = IKE_SA.keying.keys.sk_d  # type: ignore[union-attr]

DEVIATIONS: dict[str, Deviation] = {
    # messages
    "2.2-version": Deviation(PREVIOUS, ask, spoil(DATA, version_2)),
    "2.5-type": Deviation(PREVIOUS, ask, spoil(DATA, no_type)),
    "2.5-length": Deviation(PREVIOUS, ask, spoil(DATA, one_too_long)),
    "2.5-family": Deviation(NEW, take, fields(REPLY, mn_previous_address=ip_address(f"::ffff:{MN}"))),
    "2.5.1-layout": Deviation(MOBILE, one_ctar, spoil(CTAR, cut(15))),
    "2.5.2-layout": Deviation(PREVIOUS, probes.activated, spoil(CTAA, one_octet_less_and_told)),
    "2.5.3-layout": Deviation(PREVIOUS, forged, spoil(DATA, one_octet_less_and_told)),
    "2.5.3-predictive-layout": Deviation(PREVIOUS, ask, spoil(PCTD, cut(17))),
    "2.5.4-layout": Deviation(NEW, take, spoil(REPLY, one_octet_less_and_told)),
    "2.5.6-layout": Deviation(NEW, probes.reactive, spoil(REQUEST, cut(15))),
    "2.5-reserved": Deviation(NEW, take, spoil(REPLY, a_reserved_bit)),
    "2.5.4-reserved": Deviation(NEW, take, spoil(REPLY, the_last_octet_set)),
    "2.4-length": Deviation(PREVIOUS, ask, spoil(DATA, in_manifest(2, lambda octet: 0))),
    "2.4-reserved": Deviation(PREVIOUS, ask, spoil(DATA, in_manifest(3, lambda octet: octet | 1))),
    "2.3-reserved-type": Deviation(PREVIOUS, ask, contexts(lambda whole: (*whole, EncodedContext(0, b"data")))),
    "2.4-padding": Deviation(PREVIOUS, ask, first(lambda c: replace(c, data=c.data + b"\xa5")), contexts=MOVED),
    "2.4-presence": Deviation(
        PREVIOUS, ask, first(lambda c: replace(c, presence_vector=(c.presence_vector or 0) ^ 1 << 25)), contexts=MOVED
    ),
    "2.5.1-other-router": Deviation(
        MOBILE, one_ctar, lambda w, o, p: edit(CTAR, lambda m: replace(m, access_router_address=p.address))(w, o, p)
    ),
    "2.5.1-null-token": Deviation(MOBILE, one_ctar, fields(CTAR, authorization_token=bytes(4))),
    "2.5.3-algorithm": Deviation(PREVIOUS, ask, fields(PCTD, algorithm=2)),
    "2.5.3-key": Deviation(PREVIOUS, ask, fields(PCTD, key=b"")),
    "2.5.2-failures": Deviation(
        PREVIOUS, probes.activated, edit(CTAA, lambda m: statuses(m, lambda s: replace(s, status=0)))
    ),
    "2.5.4-failure": Deviation(
        NEW, probes.unusable, edit(REPLY, lambda m: statuses(m, lambda s: replace(s, status=0)))
    ),
    "2.5.4-success": Deviation(NEW, take, edit(REPLY, lambda m: statuses(m, lambda s: replace(s, status=6)))),
    "4-status": Deviation(
        PREVIOUS, probes.activated, edit(CTAA, lambda m: statuses(m, lambda s: replace(s, status=0x80)))
    ),
    # transport
    "3.1-messages": Deviation(PREVIOUS, probes.activated, to_router, two_ways=True),
    "3.2-messages": Deviation(PREVIOUS, probes.activated, to_mobile_node, two_ways=True),
    # flows
    "2-started": Deviation(MOBILE, one_ctar, edit(CTAR, lambda m: CTAA(mn_previous_address=m.mn_previous_address))),
    "2.1-scenarios": Deviation(PREVIOUS, probes.asked, to_stranger),
    "2.5.1-requested-types": Deviation(
        PREVIOUS, probes.listed, place="cxtp.node.may_leave", substitute=lambda record, event: True
    ),
    "2.5.3-resent": Deviation(PREVIOUS, probes.activated, others_again, note_request),
    "2.5.4-ends": Deviation(PREVIOUS, probes.asked, into=drop(REPLY)),
    "2.5.6-verbatim": Deviation(
        NEW, probes.reactive, edit(REQUEST, lambda m: replace(m, sequence_number=m.sequence_number ^ 1))
    ),
    "2.5.6-null-answer": Deviation(
        PREVIOUS,
        ask,
        edit(PCTD, lambda m: DATA(**{k: v for k, v in vars(m).items() if k not in ("key", "algorithm")})),
    ),
    "2.5.6-answered": Deviation(PREVIOUS, ask, drop(DATA), timers=SHORT),
    "2.5.4-reply": Deviation(NEW, take, drop(REPLY), timers=SHORT),
    "2.5.4-unasked": Deviation(NEW, probes.unasked_reply, into=acknowledged(DATA)),
    "2.5.2-answer": Deviation(PREVIOUS, probes.activated, drop(CTAA), timers=SHORT),
    "2.5.2-unasked": Deviation(PREVIOUS, probes.activated, into=acknowledged(CTAR)),
    "3.2-duplicate": Deviation(NEW, probes.reactive, remember_request, asks_again),
    "2.5.5-cancel": Deviation(PREVIOUS, probes.cancelled, keep_last_data, data_after_cancel),
    "2.3-unknown-type": Deviation(NEW, take, edit(REPLY, lambda m: statuses(m, lambda s: None))),
    "2.5-malformed": Deviation(NEW, probes.malformed, into=version_1),
    "5.1-predictive": Deviation(NEW, probes.predictive, into=asks_although_it_has),
    "6.1-flood": Deviation(NEW, probes.flood, into=silent_after_flood),
    # timers
    "3.1-backoff": Deviation(
        PREVIOUS, probes.silence, place="cxtp.roles.schedule.Backoff.step", substitute=one_wait
    ),
    "3.2-backoff": Deviation(MOBILE, four_ctars, place="cxtp.roles.schedule.Backoff.step", substitute=one_wait),
    "4-request-retry": Deviation(MOBILE, four_ctars, own_timers=replace(MOBILE_TIMERS, request_retry=0.1)),
    "4-retry-max": Deviation(MOBILE, four_ctars, timers=replace(MOBILE_TIMERS, retry_max=0.4)),
    "3.2-answered": Deviation(MOBILE, answered_at_once, into=drop(CTAA)),
    "2.5.3-elapsed": Deviation(PREVIOUS, probes.silence, fields(DATA, elapsed_time=0)),
    "4-transfer-time": Deviation(PREVIOUS, long_silence, timers=replace(QUICK.timers, max_transfer_time=0.1)),
    "6.3-request-rate": Deviation(
        NEW,
        probes.flood,
        place="cxtp.roles.memory.RequestRate.admit",
        substitute=lambda *arguments, **named: True,
    ),
    # tokens and trust
    "2.5.1-token": Deviation(
        MOBILE,
        one_ctar,
        edit(CTAR, lambda m: replace(m, authorization_token=bytes(o ^ 1 for o in m.authorization_token))),
    ),
    "6.3-validated": Deviation(
        PREVIOUS,
        forged,
        place="cxtp.roles.previous_router.verify_token",
        substitute=lambda *arguments, **named: None,
    ),
    "6.3-activated": Deviation(NEW, probes.predictive, first_refusal_unsaid),
    "6.3-key-reuse": Deviation(NEW, twice_predictive, same_key, learn_key),
    "2.5.6-empty-refusal": Deviation(
        PREVIOUS, forged, edit(DATA, lambda m: m if m.blocks else replace(m, acknowledge=True))
    ),
    "6.1-strangers": Deviation(PREVIOUS, probes.stranger, to_stranger, takes_strangers),
    "6.3-separate-key": Deviation(PREVIOUS, ask, key=IKE_KEY, contexts=MOVED),
    # our formats, content and safety
    "formats-version": Deviation(PREVIOUS, ask, first(octets_at(0, b"\2")), contexts=MOVED),
    "formats-parameters": Deviation(PREVIOUS, ask, first(octets_at(2, b"\0\x63")), contexts=MOVED),
    "formats-canonical": Deviation(PREVIOUS, ask, first(octets_at(1, b"\1"))),
    "formats-manifest": Deviation(
        PREVIOUS, ask, edit(DATA, lambda m: replace(m, blocks=(*m.blocks[1:], *m.blocks[:1])))
    ),
    "formats-manifest-parts": Deviation(PREVIOUS, probes.silence, another_story),
    "formats-manifest-digest": Deviation(PREVIOUS, ask, spoil(DATA, in_manifest(28, lambda octet: octet ^ 1))),
    "formats-receipt": Deviation(
        NEW, take, edit(REPLY, lambda m: replace(m, statuses=tuple(s for s in m.statuses if s.status < 3)[:1]))
    ),
    "formats-own-types": Deviation(PREVIOUS, ask, first(lambda c: replace(c, presence_vector=None)), contexts=MOVED),
    "content-mandatory": Deviation(PREVIOUS, ask, first(lambda c: without_parameter(c, 8)), contexts=MOVED),
    "content-keys": Deviation(PREVIOUS, ask, contexts(lambda whole: (encode(SHORT_KEY), MOVED[1]))),
    "safety-one-owner": Deviation(NEW, take, keep_last_data, data_to_another),
    "safety-one-taker": Deviation(
        NEW, probes.stale, edit(REPLY, lambda m: replace(statuses(m, lambda s: UNKNOWN_TYPE), success=True))
    ),
    "safety-generation": Deviation(NEW, kept_a_while, contexts(lambda whole: whole, generation=0)),
}
