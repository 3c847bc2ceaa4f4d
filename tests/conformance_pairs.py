"""For each rule of the judge: a trace that keeps it, and the change in one point that breaks it alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address

from conformance_traces import (
    COUNTED,
    CTC,
    ENCODED,
    MAC_A,
    MAC_B,
    MN2,
    MOVED,
    NOBODYS,
    NUMBER,
    REFUSED,
    UDP,
    UNKNOWN,
    A,
    B,
    C,
    Change,
    M,
    Said,
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
    cut_at,
    esp,
    given,
    icmp,
    ike,
    message,
    octets,
    pctd,
    plus,
    say,
    to,
    without,
)
from context_examples import IKE_SA, NI, NR
from helpers import EMPTY_CTD, KEY, token
from mutators import (
    a_reserved_bit,
    no_type,
    one_octet_less_and_told,
    one_octet_more_and_told,
    one_too_long,
    the_last_octet_set,
    version_2,
)
from node_helpers import without_parameter

from contexts.base import encode
from contexts.keys import to_key_case
from contexts.values import DerivedKeys, Nonces, Skeyseed
from cxtp.manifest import plan_parts
from cxtp.messages import ContextRequest, ContextStatus, EncodedContext
from cxtp.wire import build

LIST = (ContextRequest(0xFF01), ContextRequest(0xFF02), ContextRequest(1))
SIGNED = {"requested": LIST, "authorization_token": token(KEY, NUMBER, bytes.fromhex("ff010000ff02000000010000"))}
GOOD_STATUS = ContextStatus(0xFF01, 0)

# MN -> pAR, nAR: CTAR; pAR -> nAR: PCTD; nAR -> pAR: CTDR; both -> MN: CTAA
FULL = Trace(
    (
        say(0, M, A, ctar(B)),
        say(0.001, M, B, ctar(A)),
        say(0.01, A, B, pctd()),
        say(0.02, B, A, ctdr(GOOD_STATUS)),
        say(0.03, A, M, ctaa()),
        say(0.031, B, M, ctaa(REFUSED)),
    ),
    keys=(KEY,),
)
# MN -> nAR: CTAR; nAR -> pAR: CT-Req; pAR -> nAR: CTD; nAR -> pAR: CTDR; nAR -> MN: CTAA
REACTIVE = Trace(
    (
        say(0, M, B, ctar(A, **SIGNED)),
        say(0.01, B, A, ct_req(**SIGNED)),
        say(0.02, A, B, ctd()),
        say(0.03, B, A, ctdr(GOOD_STATUS)),
        say(0.04, B, M, ctaa()),
    ),
    keys=(KEY,),
)
NULL = Trace((say(0, B, A, ct_req(null=True)), say(0.01, A, B, pctd()), say(0.02, B, A, ctdr())))
DATA = Trace((say(0, A, B, ctd(acknowledge=False)),))
FAILED = Trace((say(0, A, B, ctd(NOBODYS)), say(0.01, B, A, ctdr(REFUSED, success=False))))
CANCELLED = Trace((say(0, B, A, ct_req(null=True)), say(0.01, B, A, CTC)))
REFUSED_REQUEST = Trace((say(0, B, A, ct_req(null=True)), say(0.01, A, B, EMPTY_CTD)))
WRONG = {"authorization_token": b"\1\2\3\4"}
FORGED = Trace((say(0, B, A, ct_req(**WRONG)), say(0.01, A, B, EMPTY_CTD)), keys=(KEY,))
REQUESTED = Trace((say(0, B, A, ct_req()), say(0.01, A, B, EMPTY_CTD)), keys=(KEY,))
MALFORMED = Trace(
    (
        replace(say(0, B, A, ct_req()), what=version_2(build(ct_req()), None)),  # type: ignore[arg-type]
        say(1, A, B, EMPTY_CTD),
    )
)
DUPLICATE = Trace((*REACTIVE.steps[:4], say(5, M, B, ctar(A, **SIGNED)), say(5.1, B, M, ctaa())), keys=(KEY,))
BACK = Trace(
    (
        say(0, A, B, ctd()),
        say(0.01, B, A, ctdr()),
        say(30, B, A, ctd(generation=8, transfer=2)),
        say(30.01, A, B, ctdr(transfer=2)),
    )
)
LATE_TAKER = Trace(
    (
        say(0, A, B, ctd()),
        say(1, A, C, ctd()),
        say(1.1, C, A, ctdr()),
        say(1.2, B, A, ctdr(ContextStatus(0, 0x0E), success=False)),
    )
)
# Over UDP, for its repetitions are CXTP's own; that is what "3.1-sctp" says.
REPEATED = Trace(
    (
        say(0, B, A, ct_req(), UDP),
        say(0.04, B, A, ct_req(), UDP),
        say(0.12, B, A, ct_req(), UDP),
        say(0.13, A, B, ctd(), UDP),
        say(0.17, A, B, ctd(elapsed_time=40), UDP),
        say(0.25, A, B, ctd(elapsed_time=120), UDP),
        say(0.26, B, A, ctdr(), UDP),
    )
)
ASKED_AGAIN = Trace(
    (*(say(time, B, A, ct_req(), UDP) for time in (0, 0.04, 0.12, 0.28)), say(0.3, A, B, EMPTY_CTD, UDP))
)
ACTIVATIONS = Trace(
    (say(0, M, B, ctar(A)), say(2, M, B, ctar(A)), say(6, M, B, ctar(A)), say(6.1, B, M, ctaa())), keys=(KEY,)
)
PATIENT = Trace((*(say(t, M, B, ctar(A)) for t in (0, 2, 6, 14)), say(40, B, M, ctaa())), keys=(KEY,))
MNS = [ip_address(f"192.0.2.{100 + n}") for n in range(30)]
THREE = Trace(
    tuple(
        say(n * 10.0, M, B, ctar(A, number, mn)) for n, (number, mn) in enumerate(zip((9, 700, 44), MNS, strict=False))
    )
)
TWICE = Trace((say(0, M, B, ctar(A, 5)), say(20, M, B, ctar(A, 77))))
MANY = Trace(
    tuple(
        step
        for n, mn in enumerate(MNS)
        for step in (
            say(n / 100, M, B, ctar(A, 0x1000 + n * n, mn)),
            *((say(n / 100 + 0.005, B, M, ctaa(mn=mn)),) if n < 12 else ()),
        )
    )
)
LATER = Trace(
    (*FULL.steps, say(40, A, B, pctd(key=b"another", generation=8, transfer=2)), say(40.01, B, A, ctdr(transfer=2)))
)
PART_BLOCKS = plan_parts(ENCODED, transfer_id=0x0BADCAFE, generation=7, octets=700)
PARTS = Trace(tuple(say(n / 100, A, B, ctd(acknowledge=False, blocks=part)) for n, part in enumerate(PART_BLOCKS)))
LARGE = Trace((say(0, A, B, ctd(EncodedContext(UNKNOWN, b"x" * 3000), acknowledge=False)),))
MOVE = Trace(
    (
        esp(0, 1),
        esp(0.1, 2),
        esp(0.2, 3),
        say(0.5, A, B, ctd(*MOVED)),
        say(0.51, B, A, ctdr()),
        esp(1, 4, MAC_B),
        esp(1.1, 5, MAC_B),
        ike(1.2),
    )
)


def with_contexts(*contexts: EncodedContext) -> Change:
    """MOVE's CTD with others."""
    return message(3, blocks=blocks(*contexts))


