"""The receive window (RFC 4303, 3.4.3 and Appendix A) and the sender's counter, by hand and against a plain model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.session.anti_replay import MAXIMUM_WINDOW, RESYNCHRONISATION_STEPS, ReplayWindow
from contexts.session.outbound_counter import OutboundCounter
from contexts.values import AntiReplayWindow, CounterKnowledge, SequenceNumbers
from cxtp.errors import IntegrityError, LocalError, MalformedContext, ReplayError

HIGH = 1 << 32


def accepts(window: ReplayWindow, number: int) -> bool:
    try:
        window.check(number)
    except ReplayError:
        return False
    return True


# --- 32 bits ----------------------------------------------------------------------------------------------------


def test_a_window_of_64_by_hand() -> None:
    window = ReplayWindow(64)
    assert not accepts(window, 0)
    window.update(1)
    assert (window.highest, window.value.bitmap) == (1, 0b1)
    window.update(4)
    assert (window.highest, window.value.bitmap) == (4, 0b1001)  # 4 and 1
    window.update(2)
    assert window.value.bitmap == 0b1101
    assert [number for number in range(8) if accepts(window, number)] == [3, 5, 6, 7]
    window.update(67)  # 67 - 64 = 3 is the first left of the window
    assert (window.highest, window.value.bitmap) == (67, 1 | 1 << 63)  # 67 and 4
    assert not accepts(window, 3)
    assert not accepts(window, 4)
    assert accepts(window, 5)
    window.update(500)
    assert window.value.bitmap == 1


def test_checking_changes_nothing() -> None:
    window = ReplayWindow(32, 10, 0b1)
    for _ in range(3):
        window.check(12)
        window.check(9)
    assert (window.highest, window.value) == (10, AntiReplayWindow(32, 0b1))


def test_size_0_checks_nothing() -> None:
    window = ReplayWindow(0)
    for number in (5, 5, 0, 1):
        window.check(number)
        window.update(number)
    assert window.value == AntiReplayWindow(0, 0)


@pytest.mark.parametrize("size", [-1, MAXIMUM_WINDOW + 1])
def test_a_size_that_is_too_large(size: int) -> None:
    with pytest.raises(MalformedContext):
        ReplayWindow(size)


@pytest.mark.parametrize(("highest", "extended"), [(-1, False), (HIGH, False), (HIGH * HIGH, True)])
def test_a_counter_out_of_range(highest: int, extended: bool) -> None:
    with pytest.raises(MalformedContext):
        ReplayWindow(64, highest, extended=extended)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.sampled_from([1, 2, 32, 64, 128, MAXIMUM_WINDOW]),
    st.lists(st.integers(1, 300) | st.integers(1, 9000), max_size=80),
    st.integers(0, 80),
)
def test_window_is_a_set_of_numbers(size: int, numbers: list[int], moved_at: int) -> None:
    """Against a set that remembers all; half-way the window goes into a context and comes back."""
    window = ReplayWindow(size)
    seen: set[int] = set()
    for index, number in enumerate(numbers):
        if index == moved_at:
            window = ReplayWindow.restore(window.value, window.highest or 0)
        expected = number not in seen and number > max(seen, default=0) - size
        assert accepts(window, number) is expected
        if expected:
            window.update(number)
            seen.add(number)
    assert window.highest == max(seen, default=0)


def test_a_restored_window_never_takes_its_highest_again() -> None:
    window = ReplayWindow.restore(AntiReplayWindow(64, 0), 9)
    assert not accepts(window, 9)
    assert accepts(window, 8)


def test_an_unknown_counter_starts_where_the_first_packet_is() -> None:
    window = ReplayWindow.restore(AntiReplayWindow(64, 0b111), 1000, knowledge=CounterKnowledge.UNKNOWN)
    assert window.highest is None
    assert window.receive(77, lambda number: number) == (77, 77)
    assert not accepts(window, 77)
    assert accepts(window, 76)
    assert not accepts(window, 13)


# --- 64 bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "top", "low", "expected"),
    [
        # case A (RFC 4303, A2.1): the window lies in one subspace; Tl = 1000, its bottom 937
        (64, 3 * HIGH + 1000, 1000, 3 * HIGH + 1000),
        (64, 3 * HIGH + 1000, 937, 3 * HIGH + 937),
        (64, 3 * HIGH + 1000, 936, 4 * HIGH + 936),
        (64, 3 * HIGH + 1000, HIGH - 1, 3 * HIGH + HIGH - 1),
        (64, 3 * HIGH + 63, 0, 3 * HIGH),  # Tl = W - 1: bottom 0, still case A
        # case B: it spans two; Tl = 10, its bottom 2^32 - 53 below
        (64, 3 * HIGH + 10, HIGH - 53, 2 * HIGH + HIGH - 53),
        (64, 3 * HIGH + 10, HIGH - 54, 3 * HIGH + HIGH - 54),
        (64, 3 * HIGH + 10, 11, 3 * HIGH + 11),
        (64, 3 * HIGH + 62, HIGH - 1, 2 * HIGH + HIGH - 1),
        # a new SA
        (64, 0, 1, 1),
        # the largest window
        (4096, HIGH + 4000, HIGH - 90, HIGH - 90),
        # no window: anything not above Tl is of the next subspace
        (0, HIGH + 7, 6, 2 * HIGH + 6),
        (0, HIGH + 7, 8, HIGH + 8),
    ],
)
def test_inferring_the_high_half(size: int, top: int, low: int, expected: int) -> None:
    assert ReplayWindow(size, top, extended=True).infer(low) == expected


@pytest.mark.parametrize(("top", "low"), [(10, HIGH - 10), (HIGH * HIGH - 1, 5)])
def test_nothing_lies_outside_the_space(top: int, low: int) -> None:
    with pytest.raises(ReplayError):
        ReplayWindow(64, top, extended=True).infer(low)


def test_a_window_across_the_subspaces() -> None:
    window = ReplayWindow(64, HIGH - 2, extended=True)
    for low, number in ((HIGH - 1, HIGH - 1), (1, HIGH + 1), (0, HIGH), (HIGH - 5, HIGH - 5)):
        assert window.receive(low, lambda number: number) == (number, number)
        with pytest.raises(ReplayError):
            window.receive(low, lambda number: number)
    assert window.highest == HIGH + 1
    assert window.value.bitmap == 0b1001111  # HIGH + 1, HIGH, -1, -2 and -5


def only(true_number: int) -> Callable[[int], str]:
    """A packet whose ICV is right under one number alone."""

    def verify(number: int) -> str:
        if number != true_number:
            raise IntegrityError("no")
        return "opened"

    return verify


@pytest.mark.parametrize("ahead", [0, 1, RESYNCHRONISATION_STEPS])
@pytest.mark.parametrize(
    ("knowledge", "top"), [(CounterKnowledge.AT_LEAST, 5 * HIGH + 100), (CounterKnowledge.UNKNOWN, 0)]
)
def test_resynchronisation(ahead: int, knowledge: CounterKnowledge, top: int) -> None:
    # RFC 4303, A3
    window = ReplayWindow.restore(AntiReplayWindow(64), top, extended=True, knowledge=knowledge)
    true = top // HIGH * HIGH + ahead * HIGH + 5000
    assert window.receive(5000, only(true)) == (true, "opened")
    assert window.highest == true
    # from here on the counter is known, and nothing is tried
    tried: list[int] = []

    def refuse(number: int) -> None:
        tried.append(number)
        raise IntegrityError("no")

    with pytest.raises(IntegrityError):
        window.receive(5001, refuse)
    assert tried == [true + 1]


def test_resynchronisation_is_bounded() -> None:
    window = ReplayWindow.restore(AntiReplayWindow(64), 7, extended=True, knowledge=CounterKnowledge.AT_LEAST)
    tried: list[int] = []

    def refuse(number: int) -> None:
        tried.append(number)
        raise IntegrityError("no")

    with pytest.raises(IntegrityError):
        window.receive(100, refuse)
    assert tried == [100 + step * HIGH for step in range(RESYNCHRONISATION_STEPS + 1)]
    assert window.highest == 7


def test_an_exact_counter_is_not_resynchronised() -> None:
    window = ReplayWindow(64, 100, extended=True)
    with pytest.raises(IntegrityError):
        window.receive(200, only(HIGH + 200))


def test_a_forged_packet_moves_nothing() -> None:
    window = ReplayWindow(64, 100, 0b1, extended=True)
    with pytest.raises(IntegrityError):
        window.receive(4_000_000_000, only(-1))
    assert (window.highest, window.value.bitmap) == (100, 1)


def test_recordings_neither_refuse_nor_count() -> None:
    window = ReplayWindow(64, 3 * HIGH + 100, 0b1, extended=True)
    for true in (3 * HIGH + 100, 3 * HIGH + 100, 3 * HIGH + 1, HIGH + 50):
        assert window.receive(true % HIGH, only(true), replays=False) == (true, "opened")
    assert window.highest == 3 * HIGH + 100


# --- the sender -------------------------------------------------------------------------------------------------


def counter(last: int, *, extended: bool = False, may_cycle: bool = False, **numbers: object) -> OutboundCounter:
    return OutboundCounter(SequenceNumbers(last, **numbers), extended=extended, may_cycle=may_cycle)  # type: ignore[arg-type]


def test_numbers_follow_each_other() -> None:
    sender = counter(41)
    assert [sender.next(), sender.next()] == [42, 42]
    sender.sent(42)
    assert (sender.next(), sender.last) == (43, 42)


@pytest.mark.parametrize("knowledge", [CounterKnowledge.UNKNOWN, CounterKnowledge.AT_LEAST])
def test_nothing_is_sent_under_a_counter_that_is_not_exact(knowledge: CounterKnowledge) -> None:
    sender = counter(41, knowledge=knowledge)
    with pytest.raises(LocalError):
        sender.next()
    sender.seen(1000)  # the old owner sent it
    with pytest.raises(LocalError):
        sender.advance(999)
    sender.advance(1 << 30)
    assert sender.next() == (1 << 30) + 1
    assert sender.knowledge == CounterKnowledge.EXACT


def test_a_counter_never_goes_down() -> None:
    sender = counter(41)
    with pytest.raises(LocalError):
        sender.advance(40)
    sender.seen(7)
    assert sender.last == 41


@pytest.mark.parametrize(("extended", "last"), [(False, HIGH - 1), (True, HIGH * HIGH - 1)])
def test_the_end_of_the_space(extended: bool, last: int) -> None:
    sender = counter(last - 1, extended=extended)
    sender.sent(sender.next())
    with pytest.raises(LocalError):
        sender.next()
    with pytest.raises(LocalError):
        sender.advance(last + 1)


def test_only_a_cipher_without_nonces_may_cycle() -> None:
    assert counter(HIGH - 1, may_cycle=True, overflow_allowed=True).next() == 0
    for sender in (
        counter(HIGH - 1, may_cycle=False, overflow_allowed=True),
        counter(HIGH - 1, may_cycle=True, overflow_allowed=False),
        counter(HIGH * HIGH - 1, may_cycle=True, overflow_allowed=True, extended=True),
    ):
        with pytest.raises(LocalError):
            sender.next()


def test_an_outbound_counter_out_of_range() -> None:
    with pytest.raises(MalformedContext):
        counter(HIGH)
