"""For every rule of the judge: a trace that keeps it, and one that differs in one point and breaks it alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conformance_exchange_pairs import EXCHANGE_PAIRS
from conformance_pairs import ACTIVATIONS, CASES, IN_CASE_2, IN_CASE_3, MOVED, OTHERWISE, REACTIVE
from conformance_pairs import PAIRS as MESSAGE_PAIRS
from conformance_table import DOCUMENT, read_table
from conformance_traces import (
    COUNTED,
    CTC,
    MAC_A,
    UDP,
    A,
    B,
    C,
    M,
    Trace,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    given,
    ike,
    ip_packet,
    judge,
    pctd,
    plus,
    say,
    without,
)
from helpers import KEY

from contexts.base import encode
from contexts.keys import derive_ipsec_keys
from contexts.values import KeymatDerivation, Nonces
from cxtp.conformance import packets
from cxtp.conformance.rules import ALL_RULES
from cxtp.conformance.verdicts import Verdict

PAIRS = {**MESSAGE_PAIRS, **EXCHANGE_PAIRS}
IDS = [rule.id for rule in ALL_RULES]


def failed(trace: Trace) -> set[str]:
    return {result.rule.id for result in judge(trace).failed()}


def test_every_rule_has_a_trace_that_keeps_it_and_one_that_breaks_it() -> None:
    assert len(IDS) == len(set(IDS))
    assert sorted(PAIRS) == sorted(IDS)
    assert not MESSAGE_PAIRS.keys() & EXCHANGE_PAIRS.keys()


@pytest.mark.parametrize("rule_id", PAIRS)
def test_a_trace_that_keeps_the_rule(rule_id: str) -> None:
    pair = PAIRS[rule_id]
    report = judge(pair.good)
    assert {r.rule.id for r in report.failed()} == set(pair.base)
    assert report.of(rule_id).verdict is Verdict.PASS


@pytest.mark.parametrize("rule_id", PAIRS)
def test_a_change_in_one_point_breaks_it_alone(rule_id: str) -> None:
    pair = PAIRS[rule_id]
    report = judge(pair.change(pair.good))
    faults = report.of(rule_id).faults
    seen = {r.rule.id: r.faults[0] for r in report.failed()}
    assert set(seen) == {rule_id, *pair.base, *pair.also}, seen
    assert all(fault.expected and fault.seen for fault in faults)


def test_one_key_case_alone_proves_nothing() -> None:
    """Not even when the same contexts travel twice."""
    for trace in (without(2, 3)(CASES), Trace((CASES.steps[0], say(0.1, A, B, ctd(encode(IN_CASE_2), MOVED[1]))))):
        assert judge(trace).of("content-key-cases").verdict is Verdict.NOT_EXERCISED


def test_key_cases_of_an_ipsec_sa() -> None:
    """KEYMAT derived from its IKE_SA's SK_d, and KEYMAT itself."""
    nonces = Nonces(bytes(16), b"\1" * 16)
    derived = replace(COUNTED, keying=KeymatDerivation(IN_CASE_3.spis, True, nonces))
    keys = derive_ipsec_keys(derived.keying, COUNTED.proposal, IN_CASE_3.keying.keys.sk_d, IN_CASE_3.proposal.prf)
    trace = Trace((say(0, A, B, ctd(encode(IN_CASE_3), encode(derived))),))
    for other, verdict in ((keys, Verdict.PASS), (COUNTED.keying, Verdict.FAIL)):
        report = judge(given(contexts=(replace(COUNTED, keying=other),))(trace))
        assert report.of("content-key-cases").verdict is verdict


def test_contexts_in_case_2_are_tried_on_the_traffic() -> None:
    """A SKEYSEED opens what was sealed with the keys that follow from it, another one does not."""
    for context, verdict in ((IN_CASE_2, Verdict.PASS), (OTHERWISE, Verdict.FAIL)):
        report = judge(Trace((ike(0, IN_CASE_3), say(1, A, B, ctd(encode(context), MOVED[1])))))
        assert report.of("content-opens-ike").verdict is verdict


