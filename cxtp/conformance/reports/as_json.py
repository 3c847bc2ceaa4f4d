"""A report for machines."""

from __future__ import annotations

from typing import Any

from ..verdicts import Report, Result


def _result(result: Result) -> dict[str, Any]:
    rule = result.rule
    return {
        "id": rule.id,
        "section": rule.section,
        "level": rule.level.value,
        "roles": rule.roles,
        "group": rule.group.value,
        "text": rule.text,
        "verdict": result.verdict.value,
        "held": result.held,
        "faults": [{"packets": list(f.packets), "expected": f.expected, "seen": f.seen} for f in result.faults],
        "fault_count": result.fault_count,
        "doubts": [{"packets": list(d.packets), "why": d.why} for d in result.doubts],
    }


def json_report(report: Report) -> dict[str, Any]:
    """JSON-ready: the verdict on all, and of each rule its own with faults and doubts."""
    return {
        "subject": report.subject,
        "verdict": report.verdict.value,
        "packets": report.packets,
        "messages": report.messages,
        "not_looked_into": report.unread,
        "rules": [_result(result) for result in report.results],
    }
