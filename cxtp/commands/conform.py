"""``cxtp conform``: does a trace, or a live peer, follow RFC 4067?"""

from __future__ import annotations

import argparse
import asyncio
import json
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..adapters.context_file import is_sealed, read_context_file
from ..config import Timers
from ..conformance.judge import judge_capture
from ..conformance.keys import read_keys
from ..conformance.live import ROLES, LiveConfig, Prober
from ..conformance.probes import PROBES
from ..conformance.records import Record
from ..conformance.reports import html_report, json_report, junit_report, text_report
from ..conformance.story import Case
from ..conformance.verdicts import Group, Level, Report
from ..constants import PORT
from ..dissect import Transport
from ..errors import ConfigurationError
from ..messages import IPAddress
from ..pki import node_paths
from ..transports.endpoint import Endpoint, Peer, Receiver, Router, parse_socket_address
from ..transports.icmp import IcmpEndpoint
from ..transports.sctp import SctpEndpoint
from ..transports.tls import TlsEndpoint
from ..transports.udp import UdpEndpoint
from .output import Progress, print_json
from .sealing import add_sealing, sealing

_PROGRESS_EVERY = 1000
_TIMERS = {
    "max_transfer_time": "CT_MAX_TRANSFER_TIME",
    "max_handover_time": "CT_MAX_HANDOVER_TIME",
    "request_retry": "CT_REQUEST_RETRY",
    "retry_max": "CT_RETRY_MAX",
}
_TRANSPORTS = {"udp": Transport.UDP, "sctp": Transport.SCTP, "tls": Transport.TCP, "icmp": Transport.ICMP}
RECORDS_DRAWN = 2000
"""Messages that an HTML report draws and decodes (ours: what a browser still shows quickly)."""


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "conform",
        help="judge a trace, or a live peer, by RFC 4067",
        description="Judge every CXTP message of a pcap or pcapng, or play the other roles against a live peer. "
        "Exits 1 where a MUST failed.",
    )
    command.add_argument("trace", type=Path, nargs="?", metavar="TRACE", help="pcap or pcapng")
    command.add_argument("--context", type=Path, action="append", default=[], metavar="FILE", help="a context file")
    command.add_argument(
        "--psk-file",
        type=Path,
        metavar="FILE",
        help="keys that mobile nodes share with their previous routers, one a line, in hexadecimal (mode 0600)",
    )
    command.add_argument("--format", choices=("text", "json", "junit", "html"), default="text")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the report there")
    command.add_argument(
        "--only", choices=[g.value for g in Group], action="append", default=[], help="this group; repeatable"
    )
    command.add_argument("--level", choices=("must", "should", "may"), default="may", help="rules that bind so much")
    command.add_argument("--on-the-wire", action="store_true", help="contexts in the clear were so between the hosts")
    command.add_argument("--all", action="store_true", help="text: name rules that passed as well")
    command.add_argument("--port", type=int, default=PORT, help="CXTP's port (default %(default)s)")
    command.add_argument(
        "--router",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a router that the others know; repeatable. Once one is named, all others must get nothing",
    )
    _add_timers(command)
    live = command.add_argument_group("a live peer, in place of TRACE")
    live.add_argument("--live", metavar="[NAME=]ADDRESS[:PORT]", help="the peer that is provoked")
    live.add_argument("--role", choices=ROLES, help="what the peer is")
    live.add_argument("--listen", metavar="ADDRESS[:PORT]", help="our address, a router's for the peer")
    live.add_argument("--transport", choices=("udp", "sctp", "tls", "icmp"), default="udp", help="default %(default)s")
    live.add_argument(
        "--mobile-transport", choices=("icmp", "udp"), help="what carries CTARs, where it is not --transport"
    )
    live.add_argument("--stranger", metavar="ADDRESS", help="an address of ours at which the peer knows no router")
    live.add_argument("--mn", metavar="ADDRESS", help="the mobile node; a previous router must have its session")
    live.add_argument("--pki", type=Path, help="TLS: the directory that 'cxtp pki' made")
    live.add_argument("--name", help="TLS: the name in our certificate")
    live.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a mobile node's CTAR")
    live.add_argument("--allow-cleartext-keys-on-the-network", action="store_true", help="UDP off loopback: in a lab")
    add_sealing(command, writing=False)
    command.set_defaults(run=run)


def _add_timers(command: argparse.ArgumentParser) -> None:
    timers = command.add_argument_group("times that the network is configured with, in seconds (RFC 4067, 4)")
    for name, text in _TIMERS.items():
        default = getattr(Timers(), name)
        timers.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=default, metavar="SECONDS", help=f"{text} ({default:g})"
        )


def timers_of(arguments: argparse.Namespace) -> Timers:
    """Raises ConfigurationError for a time that is none."""
    return Timers(**{name: getattr(arguments, name) for name in _TIMERS})


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is no IP address") from None


