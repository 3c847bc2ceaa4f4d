"""The engine: tables, timers, memories and the request rate."""

from __future__ import annotations

import random
from enum import Enum
from ipaddress import ip_address
from typing import Any

import pytest
from helpers import MN, PREVIOUS, ROUTERS, Fixed, ctar, drops

from cxtp.config import Limits, ProtocolConfig
from cxtp.errors import LocalError
from cxtp.roles import DropReason, PreviousRouter, incoming_transfer, mobile_node, outgoing_transfer
from cxtp.roles.machine import IllegalTransition, advance
from cxtp.roles.memory import Memory, RequestRate
from cxtp.roles.schedule import Backoff, Schedule

TABLES = [outgoing_transfer, incoming_transfer, mobile_node]


@pytest.mark.parametrize("module", TABLES)
def test_each_table_is_a_whole_machine(module: Any) -> None:
    table: dict[Enum, dict[Enum, Enum]] = module.TRANSITIONS
    assert set(table) == set(module.State)
    reachable, frontier = {module.State.IDLE}, [module.State.IDLE]
    while frontier:
        for target in table[frontier.pop()].values():
            if target not in reachable:
                reachable.add(target)
                frontier.append(target)
    assert reachable == set(module.State), "a state that is never reached"
    assert {trigger for steps in table.values() for trigger in steps} == set(module.Trigger), "an unused trigger"
    for state in table:
        assert _leads_home(table, state, module.State.IDLE), f"{state} never ends"


def _leads_home(table: dict[Enum, dict[Enum, Enum]], state: Enum, home: Enum) -> bool:
    seen, frontier = {state}, [state]
    while frontier:
        for target in table[frontier.pop()].values():
            if target is home:
                return True
            if target not in seen:
                seen.add(target)
                frontier.append(target)
    return False


def test_a_step_that_the_table_has() -> None:
    state, trigger = outgoing_transfer.State, outgoing_transfer.Trigger
    assert advance(outgoing_transfer.TRANSITIONS, state.IDLE, trigger.SEND) is state.SENDING


def test_a_step_that_the_table_does_not_have_is_the_callers_fault() -> None:
    state, trigger = outgoing_transfer.State, outgoing_transfer.Trigger
    with pytest.raises(IllegalTransition, match="a reply of success is no step from the state idle") as caught:
        advance(outgoing_transfer.TRANSITIONS, state.IDLE, trigger.CONFIRM)
    assert isinstance(caught.value, LocalError)


# --- schedule


def test_timers_come_in_their_order_and_once() -> None:
    schedule: Schedule[object] = Schedule()
    assert schedule.next() is None
    schedule.set("late", 3.0)
    schedule.set("early", 1.0)
    schedule.set("gone", 0.5)
    schedule.clear("gone")
    schedule.clear("never there")
    assert schedule.next() == 1.0
    assert schedule.take_due(0.999) == []
    assert schedule.take_due(1.0) == ["early"]
    assert schedule.take_due(1.0) == []
    assert schedule.take_due(9.0) == ["late"]
    assert schedule.next() is None


def test_a_timer_that_is_moved_fires_at_its_new_time_alone() -> None:
    schedule: Schedule[object] = Schedule()
    schedule.set(MN, 1.0)
    schedule.set(MN, 2.0)
    assert schedule.take_due(1.5) == []
    schedule.set(MN, 1.7)
    assert schedule.next() == 1.7
    assert schedule.take_due(5.0) == [MN]


def test_keys_without_an_order_may_be_due_together() -> None:
    schedule: Schedule[object] = Schedule()
    four, six = ip_address("192.0.2.1"), ip_address("2001:db8::1")
    schedule.set(four, 1.0)
    schedule.set(six, 1.0)
    assert schedule.take_due(1.0) == [four, six]


def test_moving_a_timer_for_ever_fills_no_memory() -> None:
    schedule: Schedule[int] = Schedule()
    for step in range(10_000):
        schedule.set(step % 3, float(step))
    assert len(schedule._heap) < 100
    assert sorted(schedule.take_due(1e9)) == [0, 1, 2]


