"""The ``cxtp`` command: wiring and exit codes only.

Exit codes: 0 done and well; 1 done, and the answer is no (something could not be opened, a file is not valid, a
move was refused); 2 wrong use; 3 it could not be done.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .errors import ConfigurationError, CxtpError

COMMANDS = {
    "demo": "demo",
    "dissect": "dissect",
    "conform": "conform",
    "ladder": "ladder",
    "context": "context",
    "gateway": "gateway",
    "sessions": "sessions",
    "move": "sessions",
    "takeover": "sessions",
    "drop-standby": "sessions",
    "node": "node",
    "mobile-node": "mobile_node",
    "check-path": "check_path",
    "pki": "pki",
    "wireshark": "wireshark",
    "keys": "keys",
    "pcap": "pcap",
}
"""Each command's module in :mod:`cxtp.commands`.  Only the one that is asked for is imported: all of them, with the
libraries that each needs, take ten times as long as a question to a running node."""


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The options of one command, or of all."""
    top = argparse.ArgumentParser(
        prog="cxtp",
        description="Move live IKEv2 and IPsec sessions between VPN gateways (RFC 4067).",
    )
    top.add_argument("--version", action="version", version=f"cxtp {__version__}")
    top.add_argument("-v", "--verbose", action="count", default=0, help="say more on standard error; twice for all")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = [COMMANDS[command]] if command in COMMANDS else dict.fromkeys(COMMANDS.values())
    for module in modules:
        import_module(f"{__package__}.commands.{module}").add(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    arguments = parser(command).parse_args(words)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(arguments.verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        code: int = arguments.run(arguments)
        return code
    except ConfigurationError as error:
        print(f"cxtp: {error}", file=sys.stderr)
        return 2
    except CxtpError as error:
        print(f"cxtp: {error}", file=sys.stderr)
        return 3
    except BrokenPipeError:  # the reader of our output has gone: nothing more to say
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
