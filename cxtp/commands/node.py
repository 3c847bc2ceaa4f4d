"""``cxtp node``: run a node, and tell a running one what to do."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..config import Limits, ProtocolConfig, Timers
from ..constants import PAYLOAD_PROTOCOL_IDENTIFIER
from ..control import CommandFailed, ControlClient
from ..errors import ConfigurationError
from ..messages import IPAddress
from ..private_files import read_private
from ..service import ServiceConfig, run
from ..transports.endpoint import Router, parse_socket_address
from .output import Progress, print_json, print_table

KERNEL_RESERVE = 1 << 22
"""Four seconds of a million packets per second; a thousandth of the sequence numbers without ESN."""

_KEYS_FILE_LIMIT = 16 * 1024 * 1024


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser("node", help="run a node, and tell a running one what to do")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_run(actions)

    status = _add_client(actions, "status", run_status, "counters of a node")
    status.add_argument("--json", action="store_true")
    sessions = _add_client(actions, "sessions", run_sessions, "the sessions of a node")
    sessions.add_argument("--json", action="store_true")

    load = _add_client(actions, "load-ha", run_load_ha, "take sessions from captures of strongSwan's ha messages")
    load.add_argument("captures", type=Path, nargs="+", metavar="PCAP")
    load.add_argument("--keep-deleted", action="store_true", help="each SA as it stood while it lived")
    load.add_argument("--key-case", type=int, choices=(1, 2, 3), default=1, help="how keys are carried (default 1)")

    move = _add_client(actions, "move", run_move, "give sessions to another node")
    move.add_argument("mn", nargs="*", metavar="ADDRESS", help="the session's mobile node (the VPN peer)")
    move.add_argument("--all", action="store_true", help="all sessions that this node owns")
    move.add_argument("--to", required=True, metavar="NODE")
    move.add_argument("--ahead", action="store_true", help="to wait there until its mobile node comes (RFC 4067, 5.1)")
    move.add_argument("--json", action="store_true")

    request = _add_client(actions, "request", run_request, "ask another node for a session")
    request.add_argument("mn", metavar="ADDRESS")
    request.add_argument("--from", dest="source", required=True, metavar="NODE")

    forget = _add_client(actions, "forget", run_forget, "delete a session's contexts from a node")
    forget.add_argument("mn", metavar="ADDRESS")
    forget.add_argument(
        "--frozen", action="store_true", help="even while its move is in doubt: another node is seen to have it"
    )

    prove = _add_client(actions, "prove", run_prove, "open what a capture holds of a session with its contexts")
    prove.add_argument("mn", metavar="ADDRESS")
    prove.add_argument("capture", type=Path, metavar="PCAP")
    prove.add_argument("--keys", type=Path, help="a keys.json to compare with")
    prove.add_argument("--json", action="store_true")

    _add_client(actions, "stop", run_stop, "stop a node")


def _add_client(actions: Any, name: str, handler: Any, text: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text.capitalize() + ".")
    action.add_argument("--control", type=Path, required=True, help="the node's control socket")
    action.set_defaults(run=handler)
    return action


def _add_run(actions: Any) -> None:
    run_ = actions.add_parser("run", help="run a node until it is told to stop")
    add_run_options(run_)
    run_.add_argument(
        "--kernel",
        action="store_true",
        help="use the sessions that this node owns in this machine's kernel (root or CAP_NET_ADMIN)",
    )
    run_.set_defaults(run=run_node)


def add_run_options(run_: argparse.ArgumentParser, state: Path | None = None, control: Path | None = None) -> None:
    """What every kind of node takes; ``state`` and ``control`` are its defaults."""
    timers, limits = Timers(), Limits()
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
    run_.add_argument(
        "--capture-with-keys", type=Path, metavar="PCAP", help="write all messages in the clear: for a lab"
    )


def run_node(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or ``cxtp node stop``."""
    config = replace(config_of(arguments), kernel=arguments.kernel)
    run(config, ready=lambda: print(f"{config.name} listens on {arguments.listen} ({config.transport})", flush=True))
    return 0


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


def ask(arguments: argparse.Namespace, command: str, **values: Any) -> dict[str, Any]:
    """One command to a running node.  Raises CommandFailed, TransportError."""

    async def main() -> dict[str, Any]:
        async with ControlClient(arguments.control) as client:
            return await client.ask(command, **values)

    return asyncio.run(main())


def run_status(arguments: argparse.Namespace) -> int:
    """Print the counters."""
    answer = ask(arguments, "status")
    if arguments.json:
        print_json(answer)
    else:
        print(f"{answer['name']} over {answer['transport']}: {answer['sessions']} sessions")
        print_table(("counter", "value"), answer["counters"].items())
    return 0


_SESSION_COLUMNS = ("mn_address", "state", "generation", "peer", "contexts", "octets", "suite")


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print the sessions."""
    answer = ask(arguments, "sessions")
    _print_sessions(answer, arguments.json)
    return 0


def _print_sessions(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print_table(_SESSION_COLUMNS, ([row[name] for name in _SESSION_COLUMNS] for row in answer["sessions"]))


def run_load_ha(arguments: argparse.Namespace) -> int:
    """Load and print them."""
    captures = [str(path.absolute()) for path in arguments.captures]
    answer = ask(
        arguments, "load-ha", captures=captures, keep_deleted=arguments.keep_deleted, key_case=arguments.key_case
    )
    _print_sessions(answer, False)
    for report in answer["reports"]:
        print(f"  not applied: {report}")
    for report in answer["withheld"]:
        print(f"  left out: {report}")
    return 0


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
    at_once = asyncio.Semaphore(32)
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


def run_request(arguments: argparse.Namespace) -> int:
    """Ask; the session comes in its own time."""
    ask(arguments, "request", mn_address=arguments.mn, **{"from": arguments.source})
    return 0


def run_forget(arguments: argparse.Namespace) -> int:
    """Delete."""
    ask(arguments, "forget", mn_address=arguments.mn, frozen=arguments.frozen)
    return 0


def run_prove(arguments: argparse.Namespace) -> int:
    """Open the capture; 1 where a packet could not be opened or a key differs."""
    keys = None if arguments.keys is None else str(arguments.keys.absolute())
    answer = ask(arguments, "prove", mn_address=arguments.mn, capture=str(arguments.capture.absolute()), keys=keys)
    if arguments.json:
        print_json(answer)
    else:
        kinds = sorted(answer["seen"])
        print_table(("kind", "seen", "opened"), ([k, answer["seen"][k], answer["opened"].get(k, 0)] for k in kinds))
        for failure in answer["failures"]:
            print(failure)
    return 0 if answer["seen"] == answer["opened"] and answer["keys_match"] is not False else 1


def run_stop(arguments: argparse.Namespace) -> int:
    """Stop the node."""
    ask(arguments, "stop")
    return 0
