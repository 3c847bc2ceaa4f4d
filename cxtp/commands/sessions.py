"""``cxtp sessions``, ``move``, ``takeover``, ``drop-standby``: what a gateway's running agent is told to do."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..control import CommandFailed, ControlClient
from ..errors import ConfigurationError
from ..session_view import COLUMNS, IKE_COLUMNS
from .output import Progress, print_json, print_table

CONTROL = Path("/run/cxtp/control.sock")
AT_ONCE = 32
"""Sessions that are moved or taken over at the same time."""


def add(subparsers: Any) -> None:
    """Declare the commands."""
    sessions = subparsers.add_parser("sessions", help="the gateway's sessions", description="One line per SA pair.")
    _add_control(sessions, run_sessions)
    move = subparsers.add_parser("move", help="move sessions to another node")
    move.add_argument("mn", nargs="*", metavar="PEER", help="address of the session's peer")
    move.add_argument("--all", action="store_true", help="all sessions that this node owns")
    move.add_argument("--to", required=True, metavar="NODE")
    _add_control(move, run_move)
    move.set_defaults(ahead=False)
    _add_standby_command(
        subparsers, "takeover", run_takeover, "go on with the sessions of a node that is gone",
        "Take over the replicas that NODE has sent here.  Say it only of a node that is gone, or cut off: "
        "numbers are never used twice even so, but two gateways would answer the peer.",
    )  # fmt: skip
    _add_standby_command(
        subparsers, "drop-standby", run_drop_standby, "go on without a standby that is gone for good",
        "Sessions stop at the ceiling that their standby has confirmed.  This goes on without it: say it "
        "only where NODE will never take over the replicas that it has.",
    )  # fmt: skip


def _add_standby_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, description: str
) -> None:
    command = subparsers.add_parser(name, help=text, description=description)
    command.add_argument("node", metavar="NODE")
    _add_control(command, run)


def _add_control(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--control", type=Path, default=CONTROL, help="the agent's socket (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def ask(arguments: argparse.Namespace, command: str, **values: Any) -> dict[str, Any]:
    """One command to a running node.  Raises CommandFailed, TransportError."""

    async def main() -> dict[str, Any]:
        async with ControlClient(arguments.control) as client:
            return await client.ask(command, **values)

    return asyncio.run(main())


def run_move(arguments: argparse.Namespace) -> int:
    """Move them, all at once, and print each as it ends; 1 where one did not move."""
    return asyncio.run(_move_all(arguments))


async def _move_all(arguments: argparse.Namespace) -> int:
    progress = Progress()
    async with ControlClient(arguments.control) as client:
        addresses = list(arguments.mn)
        if arguments.all:
            sessions = (await client.ask("sessions"))["sessions"]
            addresses += [row["mn_address"] for row in sessions if row["state"] in ("owned", "frozen")]
    if not addresses:
        raise ConfigurationError("name the sessions to move, or say --all")
    at_once = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def move(mn_address: str) -> dict[str, Any]:
        nonlocal done
        async with at_once, ControlClient(arguments.control) as one:
            try:
                answer = {
                    "mn_address": mn_address,
                    "moved": True,
                    **await one.ask("move", mn_address=mn_address, to=arguments.to, ahead=arguments.ahead),
                }
            except CommandFailed as error:
                answer = {"mn_address": mn_address, "moved": False, "error": str(error)}
        done += 1
        progress.say(f"moved {done} of {len(addresses)}")
        return answer

    results = await asyncio.gather(*map(move, dict.fromkeys(addresses)))
    progress.done()
    if arguments.json:
        print_json({"moves": results, "ok": all(r["moved"] for r in results)})
    else:
        columns = ("mn_address", "moved", "contexts", "octets", "milliseconds", "error")
        print_table(columns, ([row.get(name) for name in columns] for row in results))
    return 0 if all(row["moved"] for row in results) else 1


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print them."""
    answer = ask(arguments, "gateway-sessions")
    if arguments.json:
        print_json(answer)
    else:
        print_table(COLUMNS, ([row[name] for name in COLUMNS] for row in answer["sessions"]))
        if answer["ike_sas"]:
            print()
            print_table(IKE_COLUMNS, ([row[name] for name in IKE_COLUMNS] for row in answer["ike_sas"]))
        for item in answer["not_learned"]:
            print(f"left alone: {item['sa']}: {item['reason']}")
    return 0


def run_takeover(arguments: argparse.Namespace) -> int:
    """Take over all replicas of a node, and print each; 1 where one could not be."""
    rows = ask(arguments, "gateway-sessions")["sessions"]
    mine = [row for row in rows if row["state"] == "replica" and row["owner"] == arguments.node]
    addresses = list(dict.fromkeys(row["peer"] for row in mine))
    results = asyncio.run(_take_over_all(arguments.control, addresses))
    if arguments.json:
        print_json({"sessions": results, "ok": all(result["taken"] for result in results)})
    else:
        columns = ("mn_address", "taken", "dropped", "ike_sas")
        lists = ("dropped", "ike_sas")
        print_table(columns, ([*map(r.get, columns[:2]), *("; ".join(r[n]) or None for n in lists)] for r in results))
        if not results:
            print(f"no replica of {arguments.node}'s is here")
    return 0 if results and all(result["taken"] for result in results) else 1


async def _take_over_all(control: Path, addresses: Sequence[str]) -> list[dict[str, Any]]:
    """Many at once: a peer that does not answer keeps no other session waiting."""
    progress, at_once = Progress(), asyncio.Semaphore(AT_ONCE)
    done = 0

    async def take_over(address: str) -> dict[str, Any]:
        nonlocal done
        async with at_once, ControlClient(control) as one:
            try:
                answer = await one.ask("takeover", mn_address=address)
            except CommandFailed as error:
                answer = {"mn_address": address, "taken": False, "dropped": [str(error)], "ike_sas": []}
        done += 1
        progress.say(f"taken over {done} of {len(addresses)}")
        return answer

    results = await asyncio.gather(*map(take_over, addresses))
    progress.done()
    return results


def run_drop_standby(arguments: argparse.Namespace) -> int:
    """Print the sessions that go on without it."""
    answer = ask(arguments, "drop-standby", node=arguments.node)
    if arguments.json:
        print_json(answer)
    else:
        print_table(("session",), ([address] for address in answer["mn_addresses"]))
    return 0