def case_of(arguments: argparse.Namespace) -> Case:
    """What the options give the judge."""
    keys = [] if arguments.psk_file is None else read_keys(arguments.psk_file)
    contexts = [
        context
        for path in arguments.context
        for session in read_context_file(path, sealing(arguments, ask=is_sealed(path)))
        for context in session.contexts
    ]
    return Case(
        timers=timers_of(arguments),
        keys=keys,
        contexts=contexts,
        on_the_wire=arguments.on_the_wire,
        routers=frozenset(map(_address, arguments.router)),
    )


def run(arguments: argparse.Namespace) -> int:
    """Judge, and print."""
    if (arguments.trace is None) == (arguments.live is None):
        raise ConfigurationError("give a TRACE to judge, or --live and a peer")
    if arguments.live is not None:
        return run_live(arguments)
    records: list[Record] = []
    progress = Progress()

    def seen(number: int) -> None:
        if not number % _PROGRESS_EVERY:
            progress.say(f"{number} packets")

    def watch(item: Record) -> None:
        if len(records) < RECORDS_DRAWN:
            records.append(item)

    try:
        report = judge_capture(
            arguments.trace,
            case_of(arguments),
            groups=[Group(name) for name in arguments.only],
            level=Level[arguments.level.upper()],
            port=arguments.port,
            progress=seen,
            watch=watch if arguments.format == "html" else None,
        )
    finally:
        progress.done()
    show(report, arguments, records)
    return 1 if report.failed(Level.MUST) else 0


def run_live(arguments: argparse.Namespace) -> int:
    """Provoke, judge, and print."""
    if not (arguments.role and arguments.listen and arguments.mn):
        raise ConfigurationError("--live needs --role, --listen and --mn")
    name, _, rest = arguments.live.rpartition("=")
    address, port = parse_socket_address(rest, 0 if arguments.role == "mobile-node" else arguments.port)
    own = parse_socket_address(arguments.listen, arguments.port)
    keys = [] if arguments.psk_file is None else read_keys(arguments.psk_file)
    router = Router(name or "peer", address, port or PORT)
    mobile, strange = arguments.mobile_transport, arguments.stranger

    def endpoint(transport: str, end: tuple[IPAddress, int], receiver: Receiver) -> Endpoint:
        return _endpoint(arguments, transport, end, router, receiver)

    config = LiveConfig(
        arguments.role,
        Peer(address, port, router.name, arguments.transport in ("sctp", "tls"), is_router=port != 0),
        own,
        _TRANSPORTS[arguments.transport],
        _address(arguments.mn),
        keys[0] if keys else b"",
        timers_of(arguments),
        patience=arguments.patience,
        mobile=mobile and (_TRANSPORTS[mobile], partial(endpoint, mobile, (own[0], 0))),
        stranger=strange and (_address(strange), partial(endpoint, arguments.transport, (_address(strange), own[1]))),
    )
    prober = Prober(config, partial(endpoint, arguments.transport, own))
    asyncio.run(prober.run(PROBES[arguments.role]))
    report = prober.report([Group(group) for group in arguments.only], Level[arguments.level.upper()])
    show(report, arguments, prober.records)
    return 1 if report.failed(Level.MUST) else 0


def _endpoint(
    arguments: argparse.Namespace, transport: str, own: tuple[IPAddress, int], router: Router, receiver: Receiver
) -> Endpoint:
    if transport == "icmp":
        return IcmpEndpoint(own[0], receiver)
    if transport == "sctp":
        return SctpEndpoint(own, [router], receiver)
    if transport == "udp":
        allowed = arguments.allow_cleartext_keys_on_the_network
        return UdpEndpoint(own, [router], receiver, allow_cleartext_keys_on_the_network=allowed)
    if arguments.pki is None or arguments.name is None:
        raise ConfigurationError("TLS needs certificates: give --pki and --name")
    return TlsEndpoint(own, [router], node_paths(arguments.pki, arguments.name), receiver)


def show(report: Report, arguments: argparse.Namespace, records: list[Record]) -> None:
    """Print the report, or write it where ``--output`` says."""
    if arguments.format == "json" and arguments.output is None:
        print_json(json_report(report))
        return
    text = _rendered(report, arguments, records)
    if arguments.output is None:
        print(text)
        return
    try:
        arguments.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{arguments.output} can't be written: {error.strerror}") from error


def _rendered(report: Report, arguments: argparse.Namespace, records: list[Record]) -> str:
    if arguments.format == "json":
        return json.dumps(json_report(report), indent=2)
    if arguments.format == "junit":
        return junit_report(report)
    if arguments.format == "html":
        return html_report(report, records)
    return text_report(report, everything=arguments.all)