def first_context(change: object) -> Change:
    """DATA's IKE_SA context changed, the digest made anew."""
    context = change(ENCODED[0])  # type: ignore[operator]
    return message(0, blocks=blocks(context, *ENCODED[1:]))


def spoiled_data(position: int, value: bytes) -> object:
    return lambda c: replace(c, data=c.data[:position] + value + c.data[position + len(value) :])


def block(index: int, **changes: object) -> Change:
    def changed(said: Said) -> Said:
        found = list(said.what.blocks)  # type: ignore[union-attr]
        found[index] = replace(found[index], **changes)  # type: ignore[arg-type]
        return replace(said, what=replace(said.what, blocks=tuple(found)))  # type: ignore[type-var]

    return at(0, changed)


@dataclass(frozen=True)
class Pair:
    """``base``: rules that the good trace breaks, being about a fault; ``also``: what the change breaks as well."""

    good: Trace
    change: Change
    base: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


# The same SA in case 2 and case 3, and case 3 from another SKEYSEED.
IN_CASE_2, OTHERWISE = (replace(IKE_SA, keying=Skeyseed(seed, Nonces(NI, NR))) for seed in (bytes(32), b"\1" * 32))
IN_CASE_3, OTHERWISE_3 = (
    replace(IKE_SA, keying=to_key_case(sa.keying, sa.proposal, sa.spis, 3)) for sa in (IN_CASE_2, OTHERWISE)
)
CASES = Trace(
    (
        say(0, A, B, ctd(encode(IN_CASE_2), MOVED[1])),
        say(0.01, B, A, ctdr()),
        say(30, B, A, ctd(encode(IN_CASE_3), MOVED[1], generation=8, transfer=2)),
        say(30.01, A, B, ctdr(transfer=2)),
    )
)
WRONG_KEY = replace(IKE_SA, keying=DerivedKeys(replace(IKE_SA.keying.keys, sk_er=bytes(36))))  # type: ignore[union-attr]
WRONG_KEYMAT = replace(COUNTED, keying=replace(COUNTED.keying, outbound_encryption=bytes(36)))
SHORT_KEY = replace(IKE_SA, keying=DerivedKeys(replace(IKE_SA.keying.keys, sk_d=b"short")))  # type: ignore[union-attr]
LOW_COUNTER = replace(COUNTED, sequence_numbers=replace(COUNTED.sequence_numbers, outbound=2))
MAPPED = ip_address("::ffff:192.0.2.77")

