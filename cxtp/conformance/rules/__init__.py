"""The table of all rules, group by group.

A rule looks at messages, never at how a node of ours would act: the judge shares no code with the accused but the
codec.
"""

from __future__ import annotations

from ..verdicts import Rule
from . import choices, content, exchanges, flows, formats, messages, routers, safety, timers, tokens, transport

ALL_RULES: tuple[Rule, ...] = (
    *messages.RULES,
    *transport.RULES,
    *choices.RULES,
    *flows.RULES,
    *exchanges.RULES,
    *timers.RULES,
    *tokens.RULES,
    *routers.RULES,
    *formats.RULES,
    *content.RULES,
    *safety.RULES,
)

__all__ = ["ALL_RULES"]
