"""The window of IKE Message IDs (RFC 7296, 2.3)."""

from __future__ import annotations

import pytest

from contexts import values
from contexts.session.message_window import MAXIMUM_WINDOW, MessageVerdict, MessageWindow
from cxtp.errors import LocalError, MalformedContext

NEW, AGAIN, OUTSIDE = MessageVerdict.NEW, MessageVerdict.RETRANSMITTED, MessageVerdict.OUTSIDE


def test_a_window_of_one() -> None:
    window = MessageWindow(5)
    assert [window.classify(number) for number in (3, 4, 5, 6)] == [OUTSIDE, AGAIN, NEW, OUTSIDE]
    window.take(5)
    assert [window.classify(number) for number in (4, 5, 6, 7)] == [OUTSIDE, AGAIN, NEW, OUTSIDE]


def test_a_window_of_four_out_of_order() -> None:
    window = MessageWindow(0, values.MessageWindow(4))
    window.take(2)
    window.take(1)
    assert (window.next_request_expected, window.value) == (0, values.MessageWindow(4, 0b110))
    assert [window.classify(number) for number in range(6)] == [NEW, AGAIN, AGAIN, NEW, OUTSIDE, OUTSIDE]
    moved = MessageWindow(window.next_request_expected, window.value)
    moved.take(0)  # 0, 1 and 2 are behind it now
    assert (moved.next_request_expected, moved.value.bitmap) == (3, 0)


def test_taking_what_is_not_new() -> None:
    window = MessageWindow(5)
    for number in (4, 6, -1):
        with pytest.raises(LocalError):
            window.take(number)


def test_the_last_message_id() -> None:
    window = MessageWindow((1 << 32) - 1, values.MessageWindow(8))
    assert window.classify((1 << 32) - 1) is NEW
    assert window.classify(1 << 32) is OUTSIDE


@pytest.mark.parametrize(
    ("expected", "window"),
    [
        (-1, values.MessageWindow()),
        (1 << 32, values.MessageWindow()),
        (0, values.MessageWindow(0)),
        (0, values.MessageWindow(MAXIMUM_WINDOW + 1)),
        (0, values.MessageWindow(2, 0b100)),
    ],
)
def test_windows_that_can_not_be(expected: int, window: values.MessageWindow) -> None:
    with pytest.raises(MalformedContext):
        MessageWindow(expected, window)
