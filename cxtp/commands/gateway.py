"""``cxtp gateway``: an agent beside the kernel or a strongSwan; ``cxtp sessions`` and ``cxtp move`` talk to it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from ..control import CommandFailed, ControlClient
from ..errors import ConfigurationError
from ..gateway import GatewayConfig, StrongswanConfig
from ..service import run
from ..session_view import COLUMNS, IKE_COLUMNS
from ..strongswan_config import DAEMON_ADDRESS, NODE_ADDRESS, VICI_SOCKET, StrongswanSettings, strongswan_conf
from . import node
from .output import Progress, print_json, print_table

STATE = Path("/var/lib/cxtp")
CONTROL = Path("/run/cxtp/control.sock")
AT_ONCE = 32
"""Sessions that are taken over at the same time."""

TRANSFER_TIME = 5.0
"""Seconds, CT_MAX_TRANSFER_TIME beside a daemon."""


def add(subparsers: Any) -> None:
    """Declare the commands."""
    _add_linux(subparsers)
    _add_standby_commands(subparsers)
    sessions = subparsers.add_parser("sessions", help="the gateway's sessions", description="One line per SA pair.")
    _add_control(sessions)
    sessions.set_defaults(run=run_sessions)

    move = subparsers.add_parser("move", help="move sessions to another node")
    move.add_argument("mn", nargs="*", metavar="PEER", help="address of the session's peer")
    move.add_argument("--all", action="store_true", help="all sessions that this node owns")
    move.add_argument("--to", required=True, metavar="NODE")
    _add_control(move)
    move.set_defaults(run=node.run_move, ahead=False)


def _add_linux(subparsers: Any) -> None:
    gateway = subparsers.add_parser("gateway", help="an agent beside a gateway's kernel")
    kinds = gateway.add_subparsers(dest="kind", required=True, metavar="KIND")
    linux = kinds.add_parser(
        "linux",
        help="beside Linux's IPsec, whoever negotiates the keys",
        description="Learn the kernel's ESP and AH sessions, follow them, and move them to other nodes.",
    )
    _add_gateway_options(linux)
    linux.set_defaults(run=run_linux)
    strongswan = kinds.add_parser(
        "strongswan",
        help="beside a strongSwan daemon, IKE_SAs and all",
        description="Learn the sessions of strongSwan's charon over its plugin ha, follow them, and move them to nodes "
        "beside other daemons.  --print-config prints what strongSwan needs for that.",
    )
    _add_gateway_options(strongswan)
    _add_strongswan_options(strongswan)
    strongswan.set_defaults(run=run_strongswan)


def _add_standby_commands(subparsers: Any) -> None:
    takeover = subparsers.add_parser(
        "takeover",
        help="go on with the sessions of a node that is gone",
        description="Take over the replicas that NODE has sent here.  Say it only of a node that is gone, or cut off: "
        "numbers are never used twice even so, but two gateways would answer the peer.",
    )
    takeover.add_argument("node", metavar="NODE")
    _add_control(takeover)
    takeover.set_defaults(run=run_takeover)

    drop = subparsers.add_parser(
        "drop-standby",
        help="go on without a standby that is gone for good",
        description="Sessions stop at the ceiling that their standby has confirmed.  This goes on without it: say it "
        "only where NODE will never take over the replicas that it has.",
    )
    drop.add_argument("node", metavar="NODE")
    _add_control(drop)
    drop.set_defaults(run=run_drop_standby)


def _add_gateway_options(parser: argparse.ArgumentParser) -> None:
    node.add_run_options(parser, state=STATE, control=CONTROL)
    parser.add_argument(
        "--on-activated", type=Path, metavar="EXECUTABLE", help="run when a session came; it gets it as JSON"
    )
    parser.add_argument(
        "--on-releasing",
        type=Path,
        metavar="EXECUTABLE",
        help="run before one leaves, which waits until this has ended: here its traffic can be held",
    )
    parser.add_argument(
        "--on-released",
        type=Path,
        metavar="EXECUTABLE",
        help="run when one has gone; its traffic is blocked until this has ended",
    )
    parser.add_argument(
        "--namespace", metavar="NAME", help="the network namespace whose kernel state is meant (ip netns), if not ours"
    )
    parser.add_argument(
        "--standby", metavar="NODE", help="keep a replica of every session there, to be taken over if this node is gone"
    )
    parser.add_argument(
        "--replica-interval", type=float, default=1.0, metavar="SECONDS", help="how old a replica gets (default 1)"
    )
    parser.add_argument(
        "--replica-packets", type=int, default=1000, metavar="N",
        help="packets of an SA after which its replica is sent anew, if that is sooner (default 1000)",
    )  # fmt: skip


def _add_strongswan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-config", action=_PrintConfig, help="print strongSwan's part of the configuration, with its reasons"
    )
    parser.add_argument(
        "--vici", type=Path, default=Path(VICI_SOCKET), help="the daemon's control socket (default %(default)s)"
    )
    parser.add_argument(
        "--ha-node", type=ip_address, default=NODE_ADDRESS, metavar="ADDRESS",
        help="our end of the ha link (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ha-daemon", type=ip_address, default=DAEMON_ADDRESS, metavar="ADDRESS",
        help="the daemon's end (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pool", action="append", default=[], metavar="NAME=NETWORK", help="for --print-config: virtual addresses"
    )
    # A daemon needs longer than a kernel: it derives the keys anew.
    parser.set_defaults(max_transfer_time=TRANSFER_TIME)


class _PrintConfig(argparse.Action):
    """As --help does: whatever else is missing, it is printed, and that is all."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        pools = dict(item.split("=", 1) for item in namespace.pool if "=" in item)
        try:
            settings = StrongswanSettings(
                IPv4Address(str(namespace.ha_daemon)),
                IPv4Address(str(namespace.ha_node)),
                {name: ip_network(network) for name, network in pools.items()},
                namespace.vici,
            )
        except (ValueError, ConfigurationError) as error:
            parser.error(str(error))
        print(strongswan_conf(settings), end="")
        parser.exit(0)


def _add_control(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control", type=Path, default=CONTROL, help="the agent's socket (default %(default)s)")
    parser.add_argument("--json", action="store_true")


def run_linux(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or ``cxtp node stop``."""
    return _run(arguments, None, "this kernel")


def run_strongswan(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or ``cxtp node stop``."""
    strongswan = StrongswanConfig(arguments.vici, arguments.ha_node, arguments.ha_daemon)
    return _run(arguments, strongswan, f"strongSwan at {arguments.vici}")


def _run(arguments: argparse.Namespace, strongswan: StrongswanConfig | None, served: str) -> int:
    gateway = GatewayConfig(
        arguments.on_activated,
        arguments.on_released,
        arguments.namespace,
        arguments.standby,
        arguments.replica_interval,
        arguments.replica_packets,
        arguments.on_releasing,
        strongswan,
    )
    config = replace(node.config_of(arguments), kernel=True, gateway=gateway)
    config.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(config, ready=lambda: print(f"{config.name} serves {served}, and listens on {arguments.listen}", flush=True))
    return 0


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print them."""
    answer = node.ask(arguments, "gateway-sessions")
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
    rows = node.ask(arguments, "gateway-sessions")["sessions"]
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
    answer = node.ask(arguments, "drop-standby", node=arguments.node)
    if arguments.json:
        print_json(answer)
    else:
        print_table(("session",), ([address] for address in answer["mn_addresses"]))
    return 0
