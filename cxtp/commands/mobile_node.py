"""``cxtp mobile-node``: ask, as a mobile node does, that its contexts follow it."""

from __future__ import annotations

import argparse
import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..config import ProtocolConfig, Timers
from ..constants import PORT, StatusCode
from ..errors import ConfigurationError
from ..messages import ContextRequest, ContextStatus, IPAddress
from ..mobile import Activation, MobileNodeClient
from ..private_files import read_private
from ..transports.endpoint import Endpoint, Receiver, parse_socket_address
from ..transports.icmp import IcmpEndpoint
from ..transports.udp import UdpEndpoint
from .output import print_json, print_table

_KEY_LIMIT = 4096


def add(subparsers: Any) -> None:
    """Declare the command."""
    timers = Timers()
    command = subparsers.add_parser(
        "mobile-node",
        help="ask, as a mobile node, that its contexts follow it to a new router",
        description="Send a CTAR to the new router (and, with --predictive, to the previous one); wait for the answer. "
        "Exit status: 0 all was transferred, 1 something was not, or nobody answered.",
    )
    command.add_argument("--previous-address", required=True, metavar="ADDRESS", help="that the session is known by")
    command.add_argument("--previous-router", required=True, metavar="ADDRESS")
    command.add_argument("--new-router", required=True, metavar="ADDRESS")
    command.add_argument(
        "--key-file", type=Path, required=True, help="file (0600) with the key shared with the previous router, in hex"
    )
    command.add_argument("--transport", choices=("icmp", "udp"), default="icmp", help="default %(default)s")
    command.add_argument("--listen", metavar="ADDRESS[:PORT]", help="our address (default: that of the route)")
    command.add_argument("--port", type=int, default=PORT, help="the routers' UDP port (default %(default)s)")
    command.add_argument("--predictive", action="store_true", help="ahead of the move: ask the previous router too")
    command.add_argument("--no-acknowledge", action="store_true", help="ask for no answer, and wait for none")
    command.add_argument(
        "--request", type=lambda text: int(text, 0), action="append", default=[], metavar="TYPE",
        help="a context type to transfer, such as 0xff01; repeatable (default: all)",
    )  # fmt: skip
    command.add_argument(
        "--retry", type=float, default=timers.request_retry, metavar="SECONDS",
        help="CT_REQUEST_RETRY, the first wait before it is repeated (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--retry-max", type=float, default=timers.retry_max, metavar="SECONDS",
        help="CT_RETRY_MAX, when to give up (default %(default)s)",
    )  # fmt: skip
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """One activation."""
    activation = asyncio.run(_activate(arguments))
    if arguments.json:
        print_json(_as_json(activation))
    else:
        _print(activation)
    return 0 if activation.is_complete else 1


async def _activate(arguments: argparse.Namespace) -> Activation:
    new_router = ip_address_of(arguments.new_router)
    listen, port = _listen(arguments.listen, new_router)
    timers = replace(Timers(), request_retry=arguments.retry, retry_max=arguments.retry_max)

    def make_endpoint(receiver: Receiver) -> Endpoint:
        if arguments.transport == "icmp":
            return IcmpEndpoint(listen, receiver)
        # A CTAR holds a token and no key: it may cross a network in the clear (RFC 4067, 3.2).
        return UdpEndpoint((listen, port), [], receiver, allow_cleartext_keys_on_the_network=True)

    client = MobileNodeClient(make_endpoint, ProtocolConfig(timers=timers), port=arguments.port)
    await client.start()
    try:
        return await client.activate(
            ip_address_of(arguments.previous_address),
            ip_address_of(arguments.previous_router),
            new_router,
            _key(arguments.key_file),
            [ContextRequest(number) for number in arguments.request],
            predictive=arguments.predictive,
            acknowledge=not arguments.no_acknowledge,
        )
    finally:
        await client.close()


def ip_address_of(text: str) -> IPAddress:
    """Raises ConfigurationError for what is none."""
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is no IP address") from None


def _listen(text: str | None, towards: IPAddress) -> tuple[IPAddress, int]:
    if text is not None:
        return parse_socket_address(text, 0)
    return local_address(towards), 0


def local_address(towards: IPAddress) -> IPAddress:
    """Ours, on the route to an address.  Raises ConfigurationError where there is no route."""
    family = socket.AF_INET if towards.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(towards), PORT))  # sends nothing: it asks for the route
        except OSError as error:
            raise ConfigurationError(f"no route to {towards}: {error.strerror}; say our address") from error
        return ip_address(sock.getsockname()[0])


def _key(path: Path) -> bytes:
    text = read_private(path, _KEY_LIMIT)
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ConfigurationError(f"{path} holds no key in hexadecimal digits") from None
    if not key:
        raise ConfigurationError(f"{path} holds an empty key")
    return key


def _print(activation: Activation) -> None:
    rows = [
        (f"{rung.at:.3f}", "->" if rung.outgoing else "<-", rung.router, rung.message.short_name)
        for rung in activation.ladder
    ]
    print_table(("seconds", "", "router", "message"), rows)
    for router, status in activation.statuses:
        print(f"{router}: not transferred: {_describe(status)}")
    if activation.answered is False:
        print("the new router gave no answer")
    elif activation.is_complete and activation.answered:
        print("transferred")


def _as_json(activation: Activation) -> dict[str, Any]:
    return {
        "sequence_number": activation.sequence_number,
        "answered": activation.answered,
        "complete": activation.is_complete,
        "not_transferred": [
            {"router": str(router), "type": status.feature_profile_type, "status": status.status}
            for router, status in activation.statuses
        ],
        "ladder": [
            {
                "seconds": round(rung.at, 6),
                "outgoing": rung.outgoing,
                "router": str(rung.router),
                "message": rung.message.short_name,
            }
            for rung in activation.ladder
        ],
    }


def _describe(status: ContextStatus) -> str:
    known = status.status in StatusCode._value2member_map_
    name = StatusCode(status.status).name if known else f"status {status.status:#04x}"
    what = f"context type {status.feature_profile_type:#06x}" if status.feature_profile_type else "all contexts"
    return f"{what}: {name}"
