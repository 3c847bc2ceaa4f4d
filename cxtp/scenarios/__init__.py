"""Captures of whole stories, made anew octet by octet: what our roles say, on links that a script spoils."""

from __future__ import annotations

from .table import SCENARIOS, Scenario, make

__all__ = ["SCENARIOS", "Scenario", "make"]
