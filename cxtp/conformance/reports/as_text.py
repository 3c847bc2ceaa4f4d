"""A report for a terminal: what failed first, with its packets, then the counts."""

from __future__ import annotations

from collections.abc import Iterator

from ..verdicts import Group, Report, Result, Verdict


def _packets(packets: tuple[int, ...]) -> str:
    shown = ", ".join(f"#{number}" for number in packets[:12])
    return shown + (", ..." if len(packets) > 12 else "")


def _lines(result: Result) -> Iterator[str]:
    rule = result.rule
    yield f"{result.verdict.value.upper():13} {rule.level.value:6} {rule.id}  ({rule.section})  {rule.text}"
    for fault in result.faults:
        where = _packets(fault.packets) or "context file"
        yield f"    {where}: expected {fault.expected}; seen {fault.seen}"
    if result.fault_count > len(result.faults):
        yield f"    and {result.fault_count - len(result.faults)} more"
    if result.verdict is Verdict.INCONCLUSIVE:
        for doubt in result.doubts[:3]:
            yield f"    {_packets(doubt.packets)}: {doubt.why}"


def text_report(report: Report, *, everything: bool = False) -> str:
    """The report as lines; ``everything`` names rules that passed or were not exercised as well."""
    lines = [f"{report.subject}: {report.packets} packets, {report.messages} CXTP messages"]
    lines += [f"  not looked into: {count} {reason}" for reason, count in sorted(report.unread.items())]
    shown = [Verdict.FAIL, Verdict.INCONCLUSIVE]
    if everything:
        shown += [Verdict.PASS, Verdict.NOT_EXERCISED]
    for verdict in shown:
        for result in report.results:
            if result.verdict is verdict:
                lines += _lines(result)
    lines.append("")
    for group in Group:
        results = [result for result in report.results if result.rule.group is group]
        if results:
            counts = {verdict: sum(r.verdict is verdict for r in results) for verdict in Verdict}
            lines.append(f"{group.value:10} " + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
    lines.append(f"verdict: {report.verdict.value}")
    return "\n".join(lines)