def test_sequence_numbers_are_remembered_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all SAs together: those of the SA silent the longest go first, and what is remembered is still told."""
    monkeypatch.setattr(packets, "MAXIMUM_NUMBERS", 40)
    facts = packets.PacketFacts([])

    def take(index: int, spi: int, number: int) -> None:
        octets = spi.to_bytes(4, "big") + number.to_bytes(4, "big") + index.to_bytes(4, "big")
        facts.take(replace(ip_packet(1.0, A, B, 50, octets, MAC_A), index=index))

    for index in range(1, 601):
        take(index, 1 + index % 20, index)
        assert sum(len(direction.used) for direction in facts.directions.values()) <= 40
    take(601, 1 + 600 % 20, 600)
    take(602, 77, 1)
    assert [(d.reused, spi) for (_, spi), d in facts.directions.items() if d.reused] == [([(600, 601, 600)], 1)]


def test_one_wait_that_a_busy_machine_may_have_drawn_out_is_a_doubt() -> None:
    """Second and third message close together: the second was late.  With waits of seconds nothing excuses it."""
    late = Trace(tuple(say(time, B, A, ct_req(), UDP) for time in (0, 0.1, 0.13, 0.28)))
    assert judge(late).of("3.1-backoff").verdict is Verdict.PASS
    assert judge(without(3)(late)).of("3.1-backoff").verdict is Verdict.INCONCLUSIVE
    slow = Trace(tuple(say(time, B, A, ct_req(), UDP) for time in (0, 2, 4)))
    assert judge(slow).of("3.1-backoff").verdict is Verdict.FAIL


ONCE = Trace((say(0, A, B, pctd()), say(0.01, B, A, ctdr())), keys=(KEY,))


@pytest.mark.parametrize(
    ("rule_id", "trace"),
    [
        ("2.5-one-transfer", ONCE),  # no second transfer
        ("2.5-one-transfer", plus(say(0.005, A, B, pctd(elapsed_time=5)))(ONCE)),  # nor is a repetition one
        ("6.3-key-reuse", ONCE),  # no key before
        ("safety-one-taker", ONCE),  # no other router that was given the session
        ("2.5.4-unasked", ONCE),  # asked for
        ("2.5.2-unasked", REACTIVE),  # asked for
        ("3.2-answered", ACTIVATIONS),  # repeated, but never answered
        ("2.5.5-sender", Trace((say(0, A, B, ctd()), say(1, C, A, CTC)))),  # another router's
    ],
)
def test_what_was_not_put_to_the_test_does_not_pass(rule_id: str, trace: Trace) -> None:
    if rule_id == "3.2-answered":
        trace = replace(trace, steps=tuple(s for s in trace.steps if s.destination != M))
        assert len(trace.steps) > 2
    assert judge(trace).of(rule_id).verdict is Verdict.NOT_EXERCISED


def test_the_receipt_says_which_data_a_reply_answers() -> None:
    """Data with A before it excuses no answer to data without."""
    asked = (say(0, A, B, ctd()), say(0.01, B, A, ctdr()))
    later = say(30, A, B, ctd(acknowledge=False, generation=8, transfer=2))
    for answer, verdict in (((), Verdict.PASS), ((say(30.01, B, A, ctdr(transfer=2)),), Verdict.FAIL)):
        assert judge(Trace((*asked, later, *answer))).of("2.5.4-unasked").verdict is verdict
    ended = replace(Trace((*asked, later)), end=130.1)
    assert judge(ended).of("2.5.4-unasked").verdict is Verdict.INCONCLUSIVE


def test_an_answered_request_is_watched_until_one_more_would_be_due() -> None:
    """After 2 s the first time (RFC 4067, 4): a capture that ends before shows nothing."""
    trace = Trace((say(0, M, A, ctar(B)), say(0.5, A, M, ctaa())))
    for end, verdict in ((101.9, Verdict.INCONCLUSIVE), (102.1, Verdict.PASS)):
        assert judge(replace(trace, end=end)).of("3.2-answered").verdict is verdict


def test_rules_name_rows_of_the_table_of_conformance() -> None:
    rows = {row.id for row in read_table(DOCUMENT)}
    named = {row for rule in ALL_RULES for row in rule.rows}
    assert named <= rows, named - rows
    text = (DOCUMENT.parent / "conformance.md").read_text()
    unjudged = set(re.findall(r"[\w.]+-[a-z]", text.partition("that no rule judges\n")[2]))
    assert rows - named == unjudged & rows
