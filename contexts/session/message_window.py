"""The window of Message IDs that a responder keeps (RFC 7296, 2.2 and 2.3), as a context carries it."""

from __future__ import annotations

from enum import Enum

from contexts import values
from cxtp.errors import LocalError, MalformedContext

MAXIMUM_WINDOW = 1024
"""Requests that may be open at once (ours; IKE daemons use 1 to a few dozen)."""

_MAXIMUM_MESSAGE_ID = (1 << 32) - 1


class MessageVerdict(Enum):
    """What a request's Message ID says."""

    NEW = "new"
    RETRANSMITTED = "retransmitted"
    """Taken before: answer it as before, act no more."""
    OUTSIDE = "outside"
    """Neither: drop it."""


class MessageWindow:
    """Which requests may be taken; small and mutable."""

    def __init__(self, next_request_expected: int, window: values.MessageWindow = values.MessageWindow()) -> None:
        """Raises MalformedContext for numbers that can't be."""
        if not 0 <= next_request_expected <= _MAXIMUM_MESSAGE_ID:
            raise MalformedContext("IKE_SA", "message IDs", 0, "next request expected out of range")
        if not 1 <= window.size <= MAXIMUM_WINDOW or not 0 <= window.bitmap < 1 << window.size:
            raise MalformedContext("IKE_SA", "window", 0, f"not 1 to {MAXIMUM_WINDOW} requests and their bitmap")
        self.size = window.size
        self._expected = next_request_expected
        self._bitmap = window.bitmap
        self._slide()

    @property
    def next_request_expected(self) -> int:
        """The lowest Message ID that was not taken yet."""
        return self._expected

    @property
    def value(self) -> values.MessageWindow:
        """Size and bitmap as a context carries them."""
        return values.MessageWindow(self.size, self._bitmap)

    def classify(self, message_id: int) -> MessageVerdict:
        """What to do with a request of this Message ID; changes nothing."""
        if self._expected - self.size <= message_id < self._expected:
            return MessageVerdict.RETRANSMITTED
        if not self._expected <= message_id < min(self._expected + self.size, _MAXIMUM_MESSAGE_ID + 1):
            return MessageVerdict.OUTSIDE
        return MessageVerdict.RETRANSMITTED if self._bitmap >> (message_id - self._expected) & 1 else MessageVerdict.NEW

    def take(self, message_id: int) -> None:
        """Count a NEW request as taken, after it was verified; LocalError for another."""
        if self.classify(message_id) is not MessageVerdict.NEW:
            raise LocalError(f"Message ID {message_id} is not new in the window at {self._expected}")
        self._bitmap |= 1 << (message_id - self._expected)
        self._slide()

    def _slide(self) -> None:
        while self._bitmap & 1:
            self._bitmap >>= 1
            self._expected += 1
