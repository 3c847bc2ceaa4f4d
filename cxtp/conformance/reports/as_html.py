"""A report as one HTML file: no network, no script; dark and light, on a phone, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..ladder import STYLE, anchors, decode_text, ladder_svg
from ..records import Record
from ..verdicts import Doubt, Fault, Report, Result, Rule, Verdict

_CLASS = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.INCONCLUSIVE: "open", Verdict.NOT_EXERCISED: "soft"}

_STYLE = """
*{box-sizing:border-box}body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--back);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}a{color:var(--arrow)}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.soft{color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.3rem .5rem;border-bottom:1px solid var(--line)}
h1,p,li,.bad,.open{overflow-wrap:anywhere}
article,details{background:var(--card);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
article:target{outline:2px solid var(--arrow)}
pre{margin:.3rem 0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px}
@media (max-width:40rem){table.rules thead{display:none}table.rules tr{display:block;padding:.5rem 0;
border-bottom:1px solid var(--line)}table.rules td{display:block;border:0;padding:.1rem 0}}
@media print{.scroll{overflow:visible}svg{max-width:100%;height:auto}article,tr{break-inside:avoid}}
"""


def html_report(report: Report, records: Sequence[Record]) -> str:
    """The document; ``records`` are drawn and decoded, keys hidden."""
    broken, doubted = report.by_packet(), report.doubts_by_packet()
    counts = {number: len({rule.id for rule, _ in items}) for number, items in broken.items()}
    drawn, names = {item.number for item in records}, anchors(records)
    verdict = report.verdict
    tallies = ", ".join(f'<b class="{_CLASS[v]}">{report.count(v)}</b> {v.value}' for v in Verdict)
    unread = "".join(f"<li>{count} {escape(reason)}</li>" for reason, count in sorted(report.unread.items()))
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>CXTP conformance: {verdict.value}</title><style>{STYLE}{_STYLE}</style></head><body>",
            f'<h1>CXTP conformance: <span class="{_CLASS[verdict]}">{verdict.value}</span></h1>',
            f"<p>{escape(report.subject)}: {report.packets} packets, {report.messages} messages. {tallies}.</p>",
            f"<p>Not looked into:</p><ul>{unread}</ul>" if unread else "",
            "<h2>Exchange</h2>",
            f'<div class="scroll">{ladder_svg(records, counts, linked=True)}</div>'
            if records
            else "<p>No message.</p>",
            "<h2>By section</h2>",
            _by_section(report),
            "<h2>Rules</h2>",
            _rules(report, drawn),
            "<h2>Messages</h2>",
            f"<p>The first {len(records)} of {report.messages}.</p>" if report.messages > len(records) else "",
            *(
                _message(item, names[id(item)], broken.get(item.number, []), doubted.get(item.number, []))
                for item in records
            ),
            "</body></html>",
        ]
    )


def _by_section(report: Report) -> str:
    sections: dict[str, list[Result]] = {}
    for result in report.results:
        sections.setdefault(result.rule.section, []).append(result)
    rows = []
    for section, results in sorted(sections.items()):
        cells = "".join(
            f'<td class="{_CLASS[v] if any(r.verdict is v for r in results) else "soft"}">'
            f"{sum(r.verdict is v for r in results)}</td>"
            for v in Verdict
        )
        rows.append(f"<tr><th>{escape(section)}</th>{cells}</tr>")
    head = "".join(f"<th>{v.value}</th>" for v in Verdict)
    return f'<div class="scroll"><table><thead><tr><th>section</th>{head}</tr></thead>{"".join(rows)}</table></div>'


def _rules(report: Report, drawn: set[int]) -> str:
    order = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.NOT_EXERCISED]
    rows = []
    for result in sorted(report.results, key=lambda r: order.index(r.verdict)):
        rule = result.rule
        rows.append(
            f'<tr id="rule-{escape(rule.id)}"><td class="{_CLASS[result.verdict]}">{result.verdict.value}</td>'
            f"<td>{rule.level.value}</td><td>{escape(rule.id)}<br><span class=soft>{escape(rule.section)}</span></td>"
            f"<td>{escape(rule.text)}{_findings(result, drawn)}</td></tr>"
        )
    head = "<thead><tr><th>verdict</th><th>level</th><th>rule</th><th>what</th></tr></thead>"
    return f'<table class="rules">{head}{"".join(rows)}</table>'


def _findings(result: Result, drawn: set[int]) -> str:
    lines = [
        f'<div class="bad">{_links(f.packets, drawn)} expected {escape(f.expected)}; seen {escape(f.seen)}</div>'
        for f in result.faults
    ]
    if result.verdict is Verdict.INCONCLUSIVE:
        lines += [f'<div class="open">{_links(d.packets, drawn)} {escape(d.why)}</div>' for d in result.doubts[:5]]
    return "".join(lines)


def _links(packets: tuple[int, ...], drawn: set[int]) -> str:
    return " ".join(f'<a href="#packet-{n}">#{n}</a>' if n in drawn else f"#{n}" for n in packets)


def _message(
    item: Record, anchor: str, broken: list[tuple[Rule, Fault]], doubted: list[tuple[Rule, Doubt]]
) -> str:
    faults = "".join(
        f'<div class="bad"><a href="#rule-{escape(rule.id)}">{escape(rule.id)}</a> {rule.level.value}: expected '
        f"{escape(fault.expected)}; seen {escape(fault.seen)}</div>"
        for rule, fault in broken
    )
    faults += "".join(
        f'<div class="open"><a href="#rule-{escape(rule.id)}">{escape(rule.id)}</a> {rule.level.value}: '
        f"{escape(doubt.why)}</div>"
        for rule, doubt in doubted
    )
    verdict = faults or '<div class="good">no rule broken</div>'
    return f'<article id="{anchor}"><pre>{escape(decode_text(item))}</pre>{verdict}</article>'