def test_each_wait_is_twice_the_one_before() -> None:
    backoff = Backoff.start(2.0, 10.0)
    times = [backoff.at]
    for _ in range(3):
        backoff.step(backoff.at)
        times.append(backoff.at)
    assert times == [12.0, 16.0, 24.0, 40.0]


# --- memory


def test_what_is_remembered_and_for_how_long() -> None:
    memory: Memory[str, int] = Memory(10, lifetime=5.0)
    assert not memory.put("a", 1, 100.0)
    assert memory.knows("a", 104.999)
    assert memory.recall("a", 104.999) == 1
    assert not memory.knows("a", 105.0)
    assert memory.recall("a", 105.0) is None
    assert memory.size(105.0) == 0


def test_to_remember_anew_is_to_remember_longer() -> None:
    memory: Memory[str, int] = Memory(10, lifetime=5.0)
    memory.put("a", 1, 100.0)
    memory.put("b", 1, 101.0)
    memory.put("a", 2, 104.0)
    assert memory.recall("a", 108.0) == 2
    assert not memory.knows("b", 108.0)


def test_the_oldest_makes_room_and_is_told() -> None:
    memory: Memory[str, int] = Memory(2, lifetime=5.0)
    assert not memory.put("a", 1, 100.0)
    assert not memory.put("b", 1, 100.0)
    assert memory.put("c", 1, 100.0)
    assert [memory.knows(key, 100.0) for key in "abc"] == [False, True, True]
    assert not memory.put("d", 1, 105.0), "those whose time was over anyway are no loss"
    memory.forget("d")
    memory.forget("never there")
    assert memory.size(105.0) == 0


# --- CT_REQUEST_RATE


def test_requests_within_the_rate_all_pass() -> None:
    rate = RequestRate(10.0)
    chance = Fixed(fraction=0.999999)
    assert all(rate.admit(100 + step / 9, chance) for step in range(1000))  # nine a second


def test_ten_at_once_pass_and_the_eleventh_does_not() -> None:
    rate = RequestRate(10.0)
    assert [rate.admit(100.0, Fixed()) for _ in range(11)] == [True] * 10 + [False]
    assert not rate.admit(100.099, Fixed())
    assert rate.admit(100.101, Fixed())


def test_the_excess_is_dropped_and_never_more_than_the_rate_passes() -> None:
    rate = RequestRate(10.0)
    chance = random.Random(4067)
    passed = [step for step in range(10_000) if rate.admit(100 + step * 0.001, chance)]  # 1,000 a second, 10 s
    assert len(passed) <= 10 * 10 + 10
    assert len(passed) > 10 * 10 * 0.75  # the limit is used, not only kept


def test_the_excess_is_dropped_at_random() -> None:
    """One honest request in the middle of each second's flood gets through about as often as any other."""
    chance = random.Random(4067)
    honest = 0
    rate = RequestRate(10.0)
    for second in range(1000):
        for step in range(40):
            admitted = rate.admit(100 + second + step / 40, chance)
            honest += admitted and step == 20
    # 40 arrive where 10 may pass: a quarter, and four standard deviations (13.7) around 250
    assert 195 < honest < 305


def test_a_flood_of_ctars_is_counted_by_the_role() -> None:
    config = ProtocolConfig(limits=Limits(request_rate=10.0))
    role = PreviousRouter(ROUTERS, random.Random(1), config)
    for number in range(200):
        role.receive(ctar(number, PREVIOUS), PREVIOUS, 100.0)
    assert role.counters[DropReason.RATE_LIMITED] >= 190
    assert drops_of(role, DropReason.RATE_LIMITED) == role.counters[DropReason.RATE_LIMITED]


def drops_of(role: PreviousRouter, reason: DropReason) -> int:
    role.next_event()  # the request that was taken
    return drops(role).count(reason)
