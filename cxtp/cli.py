"""The ``cxtp`` command: wiring and exit codes only.

Exit codes: 0 done and well; 1 done, and the answer is no (something could not be opened, a file is not valid, a
move was refused); 2 wrong use; 3 it could not be done.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from . import __version__
from .commands import (
    check_path,
    conform,
    context,
    demo,
    dissect,
    gateway,
    keys,
    ladder,
    mobile_node,
    node,
    pcap,
    pki,
    wireshark,
)
from .errors import ConfigurationError, CxtpError

COMMANDS = (demo, dissect, conform, ladder, context, gateway, node, mobile_node, check_path, pki, wireshark, keys, pcap)


def parser() -> argparse.ArgumentParser:
    """All options of all commands."""
    top = argparse.ArgumentParser(
        prog="cxtp",
        description="Move live IKEv2 and IPsec sessions between VPN gateways (RFC 4067).",
    )
    top.add_argument("--version", action="version", version=f"cxtp {__version__}")
    top.add_argument("-v", "--verbose", action="count", default=0, help="say more on standard error; twice for all")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
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
