"""``cxtp gateway linux``: an agent beside the kernel; ``cxtp sessions`` and ``cxtp move`` talk to it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..service import GatewayConfig, run
from ..session_view import COLUMNS
from . import node
from .output import print_json, print_table

STATE = Path("/var/lib/cxtp")
CONTROL = Path("/run/cxtp/control.sock")


def add(subparsers: Any) -> None:
    """Declare the commands."""
    gateway = subparsers.add_parser("gateway", help="an agent beside a gateway's kernel")
    kinds = gateway.add_subparsers(dest="kind", required=True, metavar="KIND")
    linux = kinds.add_parser(
        "linux",
        help="beside Linux's IPsec, whoever negotiates the keys",
        description="Learn the kernel's ESP and AH sessions, follow them, and move them to other nodes.",
    )
    node.add_run_options(linux, state=STATE, control=CONTROL)
    linux.add_argument(
        "--on-activated", type=Path, metavar="EXECUTABLE", help="run when a session came; it gets it as JSON"
    )
    linux.add_argument(
        "--on-released",
        type=Path,
        metavar="EXECUTABLE",
        help="run when one has gone; its traffic is blocked until this has ended",
    )
    linux.add_argument(
        "--namespace", metavar="NAME", help="the network namespace whose kernel state is meant (ip netns), if not ours"
    )
    linux.set_defaults(run=run_linux)

    sessions = subparsers.add_parser("sessions", help="the gateway's sessions", description="One line per SA pair.")
    _add_control(sessions)
    sessions.set_defaults(run=run_sessions)

    move = subparsers.add_parser("move", help="move sessions to another node")
    move.add_argument("mn", nargs="*", metavar="PEER", help="address of the session's peer")
    move.add_argument("--all", action="store_true", help="all sessions that this node owns")
    move.add_argument("--to", required=True, metavar="NODE")
    _add_control(move)
    move.set_defaults(run=node.run_move, ahead=False)


def _add_control(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control", type=Path, default=CONTROL, help="the agent's socket (default %(default)s)")
    parser.add_argument("--json", action="store_true")


def run_linux(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or ``cxtp node stop``."""
    gateway = GatewayConfig(arguments.on_activated, arguments.on_released, arguments.namespace)
    config = replace(node.config_of(arguments), kernel=True, gateway=gateway)
    config.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(config, ready=lambda: print(f"{config.name} serves this kernel, and listens on {arguments.listen}", flush=True))
    return 0


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print them."""
    answer = node.ask(arguments, "gateway-sessions")
    if arguments.json:
        print_json(answer)
    else:
        print_table(COLUMNS, ([row[name] for name in COLUMNS] for row in answer["sessions"]))
        for item in answer["not_learned"]:
            print(f"left alone: {item['sa']}: {item['reason']}")
    return 0
