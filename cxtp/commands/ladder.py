"""``cxtp ladder``: the exchange in a capture as a diagram."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from ..conformance.ladder import ladder_html, ladder_svg, ladder_text
from ..conformance.records import read_records
from ..constants import PORT
from ..errors import ConfigurationError


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "ladder",
        help="draw the exchange in a pcap or pcapng",
        description="Draw who sent which CXTP message to whom: in the terminal, or as SVG or HTML.",
    )
    command.add_argument("file", type=Path, metavar="TRACE", help="pcap or pcapng")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="a new .svg or .html")
    command.add_argument("--limit", type=int, default=2000, help="messages drawn (default %(default)s)")
    command.add_argument("--port", type=int, default=PORT, help="CXTP's port (default %(default)s)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw it."""
    draw = {None: ladder_text, ".svg": ladder_svg, ".html": ladder_html}.get(
        arguments.output.suffix.lower() if arguments.output else None
    )
    if draw is None:
        raise ConfigurationError(f"{arguments.output}: a ladder is written as .svg or .html")
    records = list(islice(read_records(arguments.file, arguments.port), arguments.limit))
    drawn = draw(records)
    if arguments.output is None:
        print(drawn)
        return 0
    try:
        arguments.output.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{arguments.output} can't be written: {error.strerror}") from error
    return 0
