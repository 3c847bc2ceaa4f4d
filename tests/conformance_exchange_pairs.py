"""The same for rules of exchanges, of the routers' trust, of what transport is chosen and of SCTP associations."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from conformance_pairs import FULL, GOOD_STATUS, MOVE, NULL, Pair
from conformance_traces import (
    ABORT,
    DATA_CHUNK,
    ENCODED,
    FORWARD_TSN,
    FORWARD_TSN_SUPPORTED,
    ICMP,
    MAC_B,
    MN2,
    MOVED,
    NOBODYS,
    SCTP,
    SCTP_CARRIAGE,
    UDP,
    A,
    B,
    C,
    Carriage,
    M,
    Trace,
    at,
    blocks,
    both,
    carriage,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    esp,
    icmp_carriage,
    ike_sa_init,
    init,
    message,
    packet,
    pctd,
    plus,
    router_esp,
    say,
    sctp,
    to,
    without,
)
from context_examples import IKE_SA
from helpers import EMPTY_CTD, KEY

from contexts.base import encode
from contexts.values import PresharedKey
from cxtp.messages import ContextRequest, ContextStatus

LATER = Trace(
    (
        say(0, A, B, ctd(acknowledge=False)),
        say(90, A, B, ctd(NOBODYS, mn=MN2)),
        say(90.01, B, A, ctdr(ContextStatus(0x7001, 2), mn=MN2)),
    )
)
# MN -> pAR: CTAR; pAR -> nAR: PCTD (lost); MN -> nAR: CTAR; nAR -> pAR: CT-Req, same number; pAR -> nAR: PCTD; CTDR
LOST = Trace(
    (
        say(0, M, A, ctar(B)),
        say(0.01, A, B, pctd()),
        say(1, M, B, ctar(A)),
        say(1.01, B, A, ct_req()),
        say(1.02, A, B, pctd(elapsed_time=1010)),
        say(1.03, B, A, ctdr()),
        say(1.04, B, M, ctaa()),
        say(1.05, A, M, ctaa()),
    ),
    keys=(KEY,),
)
UDP_REPLIED = Trace(
    (say(0, B, A, ct_req(null=True), UDP), say(0.01, A, B, pctd(), UDP), say(0.02, B, A, ctdr(), UDP)),
)
FLOODING = tuple(say(n / 100, M, B, ctar(A, 0x1000 + n * n, ip_address(f"192.0.2.{100 + n}"))) for n in range(30))
FLOODED = Trace((*FLOODING, say(1, A, B, ctd(NOBODYS)), say(1.1, B, A, ctdr(ContextStatus(0x7001, 2)))))
STRANGER = Trace((say(0, C, A, ct_req(null=True)), say(0.1, A, C, EMPTY_CTD)), routers=frozenset((A, B)))
ASKED = Trace((say(0, B, A, ct_req()), say(0.1, A, B, ctd(acknowledge=False))))
# pAR -> nAR: PCTD; nAR -> pAR: CTDR; MN -> nAR: CTAR; nAR -> MN: CTAA
PREDICTIVE = Trace(
    (say(0, A, B, pctd()), say(0.1, B, A, ctdr(GOOD_STATUS)), say(1, M, B, ctar(A)), say(1.1, B, M, ctaa()))
)
PROTECTED = Trace((ike_sa_init(0), router_esp(1), *(replace(s, time=s.time + 2) for s in NULL.steps)))  # type: ignore[type-var]
BOTH = (sctp(0, A, B, init(1, FORWARD_TSN_SUPPORTED)), sctp(0.01, B, A, init(2, FORWARD_TSN_SUPPORTED)))
# An SCTP header, a DATA chunk of CXTP's, ESP's trailer and an ICV (RFC 2410: NULL encryption leaves it as it is).
IN_CLEAR = bytes.fromhex("13e313e30000000100000000") + DATA_CHUNK + bytes.fromhex("01020284") + bytes(12)
PARTIAL = Trace((*BOTH, sctp(0.1, A, B, DATA_CHUNK), sctp(1.1, A, B, FORWARD_TSN)))
CHECKED = Trace((say(0, A, B, ctd()), say(0.1, B, A, ctdr(ContextStatus(0, 1), success=False))))
ITS_OWN_KEY = replace(IKE_SA, credentials=PresharedKey(KEY))
LISTED = Trace(
    (
        say(0, B, A, ct_req(null=True, requested=(ContextRequest(0x7001),))),
        say(0.01, A, B, pctd(NOBODYS)),
        say(0.02, B, A, ctdr(ContextStatus(0x7001, 2))),
    )
)
ADDRESSES = bytes.fromhex("000500080a000001") + bytes.fromhex("000500080a000002")

EXCHANGE_PAIRS: dict[str, Pair] = {
    "2-started": Pair(LATER, without(1)),
    "2.1-scenarios": Pair(ASKED, to(1, destination=C)),
    "2.5.1-requested-types": Pair(LISTED, message(1, blocks=blocks(NOBODYS, MOVED[0]))),
    "2.5.3-resent": Pair(LOST, message(4, blocks=pctd(*ENCODED[:2], transfer=2).blocks)),
    "2.5.4-ends": Pair(NULL, plus(say(0.15, A, B, pctd(elapsed_time=140)), say(0.16, B, A, ctdr()))),
    "5.1-predictive": Pair(PREDICTIVE, plus(say(1.05, B, A, ct_req()))),
    "6.1-flood": Pair(FLOODED, without(31), also=("2.5.4-reply",)),
    "6.1-strangers": Pair(STRANGER, at(1, lambda s: replace(s, what=pctd(acknowledge=False)))),
    "6.2-in-advance": Pair(PROTECTED, packet(0, ike_sa_init(2.005))),
    "6.2-encrypted": Pair(PROTECTED, packet(1, router_esp(1, IN_CLEAR))),
    "6.3-separate-key": Pair(FULL, message(2, blocks=blocks(encode(ITS_OWN_KEY), *ENCODED[1:]))),
    "3.1-sctp": Pair(NULL, to(0, transport=UDP)),
    "3.2-icmp": Pair(FULL, both(to(0, transport=UDP, carriage=Carriage(64)), to(4, transport=UDP))),
    "3.1-other-transport": Pair(UDP_REPLIED, to(2, transport=SCTP, carriage=SCTP_CARRIAGE), base=("3.1-sctp",)),
    "3.2-other-transport": Pair(
        both(to(0, transport=UDP, carriage=Carriage(64)), to(4, transport=UDP, carriage=Carriage(64)))(FULL),
        to(4, transport=ICMP, carriage=icmp_carriage(4)),
        base=("3.2-icmp",),
    ),
    "3.1-supports-sctp": Pair(Trace(BOTH), packet(1, sctp(0.01, B, A, ABORT))),
    "3.1-one-address": Pair(Trace(BOTH), packet(1, sctp(0.01, B, A, init(2, ADDRESSES)))),
    "3.1-partial-reliability": Pair(PARTIAL, packet(3, sctp(1.1, A, B, DATA_CHUNK))),
    "3.1-bad-checksum": Pair(carriage(0, checksum_good=False)(CHECKED), at(1, lambda s: replace(s, what=ctdr()))),
    "3.1-waits": Pair(MOVE, packet(2, esp(0.2, 3, MAC_B))),
}
