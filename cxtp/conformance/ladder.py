"""The exchange as a ladder: one line per host, one arrow per message; as text, SVG or HTML.  No network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..dissect import Sighting, text_sighting
from ..messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    IPAddress,
)
from .records import Record

_LANE = 220
_LEFT = 130
_ROW = 34
_TOP = 56
MAXIMUM_LANES = 12
"""Hosts that are drawn; messages of others are left out (ours)."""

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--line:#c9d0da;--back:#fff;--card:#f5f7fa;
--good:#1a7f4b;--bad:#c0262d;--open:#9a6700;--arrow:#2557a7}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b8;--line:#3a4452;--back:#12161d;--card:#1b212b;
--good:#4cc38a;--bad:#ff6b70;--open:#e3b341;--arrow:#7fb0ff}}
svg.ladder text{font:13px system-ui,sans-serif;fill:var(--ink)}svg.ladder .soft{fill:var(--soft);font-size:11px}
svg.ladder line{stroke:var(--line)}svg.ladder .arrow{stroke:var(--arrow);stroke-width:1.6}
svg.ladder .head{fill:var(--arrow)}svg.ladder .bad .arrow{stroke:var(--bad)}
svg.ladder .bad .head,svg.ladder .bad text{fill:var(--bad)}
svg.ladder a:focus text,svg.ladder a:hover text{text-decoration:underline}
"""


def lanes_of(records: Sequence[Record]) -> list[IPAddress]:
    """The hosts, mobile nodes first, then as they appear."""
    mobile: dict[IPAddress, None] = {}
    hosts: dict[IPAddress, None] = {}
    for item in records:
        if isinstance(item.message, ContextTransferActivateRequest):
            mobile[item.source[0]] = None
        elif isinstance(item.message, ContextTransferActivateAcknowledge):
            mobile[item.destination[0]] = None
        hosts[item.source[0]] = hosts[item.destination[0]] = None
    return [*mobile, *(host for host in hosts if host not in mobile)][:MAXIMUM_LANES]


def label(item: Record) -> str:
    """What stands on an arrow."""
    message = item.message
    if message is None:
        return "no CXTP message"
    flags = ""
    if isinstance(message, ContextTransferDataReply):
        flags = f" S={message.success:d}"
    elif isinstance(message, (ContextTransferData, ContextTransferActivateRequest)):
        flags = f" A={message.acknowledge:d}"
    return f"{message.short_name}{flags}"


def decode_text(item: Record) -> str:
    """A message's decode, keys hidden."""
    error = str(item.error) if item.error is not None else ""
    return text_sighting(
        Sighting(
            item.number, item.time, item.transport, item.source, item.destination, item.octets, item.message, error
        )
    )


def ladder_text(records: Sequence[Record]) -> str:
    """For the terminal, 28 columns a host."""
    lanes = lanes_of(records)
    if not lanes:
        return "no CXTP message"
    width = 28
    start = records[0].time
    head = " " * 18 + "".join(str(lane)[: width - 1].center(width) for lane in lanes)
    lines = [head.rstrip()]
    for item in records:
        if item.source[0] not in lanes or item.destination[0] not in lanes:
            continue
        one, two = lanes.index(item.source[0]), lanes.index(item.destination[0])
        row = [" "] * (width * len(lanes))
        for index in range(len(lanes)):
            row[index * width + width // 2] = "|"
        left, right = sorted((one * width + width // 2, two * width + width // 2))
        for column in range(left + 1, right):
            row[column] = "-"
        if left != right:
            row[right - 1 if two > one else left + 1] = ">" if two > one else "<"
        name = f" {label(item)} "
        middle = (left + right - len(name)) // 2 if left != right else left + 2
        for offset, letter in enumerate(name[: max(right - left - 4, 0)] if left != right else name):
            row[max(middle, left + 2) + offset] = letter
        lines.append(f"#{item.number:<6}{item.time - start:10.3f} " + "".join(row).rstrip())
    return "\n".join(lines)


def ladder_svg(records: Sequence[Record], faults: Mapping[int, int] | None = None, *, linked: bool = False) -> str:
    """One SVG; ``faults``: how many rules a packet broke; ``linked``: each arrow leads to ``#packet-N``."""
    lanes = lanes_of(records)
    shown = [r for r in records if r.source[0] in lanes and r.destination[0] in lanes]
    width = _LEFT + _LANE * max(len(lanes), 1)
    height = _TOP + _ROW * (len(shown) + 1)
    parts = [
        f'<svg class="ladder" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="ladder diagram">',
        f"<style>{STYLE}</style>" if not linked else "",
    ]
    for index, lane in enumerate(lanes):
        x = _LEFT + _LANE * index + _LANE // 2
        parts.append(f'<text x="{x}" y="24" text-anchor="middle">{escape(str(lane))}</text>')
        parts.append(f'<line x1="{x}" y1="36" x2="{x}" y2="{height - 8}"/>')
    start = records[0].time if records else 0.0
    for row, item in enumerate(shown):
        parts.append(_arrow(item, lanes, _TOP + _ROW * row + 16, start, (faults or {}).get(item.number, 0), linked))
    parts.append("</svg>")
    return "".join(parts)


def _arrow(item: Record, lanes: list[IPAddress], y: int, start: float, faults: int, linked: bool) -> str:
    one = _LEFT + _LANE * lanes.index(item.source[0]) + _LANE // 2
    two = _LEFT + _LANE * lanes.index(item.destination[0]) + _LANE // 2
    back = 7 if two < one else -7
    bad = ' class="bad"' if faults or item.message is None else ""
    name = label(item) + (f" ({faults} broken)" if faults else "")
    drawn = (
        f'<g{bad}><text class="soft" x="4" y="{y + 4}">#{item.number} {item.time - start:.3f} s</text>'
        f'<line class="arrow" x1="{one}" y1="{y}" x2="{two}" y2="{y}"/>'
        f'<path class="head" d="M{two} {y}l{back} -4v8z"/>'
        f'<text x="{(one + two) // 2}" y="{y - 5}" text-anchor="middle">{escape(name)}</text></g>'
    )
    return f'<a href="#packet-{item.number}">{drawn}</a>' if linked else drawn


def ladder_html(records: Sequence[Record]) -> str:
    """One file: the diagram, each arrow a link to its message's decode."""
    decodes = "".join(
        f'<article id="packet-{item.number}"><pre>{escape(decode_text(item))}</pre></article>' for item in records
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>CXTP ladder</title><style>{STYLE}"
        "body{margin:1rem;background:var(--back);color:var(--ink);font:15px system-ui,sans-serif}"
        ".scroll{overflow-x:auto}article{background:var(--card);margin:.4rem 0;padding:.3rem .8rem}"
        "article:target{outline:2px solid var(--arrow)}pre{overflow-x:auto;white-space:pre-wrap}</style>"
        f'<div class="scroll">{ladder_svg(records, linked=True)}</div>{decodes}</html>'
    )