PAIRS: dict[str, Pair] = {
    "2.2-version": Pair(DATA, octets(0, version_2)),
    "2.5-type": Pair(DATA, octets(0, no_type)),
    "2.5-length": Pair(DATA, octets(0, one_too_long)),
    "2.5-family": Pair(DATA, message(0, mn_previous_address=MAPPED)),
    "2.5.1-layout": Pair(FULL, octets(1, lambda o, r: o[:2] + b"\0\x0f" + o[4:15]), also=("2-new-router",)),
    "2.5.2-layout": Pair(FULL, octets(5, one_octet_less_and_told)),
    "2.5.3-layout": Pair(Trace((say(0, A, B, EMPTY_CTD),)), octets(0, one_octet_less_and_told)),
    "2.5.3-predictive-layout": Pair(
        Trace((say(0, A, B, pctd(acknowledge=False)),)), octets(0, lambda o, r: o[:2] + b"\0\x11" + o[4:17])
    ),
    "2.5.4-layout": Pair(FAILED, octets(1, one_octet_less_and_told), also=("2.5.4-reply",)),
    "2.5.5-layout": Pair(CANCELLED, octets(1, one_octet_more_and_told), also=("2.5.6-answered",)),
    "2.5.6-layout": Pair(REQUESTED, octets(0, lambda o, r: o[:2] + b"\0\x0f" + o[4:15])),
    "2.5-reserved": Pair(FULL, octets(3, a_reserved_bit)),
    "2.5.4-reserved": Pair(FULL, octets(5, the_last_octet_set)),
    "2.4-length": Pair(DATA, octets(0, cut_at(14, b"\0"))),
    "2.4-reserved": Pair(DATA, block(0, reserved=1)),
    "2.4-request": Pair(REACTIVE, octets(0, cut_at(22, b"\2"))),
    "2.3-reserved-type": Pair(DATA, message(0, blocks=blocks(EncodedContext(0, b"data")))),
    "2.4-padding": Pair(DATA, first_context(lambda c: replace(c, data=c.data + b"\xa5"))),
    "2.4-presence": Pair(DATA, first_context(lambda c: replace(c, presence_vector=c.presence_vector ^ 1 << 25))),
    "2.5.1-other-router": Pair(ACTIVATIONS, message(0, access_router_address=B)),
    "2.5.3-algorithm": Pair(FULL, message(2, algorithm=2)),
    "2.5.3-key": Pair(FULL, message(2, key=b"")),
    "2.5.2-failures": Pair(FULL, message(5, statuses=(ContextStatus(UNKNOWN, 0),))),
    "2.5.4-failure": Pair(FAILED, message(1, statuses=(ContextStatus(UNKNOWN, 0), *ctdr().statuses))),
    "2.5.4-success": Pair(FULL, message(3, statuses=(ContextStatus(0xFF01, 6), *ctdr().statuses))),
    "4-status": Pair(FULL, message(5, statuses=(ContextStatus(UNKNOWN, 0x80),))),
    "2.5.1-null-token": Pair(FULL, message(1, authorization_token=bytes(4))),
    "3.1-port": Pair(DATA, to(0, ports=(9999, 9999))),
    "3.1-ppid": Pair(DATA, carriage(0, payload_protocol_identifier=0)),
    "3.1-unordered": Pair(DATA, carriage(0, unordered=False)),
    "3.1-one-stream": Pair(BACK, carriage(2, stream=1)),
    "3.1-no-bundling": Pair(DATA, carriage(0, chunks_in_packet=2)),
    "3.1-messages": Pair(Trace((say(0, B, A, CTC),)), at(0, lambda s: replace(s, what=ctar(C)))),
    "3.2-messages": Pair(ACTIVATIONS, at(3, lambda s: replace(s, what=CTC)), also=("2.5.2-answer",)),
    "3.2-icmp-type": Pair(FULL, icmp(0, type=150)),
    "3.2-icmp-code": Pair(FULL, icmp(0, code=1)),
    "3.2-icmp-checksum": Pair(FULL, icmp(0, checksum_good=False)),
    "3.2-icmp-subtype": Pair(FULL, icmp(0, subtype=2)),
    "3.2-icmp-reserved": Pair(FULL, icmp(0, reserved=1)),
    "3.2-hop-limit": Pair(FULL, carriage(0, hop_limit=254)),
    "3.2-one-packet": Pair(FULL, carriage(0, fragmented=True)),
    "2.5.3-protected": Pair(replace(DATA, on_the_wire=True, esp_path=True), given(esp_path=False)),
    "2.5-one-transfer": Pair(BACK, plus(say(0.005, A, C, ctd(acknowledge=False)))),
    "2.5.6-verbatim": Pair(given(keys=())(REACTIVE), message(1, requested=())),
    "2.5.6-null-answer": Pair(NULL, at(1, lambda s: replace(s, what=ctd()))),
    "2.5.6-answered": Pair(NULL, without(1, 2)),
    "2.5.4-reply": Pair(NULL, without(2)),
    "2.5.4-unasked": Pair(DATA, plus(say(0.01, B, A, ctdr()))),
    "2.5.2-answer": Pair(ACTIVATIONS, without(3)),
    "2.5.2-unasked": Pair(without(4)(message(0, acknowledge=False)(REACTIVE)), plus(REACTIVE.steps[4])),
    "2.5.1-same-sequence": Pair(
        FULL, message(1, sequence_number=NUMBER + 1, authorization_token=token(KEY, NUMBER + 1))
    ),
    "2-new-router": Pair(FULL, without(1, 5)),
    "3.2-duplicate": Pair(DUPLICATE, plus(say(5.05, B, A, ct_req(**SIGNED)))),
    "2.5.5-cancel": Pair(CANCELLED, plus(say(0.3, A, B, pctd(acknowledge=False)))),
    "2.5.5-sender": Pair(CANCELLED, to(1, source=A, destination=B), also=("2.5.6-answered",)),
    "2.3-unknown-type": Pair(
        FAILED,
        at(1, lambda s: replace(s, what=ctdr())),
    ),
    "2.5-malformed": Pair(MALFORMED, at(1, lambda s: replace(s, what=ctd(acknowledge=False))), base=("2.2-version",)),
    "3.1-backoff": Pair(ASKED_AGAIN, both(to(2, time=100.08), to(3, time=100.12)), base=("3.1-sctp",)),
    "3.2-backoff": Pair(ACTIVATIONS, to(2, time=104.0)),
    "4-request-retry": Pair(ACTIVATIONS, to(1, time=101.0)),
    "4-retry-max": Pair(PATIENT, to(3, time=118.0)),
    "3.2-answered": Pair(ACTIVATIONS, to(3, time=102.5)),
    "3.2-sequence-reuse": Pair(TWICE, plus(say(3, M, B, ctar(A, 5, MN2)))),
    "3.2-sequence-random": Pair(THREE, message(2, sequence_number=1391)),
    "2.5.3-elapsed": Pair(REPEATED, message(4, elapsed_time=400), base=("3.1-sctp",)),
    "4-transfer-time": Pair(
        to(6, time=100.7)(REPEATED),
        at(5, lambda s: replace(s, time=100.63, what=ctd(elapsed_time=500))),
        base=("3.1-sctp",),
    ),
    "6.3-request-rate": Pair(MANY, plus(*(say(0.3 + n / 100, B, M, ctaa(mn=mn)) for n, mn in enumerate(MNS[12:])))),
    "2.5.1-token": Pair(ACTIVATIONS, lambda trace: replace(trace, keys=(b"another key",))),
    "2.5.6-token": Pair(REQUESTED, message(0, **WRONG)),
    "6.3-validated": Pair(FORGED, at(1, lambda s: replace(s, what=ctd(acknowledge=False))), base=("2.5.6-token",)),
    "6.3-activated": Pair(message(1, **WRONG)(FULL), message(5, statuses=()), base=("2.5.1-token",)),
    "6.3-key-reuse": Pair(LATER, message(6, key=KEY)),
    "2.5.6-empty-refusal": Pair(REFUSED_REQUEST, message(1, acknowledge=True), also=("2.5.4-reply",)),
    "formats-continuation": Pair(LARGE, block(1, data=b"not full")),
    "formats-version": Pair(DATA, first_context(spoiled_data(0, b"\2"))),
    "formats-parameters": Pair(DATA, first_context(spoiled_data(2, b"\0\x63"))),
    "formats-canonical": Pair(DATA, first_context(spoiled_data(1, b"\1"))),
    "formats-manifest": Pair(DATA, message(0, blocks=(*blocks()[1:], blocks()[0]))),
    "formats-manifest-parts": Pair(
        PARTS,
        message(
            1,
            blocks=(
                replace(
                    PART_BLOCKS[1][0],
                    data=PART_BLOCKS[1][0].data[:16] + bytes(7) + b"\x09" + PART_BLOCKS[1][0].data[24:],
                ),
                *PART_BLOCKS[1][1:],
            ),
        ),
    ),
    "formats-manifest-digest": Pair(DATA, message(0, blocks=(*blocks()[:-1],))),
    "formats-receipt": Pair(NULL, at(2, lambda s: replace(s, what=ctdr(transfer=99)))),
    "formats-own-types": Pair(
        DATA,
        first_context(lambda c: replace(c, presence_vector=None)),
    ),
    "B-listener": Pair(DATA, message(0, blocks=blocks(EncodedContext(1, bytes(24))))),
    "content-mandatory": Pair(MOVE, with_contexts(without_parameter(MOVED[0], 8), MOVED[1])),
    "content-keys": Pair(MOVE, with_contexts(encode(SHORT_KEY), MOVED[1])),
    "content-key-cases": Pair(
        CASES, message(2, blocks=blocks(encode(OTHERWISE_3), MOVED[1], generation=8, transfer=2))
    ),
    "content-opens-ike": Pair(MOVE, with_contexts(encode(WRONG_KEY), MOVED[1])),
    "content-opens-esp": Pair(MOVE, with_contexts(MOVED[0], encode(WRONG_KEYMAT))),
    "safety-one-owner": Pair(BACK, lambda t: to(3, source=C, destination=A)(to(2, source=A, destination=C)(t))),
    "safety-one-taker": Pair(LATE_TAKER, at(3, lambda s: replace(s, what=ctdr()))),
    "safety-generation": Pair(BACK, message(2, blocks=blocks(generation=7, transfer=2)), also=("safety-one-taker",)),
    "safety-sequence-numbers": Pair(MOVE, plus(esp(1.15, 5, MAC_B, filler=1))),
    "safety-counter": Pair(MOVE, with_contexts(MOVED[0], encode(LOW_COUNTER))),
    "safety-one-sender": Pair(MOVE, plus(esp(1.15, 6, MAC_A))),
}
