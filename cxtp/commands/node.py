"""``cxtp node``: run a node, and tell a running one what to do."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..service import run
from .output import print_json, print_table
from .run_options import add_run_options, config_of
from .sessions import ask, run_move


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


def run_node(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or ``cxtp node stop``."""
    config = replace(config_of(arguments), kernel=arguments.kernel)
    run(config, ready=lambda: print(f"{config.name} listens on {arguments.listen} ({config.transport})", flush=True))
    return 0


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
