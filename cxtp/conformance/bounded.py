"""A dictionary with a limit: what is remembered of a capture of any length."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAXIMUM_REMEMBERED = 4096
"""Items that a rule remembers beyond one story (ours)."""


class Bounded(OrderedDict[Any, Any]):
    """A dictionary that forgets what was set the longest ago."""

    def __init__(self, limit: int = MAXIMUM_REMEMBERED) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._limit:
            self.popitem(last=False)
