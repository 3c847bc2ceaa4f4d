"""``cxtp check-path``: does ESP protect the path to a peer, and why not?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from ..adapters.xfrm import Algorithm, SecurityAssociation
from ..constants import PORT
from ..path_protection import Found, PathVerdict, Transport, check_path, icmp, sctp, udp
from ..transports.endpoint import parse_socket_address
from .mobile_node import local_address
from .output import print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "check-path",
        help="does ESP protect the path to a peer?",
        description="Ask the kernel whether ESP in transport mode, with encryption, integrity and anti-replay, "
        "protects CXTP to and from a peer (RFC 4067, 6.2). Exit status: 0 it does, 1 it does not, 3 the kernel "
        "can't be asked.",
    )
    command.add_argument("peer", metavar="PEER[:PORT]", help="the router's, or mobile node's, address")
    command.add_argument("--local", metavar="ADDRESS[:PORT]", help="ours (default: that of the route)")
    command.add_argument("--transport", choices=("sctp", "udp", "icmp"), default="sctp", help="default %(default)s")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=run)


_TRANSPORTS: dict[str, Callable[[int, int, int], Transport]] = {
    "sctp": lambda version, local, remote: sctp(local, remote),
    "udp": lambda version, local, remote: udp(local, remote),
    "icmp": lambda version, local, remote: icmp(version),
}


def run(arguments: argparse.Namespace) -> int:
    """One question."""
    remote, remote_port = parse_socket_address(arguments.peer)
    local, local_port = (
        parse_socket_address(arguments.local) if arguments.local else (local_address(remote), PORT)
    )
    transport = _TRANSPORTS[arguments.transport](remote.version, local_port, remote_port)
    verdict = check_path(local, remote, transport)
    if arguments.json:
        print_json(_as_json(verdict))
    else:
        print(f"{verdict.transport.name} between {local} and {remote}")
        print_table(("direction", "policy", "SA", "algorithms", "window"), _rows(verdict))
        for reason in verdict.reasons:
            print(f"not protected: {reason}")
        if verdict.is_protected:
            print("protected")
    return 0 if verdict.is_protected else 1


def _rows(verdict: PathVerdict) -> Iterator[tuple[object, ...]]:
    for found in verdict.found:
        policy = _policy(found)
        if not found.associations:
            yield found.direction.name.lower(), policy, None, None, None
        for sa in found.associations:
            algorithms = "/".join(algorithm.name for algorithm in _algorithms(sa))
            yield found.direction.name.lower(), policy, f"{sa.spi:08x}", algorithms, sa.replay_window


def _algorithms(sa: SecurityAssociation) -> list[Algorithm]:
    return [algorithm for algorithm in (sa.aead, sa.encryption, sa.authentication) if algorithm]


def _name(algorithm: Algorithm | None) -> str:
    return algorithm.name if algorithm else ""


def _policy(found: Found) -> str | None:
    return None if found.policy is None else f"{found.policy.selector} priority {found.policy.priority}"


def _as_json(verdict: PathVerdict) -> dict[str, Any]:
    return {
        "transport": verdict.transport.name,
        "local": str(verdict.local),
        "remote": str(verdict.remote),
        "protected": verdict.is_protected,
        "reasons": list(verdict.reasons),
        "found": [
            {
                "direction": found.direction.name.lower(),
                "policy": _policy(found),
                "associations": [
                    {
                        "spi": f"{sa.spi:08x}",
                        "encryption": _name(sa.aead or sa.encryption),
                        "authentication": _name(sa.aead or sa.authentication),
                        "replay_window": sa.replay_window,
                    }
                    for sa in found.associations
                ],
            }
            for found in verdict.found
        ],
    }
