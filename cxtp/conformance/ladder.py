"""The exchange as a ladder: one line per host, one arrow per message; as text, SVG or HTML.  No network, no script."""

from __future__ import annotations

from collections import Counter
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

_NARROWEST_LANE = 220
_LETTER = 8
_LEFT = 130
_ROW = 34
_TOP = 56
MAXIMUM_LANES = 12
"""Hosts that are drawn; messages of others are left out, and it is said how many (ours)."""

_NARROWEST_COLUMN = 28

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--line:#c9d0da;--back:#fff;--card:#f5f7fa;
--good:#1a7f4b;--bad:#c0262d;--open:#9a6700;--arrow:#2557a7}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b8;--line:#3a4452;--back:#12161d;
--card:#1b212b;--good:#4cc38a;--bad:#ff6b70;--open:#e3b341;--arrow:#7fb0ff}}
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


def _drawn(records: Sequence[Record]) -> tuple[list[IPAddress], list[Record], str]:
    """The hosts, the messages between them, and what has to be said of the others."""
    lanes = lanes_of(records)
    shown = [r for r in records if r.source[0] in lanes and r.destination[0] in lanes]
    left_out = len(records) - len(shown)
    return lanes, shown, f"{left_out} messages of hosts beyond the {MAXIMUM_LANES}th not drawn" if left_out else ""


def anchors(records: Sequence[Record]) -> dict[int, str]:
    """An id for each record, by its ``id()``: a packet may have several messages."""
    seen: Counter[int] = Counter()
    found = {}
    for item in records:
        seen[item.number] += 1
        again = f"-{seen[item.number]}" if seen[item.number] > 1 else ""
        found[id(item)] = f"packet-{item.number}{again}"
    return found


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
    """For the terminal: a column a host, as wide as the longest address."""
    lanes, shown, left_out = _drawn(records)
    if not lanes:
        return "no CXTP message"
    width = max(_NARROWEST_COLUMN, *(len(str(lane)) + 2 for lane in lanes))
    start = records[0].time
    head = " " * 18 + "".join(str(lane).center(width) for lane in lanes)
    lines = [head.rstrip(), *(_rung(item, lanes, width, start) for item in shown), *filter(None, [left_out])]
    return "\n".join(lines)


def _rung(item: Record, lanes: list[IPAddress], width: int, start: float) -> str:
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
        row[max(middle, left + 2) + offset : max(middle, left + 2) + offset + 1] = [letter]
    return f"#{item.number:<6}{item.time - start:10.3f} " + "".join(row).rstrip()


def ladder_svg(records: Sequence[Record], faults: Mapping[int, int] | None = None, *, linked: bool = False) -> str:
    """One SVG; ``faults``: how many rules a packet broke; ``linked``: each arrow leads to its message's anchor."""
    lanes, shown, left_out = _drawn(records)
    lane_width = max(_NARROWEST_LANE, *(_LETTER * len(str(lane)) + 20 for lane in lanes), 0)
    width = _LEFT + lane_width * max(len(lanes), 1)
    height = _TOP + _ROW * (len(shown) + 1 + bool(left_out))
    parts = [
        f'<svg class="ladder" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="ladder diagram">',
        f"<style>{STYLE}</style>" if not linked else "",
    ]
    places = {lane: _LEFT + lane_width * index + lane_width // 2 for index, lane in enumerate(lanes)}
    for lane, x in places.items():
        parts.append(f'<text x="{x}" y="24" text-anchor="middle">{escape(str(lane))}</text>')
        parts.append(f'<line x1="{x}" y1="36" x2="{x}" y2="{height - 8}"/>')
    start, names = records[0].time if records else 0.0, anchors(records)
    for row, item in enumerate(shown):
        drawn = _arrow(item, places, _TOP + _ROW * row + 16, start, (faults or {}).get(item.number, 0))
        parts.append(f'<a href="#{names[id(item)]}">{drawn}</a>' if linked else drawn)
    if left_out:
        parts.append(f'<text class="soft" x="4" y="{height - 12}">{left_out}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _arrow(item: Record, places: Mapping[IPAddress, int], y: int, start: float, faults: int) -> str:
    one, two = places[item.source[0]], places[item.destination[0]]
    back = 7 if two < one else -7
    bad = ' class="bad"' if faults or item.message is None else ""
    name = label(item) + (f" ({faults} broken)" if faults else "")
    return (
        f'<g{bad}><text class="soft" x="4" y="{y + 4}">#{item.number} {item.time - start:.3f} s</text>'
        f'<line class="arrow" x1="{one}" y1="{y}" x2="{two}" y2="{y}"/>'
        f'<path class="head" d="M{two} {y}l{back} -4v8z"/>'
        f'<text x="{(one + two) // 2}" y="{y - 5}" text-anchor="middle">{escape(name)}</text></g>'
    )


def ladder_html(records: Sequence[Record]) -> str:
    """One file: the diagram, each arrow a link to its message's decode."""
    names = anchors(records)
    decodes = "".join(
        f'<article id="{names[id(item)]}"><pre>{escape(decode_text(item))}</pre></article>' for item in records
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>CXTP ladder</title><style>{STYLE}"
        "body{margin:1rem;background:var(--back);color:var(--ink);font:15px system-ui,sans-serif}"
        ".scroll{overflow-x:auto}article{background:var(--card);margin:.4rem 0;padding:.3rem .8rem}"
        "article:target{outline:2px solid var(--arrow)}pre{overflow-x:auto;white-space:pre-wrap}</style>"
        f'<div class="scroll">{ladder_svg(records, linked=True)}</div>{decodes}</html>'
    )
