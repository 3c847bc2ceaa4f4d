"""``cxtp pki``: the cluster's authority and its nodes' certificates."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..pki import create_authority, create_node_certificate, describe
from .output import print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser("pki", help="make a cluster's authority and node certificates")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make the authority: ca.crt and ca.key")
    init.add_argument("directory", type=Path)
    init.add_argument("--name", default="cxtp cluster", help="the authority's name (default %(default)r)")
    init.add_argument("--days", type=int, default=3650, help="validity (default %(default)s)")
    init.set_defaults(run=run_init)

    node = actions.add_parser("node", help="make a node's certificate: NAME.crt and NAME.key")
    node.add_argument("directory", type=Path)
    node.add_argument("name", help="the node's name, as other nodes know it")
    node.add_argument("--address", action="append", default=[], help="an IP address of the node; repeat for more")
    node.add_argument("--days", type=int, default=365, help="validity (default %(default)s)")
    node.add_argument("--force", action="store_true", help="replace an existing certificate")
    node.set_defaults(run=run_node)

    show = actions.add_parser("show", help="list the certificates of a directory")
    show.add_argument("directory", type=Path)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=run_show)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def run_init(arguments: argparse.Namespace) -> int:
    """Make an authority."""
    paths = create_authority(arguments.directory, arguments.name, arguments.days, now=_now())
    print(paths.certificate)
    return 0


def run_node(arguments: argparse.Namespace) -> int:
    """Make a node's certificate."""
    paths = create_node_certificate(
        arguments.directory, arguments.name, arguments.address, arguments.days, now=_now(), force=arguments.force
    )
    print(paths.certificate)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """List what there is."""
    found = describe(arguments.directory)
    rows = [
        (c.path.name, c.node_name or c.subject, " ".join(map(str, c.addresses)), c.not_after.isoformat(), c.sha256)
        for c in found
    ]
    headings = ("file", "name", "addresses", "not_after", "sha256")
    if arguments.json:
        print_json([dict(zip(headings, row, strict=True)) for row in rows])
    else:
        print_table(headings, rows)
    return 0
