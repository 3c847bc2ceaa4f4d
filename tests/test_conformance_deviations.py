"""Each deviation of the node is found by the rule that it breaks, and by no other."""

from __future__ import annotations

import asyncio

import pytest
from deviations import DEVIATIONS, MOBILE
from live_nodes import MOBILE_TIMERS, QUICK, SHOWN, Wire, failed, probe_mobile_node, probe_router, told

from cxtp.conformance import live, probes
from cxtp.conformance.rules import ALL_RULES


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken node never says is not waited for long."""
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(probes, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.1)


@pytest.mark.parametrize("rule_id", DEVIATIONS)
def test_a_node_with_one_deviation_fails_that_rule_alone(rule_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deviation = DEVIATIONS[rule_id]
    if deviation.place:
        monkeypatch.setattr(deviation.place, deviation.substitute)
    wire = Wire(deviation.out, deviation.into)
    if deviation.role == MOBILE:
        timers = deviation.timers or MOBILE_TIMERS
        run = probe_mobile_node([deviation.probe], wire=wire, timers=timers, own_timers=deviation.own_timers)
    else:
        run = probe_router(
            deviation.role,
            probes=[deviation.probe],
            wire=wire,
            timers=deviation.timers or QUICK.timers,
            key=deviation.key,
            contexts=deviation.contexts or None,
            two_ways=deviation.two_ways,
        )
    report = asyncio.run(run)
    assert failed(report) == {rule_id}, told(report)


def test_no_rule_that_is_put_to_the_test_live_is_without_a_deviation() -> None:
    """What the runs must show has one; test_conformance_live.check asks the same of all that they do show."""
    assert set().union(*SHOWN.values()) <= DEVIATIONS.keys()
    assert DEVIATIONS.keys() <= {rule.id for rule in ALL_RULES}
