"""The options that every kind of node takes, and the configuration that they make."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from ..config import Limits, ProtocolConfig, Timers
from ..constants import PAYLOAD_PROTOCOL_IDENTIFIER
from ..errors import ConfigurationError
from ..messages import IPAddress
from ..private_files import read_private
from ..service import ServiceConfig
from ..transports.endpoint import Router, parse_socket_address

KERNEL_RESERVE = 1 << 22
"""Four seconds of a million packets per second; a thousandth of the sequence numbers without ESN."""

_KEYS_FILE_LIMIT = 16 * 1024 * 1024


def add_run_options(run_: argparse.ArgumentParser, state: Path | None = None, control: Path | None = None) -> None:
    """What every kind of node takes; ``state`` and ``control`` are its defaults."""
    run_.add_argument("--name", required=True, help="this node's name, as in its certificate")
    run_.add_argument("--listen", required=True, metavar="ADDRESS[:PORT]", help="port 5091 unless given")
    run_.add_argument(
        "--peer", action="append", default=[], metavar="NAME=ADDRESS[:PORT]", help="a router that we know; repeatable"
    )
    where = control or "control.sock in the state directory"
    run_.add_argument(
        "--state", type=Path, default=state, required=state is None, help="directory of the store and its key"
    )
    run_.add_argument("--control", type=Path, default=control, help=f"control socket (default: {where})")
    run_.add_argument("--transport", choices=("tls", "sctp", "udp"), default="tls", help="default %(default)s")
    run_.add_argument("--icmp", metavar="ADDRESS", help="take mobile nodes' requests by ICMP at this address too")
    run_.add_argument("--user", help="become this user once all sockets are open; its must be the state directory")
    run_.add_argument(
        "--payload-protocol-identifier",
        type=lambda text: int(text, 0),
        default=PAYLOAD_PROTOCOL_IDENTIFIER,
        metavar="N",
        help="SCTP's, which the peers must agree on (default %(default)#x)",
    )
    run_.add_argument("--pki", type=Path, help="directory that 'cxtp pki' made; needed for tls")
    run_.add_argument(
        "--allow-cleartext-keys-on-the-network",
        action="store_true",
        help="for a lab: let sctp, udp and icmp carry session keys even where ESP does not protect the path "
        "(cxtp check-path tells)",
    )
    run_.add_argument(
        "--sequence-reserve",
        type=int,
        default=KERNEL_RESERVE,
        metavar="N",
        help="in a kernel: packets that an SA may send beyond what is on disk (default %(default)s)",
    )
    run_.add_argument("--mobile-node-keys", type=Path, help='file (0600) of {"ADDRESS": "HEX"}: keys for tokens')
    run_.add_argument(
        "--capture-with-keys", type=Path, metavar="PCAP", help="write all messages in the clear: for a lab"
    )
    _add_limits(run_)


def _add_limits(run_: argparse.ArgumentParser) -> None:
    timers, limits = Timers(), Limits()
    run_.add_argument(
        "--max-transfer-time",
        type=float,
        default=timers.max_transfer_time,
        metavar="SECONDS",
        help="CT_MAX_TRANSFER_TIME (default %(default)s)",
    )
    run_.add_argument(
        "--max-handover-time",
        type=float,
        default=timers.max_handover_time,
        metavar="SECONDS",
        help="CT_MAX_HANDOVER_TIME (default %(default)s)",
    )
    run_.add_argument(
        "--request-rate",
        type=float,
        default=limits.request_rate,
        metavar="N",
        help="CT_REQUEST_RATE, CTARs per second (default %(default)s)",
    )
    run_.add_argument(
        "--octets-per-transfer",
        type=int,
        default=limits.octets_per_transfer,
        metavar="N",
        help="refuse larger transfers (default %(default)s)",
    )


def config_of(arguments: argparse.Namespace) -> ServiceConfig:
    """The options of :func:`add_run_options`.  Raises ConfigurationError."""
    timers = Timers(max_transfer_time=arguments.max_transfer_time, max_handover_time=arguments.max_handover_time)
    limits = replace(Limits(), request_rate=arguments.request_rate, octets_per_transfer=arguments.octets_per_transfer)
    return ServiceConfig(
        name=arguments.name,
        listen=parse_socket_address(arguments.listen),
        routers=tuple(map(Router.parse, arguments.peer)),
        state=arguments.state,
        control=arguments.control or arguments.state / "control.sock",
        transport=arguments.transport,
        icmp=None if arguments.icmp is None else parse_socket_address(arguments.icmp)[0],
        user=arguments.user,
        payload_protocol_identifier=arguments.payload_protocol_identifier,
        pki=arguments.pki,
        allow_cleartext_keys_on_the_network=arguments.allow_cleartext_keys_on_the_network,
        protocol=ProtocolConfig(timers=timers, limits=limits),
        mobile_node_keys=_mobile_node_keys(arguments.mobile_node_keys),
        capture=arguments.capture_with_keys,
        sequence_reserve=arguments.sequence_reserve,
    )


def _mobile_node_keys(path: Path | None) -> dict[IPAddress, bytes]:
    if path is None:
        return {}
    try:
        plain = json.loads(read_private(path, limit=_KEYS_FILE_LIMIT))
        return {ip_address(address): bytes.fromhex(key) for address, key in plain.items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(f'{path} should hold {{"ADDRESS": "HEX", ...}}') from None
