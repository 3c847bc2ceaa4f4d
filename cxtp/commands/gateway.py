"""``cxtp gateway``: an agent beside the kernel or a strongSwan; ``cxtp sessions`` and ``cxtp move`` talk to it
(:mod:`.sessions`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..gateway import GatewayConfig, StrongswanConfig
from ..service import run
from ..strongswan_config import DAEMON_ADDRESS, NODE_ADDRESS, VICI_SOCKET, StrongswanSettings, strongswan_conf
from .run_options import add_run_options, config_of
from .sessions import CONTROL

STATE = Path("/var/lib/cxtp")
TRANSFER_TIME = 5.0
"""Seconds, CT_MAX_TRANSFER_TIME beside a daemon."""


def add(subparsers: Any) -> None:
    """Declare the command."""
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


def _add_gateway_options(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser, state=STATE, control=CONTROL)
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
    config = replace(config_of(arguments), kernel=True, gateway=gateway)
    config.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(config, ready=lambda: print(f"{config.name} serves {served}, and listens on {arguments.listen}", flush=True))
    return 0
