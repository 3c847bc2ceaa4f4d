"""``cxtp pcap``: captures of whole stories, made to be looked at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..conformance.rules import ALL_RULES
from ..conformance.verdicts import Level
from ..scenarios import SCENARIOS, make
from ..scenarios.table import find
from .keys import write
from .output import print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the commands."""
    pcap = subparsers.add_parser("pcap", help="make captures of whole stories")
    commands = pcap.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="the scenarios that there are")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=run_list)
    made = commands.add_parser(
        "make",
        help="write one",
        description="The same scenario and seed give the same octets. The capture shows keys of its own making in its "
        "contexts, for CXTP is in the clear in it.",
    )
    made.add_argument("scenario", metavar="SCENARIO", help="its name, see cxtp pcap list")
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="pcapng; pcap if named .pcap")
    made.add_argument("--seed", type=int, default=1, help="of all that is random (default 1)")
    made.add_argument(
        "--keys", type=Path, metavar="PROFILE_DIR", help="write Wireshark's tables of the scenario's keys there"
    )
    made.add_argument("--json", action="store_true")
    made.set_defaults(run=run_make)


def run_list(arguments: argparse.Namespace) -> int:
    """Print them."""
    if arguments.json:
        binding = {rule.id for rule in ALL_RULES if rule.level is Level.MUST}
        rows = [
            {
                "name": scenario.name,
                "shows": scenario.shows,
                "sections": scenario.sections,
                "verdict": "fail" if binding.intersection(scenario.breaks) else "pass",
                "breaks": scenario.breaks,
            }
            for scenario in SCENARIOS.values()
        ]
        print_json({"scenarios": rows})
    else:
        print_table(("name", "RFC 4067", "shows"), ((s.name, s.sections, s.shows) for s in SCENARIOS.values()))
    return 0


def run_make(arguments: argparse.Namespace) -> int:
    """Write it."""
    tables = make(find(arguments.scenario), arguments.output, arguments.seed)
    if arguments.keys is not None:
        write(arguments.keys, tables)
    if arguments.json:
        print_json({"scenario": arguments.scenario, "file": str(arguments.output), "seed": arguments.seed})
    else:
        print(f"{arguments.output}: {find(arguments.scenario).shows}")
    return 0
