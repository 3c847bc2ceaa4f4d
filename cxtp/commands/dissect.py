"""``cxtp dissect``: every CXTP message of a capture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..constants import PORT
from ..dissect import plain_sighting, sightings, text_sighting
from .output import print_json


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "dissect",
        help="show every CXTP message of a pcap or pcapng",
        description="Show every CXTP message of a capture: UDP, TCP (cleartext), SCTP and ICMP, contexts decoded. "
        "Exits 1 where something on CXTP's port is no message.",
    )
    command.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng")
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.add_argument("--show-keys", action="store_true", help="show session keys as well")
    command.add_argument("--port", type=int, default=PORT, help="CXTP's UDP, TCP and SCTP port (default %(default)s)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print them."""
    found = sightings(arguments.file, arguments.port)
    malformed = 0
    if arguments.json:
        plain = []
        for sighting in found:
            malformed += sighting.message is None
            plain.append(plain_sighting(sighting, show_keys=arguments.show_keys))
        print_json({"messages": plain})
    else:
        for sighting in found:
            malformed += sighting.message is None
            print(text_sighting(sighting, show_keys=arguments.show_keys))
    return 1 if malformed else 0
