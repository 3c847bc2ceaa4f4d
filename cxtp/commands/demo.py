"""``cxtp demo``: real sessions move between two nodes on this machine."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..demo import SessionResult, TraceResult, check_trace, committed_traces, run_demo
from .output import Progress, print_json, print_table

_JSON_FIELDS = (
    "trace",
    "suite",
    "contexts",
    "octets",
    "milliseconds",
    "ike_seen",
    "ike_opened",
    "esp_seen",
    "esp_opened",
    "ah_seen",
    "ah_opened",
    "keys_match",
)


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "demo",
        help="move recorded sessions between two nodes, and prove them",
        description="Start two nodes, give node A the sessions that strongSwan exported, move them to node B over "
        "CXTP, and let B open all that the peer sent. Exits 1 where anything could not be opened.",
    )
    command.add_argument(
        "--trace",
        type=Path,
        action="append",
        metavar="DIR",
        help="a directory with ha.pcap and outer.pcap (and keys.json, to compare); repeatable; default: all in pcaps/",
    )
    command.add_argument("--transport", choices=("tls", "udp"), default="tls", help="default %(default)s")
    command.add_argument(
        "--key-case",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="how keys travel: 1 shared secret, 2 SKEYSEED, 3 SK_* (default %(default)s)",
    )
    command.add_argument(
        "--pcap",
        type=Path,
        metavar="OUT",
        help="write the CXTP traffic, in the clear and so with the sessions' keys (over TLS: what was inside)",
    )
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it and print the table."""
    traces = [check_trace(path) for path in arguments.trace] if arguments.trace else committed_traces()
    progress = Progress()
    results = asyncio.run(
        run_demo(
            traces,
            transport=arguments.transport,
            key_case=arguments.key_case,
            capture=arguments.pcap,
            progress=progress.say,
        )
    )
    progress.done()
    ok = all(result.ok for result in results)
    sessions = [session for result in results for session in result.sessions]
    if arguments.json:
        plain = [{name: getattr(session, name) for name in _JSON_FIELDS} for session in sessions]
        print_json({"sessions": plain, "ok": ok})
    else:
        _print_sessions(sessions)
        print(
            f"{len(sessions)} sessions moved from node-a to node-b over {arguments.transport}, "
            + ("all opened" if ok else "NOT all opened")
        )
        if arguments.pcap is not None:
            print(f"CXTP traffic, keys included: {arguments.pcap} (see it with: cxtp dissect {arguments.pcap})")
    _explain(results)
    return 0 if ok else 1


def _print_sessions(sessions: Sequence[SessionResult]) -> None:
    print_table(
        ("trace", "suite", "contexts", "octets", "ms", "IKE", "ESP", "AH", "keys equal"),
        (
            (
                session.trace,
                session.suite,
                session.contexts,
                session.octets,
                session.milliseconds,
                f"{session.ike_opened}/{session.ike_seen}",
                f"{session.esp_opened}/{session.esp_seen}",
                f"{session.ah_opened}/{session.ah_seen}" if session.ah_seen else None,
                session.keys_match,
            )
            for session in sessions
        ),
    )


def _explain(results: Sequence[TraceResult]) -> None:
    """On standard error: what went wrong, and what of an export was not moved."""
    for result in results:
        if result.problem:
            print(f"{result.trace}: {result.problem}", file=sys.stderr)
        for line in result.withheld:
            print(f"{result.trace}: left out: {line}", file=sys.stderr)
        if not result.ok:
            for line in (*result.reports, *(f for session in result.sessions for f in session.failures)):
                print(f"{result.trace}: {line}", file=sys.stderr)
