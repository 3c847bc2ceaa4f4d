"""``cxtp keys wireshark``: the keys of sessions, as Wireshark wants them."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext

from ..adapters.context_file import is_sealed, read_context_file
from ..adapters.strongswan_ha import read_ha_capture
from ..adapters.wireshark_tables import WiresharkTables, wireshark_tables
from ..demo import exports
from ..errors import ConfigurationError
from ..private_files import read_limited, write_private
from .output import print_json
from .sealing import add_sealing, sealing

PREFERENCES = (
    "esp.enable_encryption_decode: TRUE",
    "esp.enable_null_encryption_decode_heuristic: FALSE",
)
_LIMIT = 16 << 20
_TABLE_FAULT = re.compile(r"(ikev2_decryption_table|esp_sa):(\d+): (?:invalid value|More fields|.*error)")
"""As Wireshark 4.0 says it."""


def add(subparsers: Any) -> None:
    """Declare the command."""
    keys = subparsers.add_parser("keys", help="the keys of sessions, for other programs")
    programs = keys.add_subparsers(dest="program", required=True, metavar="PROGRAM")
    wireshark = programs.add_parser(
        "wireshark",
        help="ikev2_decryption_table and esp_sa",
        description="Write Wireshark's tables of IKEv2 and ESP keys into a profile's directory, mode 0600. Lines that "
        "are there already stay. Open the capture with that profile: wireshark -C PROFILE.",
    )
    wireshark.add_argument("files", nargs="*", type=Path, metavar="FILE", help="context files (cxtp context export)")
    wireshark.add_argument(
        "--trace", type=Path, action="append", default=[], metavar="DIR", help="a recording, with its ha.pcap"
    )
    wireshark.add_argument("-o", "--output", type=Path, required=True, metavar="PROFILE_DIR")
    wireshark.add_argument("--json", action="store_true")
    add_sealing(wireshark, writing=False)
    wireshark.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write them; 1 where Wireshark can't decrypt one of the SAs, or takes other tables than 4.0's."""
    if not arguments.files and not arguments.trace:
        raise ConfigurationError("no keys to write: name a context file, or a recording with --trace")
    tables = WiresharkTables()
    for session in sessions(arguments):
        more = wireshark_tables(c for c in session if isinstance(c, (IkeSaContext, IpsecSaContext)))
        tables.ikev2 += more.ikev2
        tables.esp += more.esp
        tables.withheld += more.withheld
    write(arguments.output, tables)
    refused = refused_lines(arguments.output)
    if arguments.json:
        result = {"ike_sas": len(tables.ikev2), "esp_sas": len(tables.esp), "withheld": tables.withheld,
                  "refused": refused}  # fmt: skip
        print_json({"directory": str(arguments.output), **result})
    else:
        print(f"{arguments.output}: keys of {len(tables.ikev2)} IKE_SAs and {len(tables.esp)} ESP SAs")
    for line in tables.withheld:
        print(line, file=sys.stderr)
    for place in refused:
        print(f"{place}: the installed Wireshark does not take this line", file=sys.stderr)
    return 1 if tables.withheld or refused else 0


def sessions(arguments: argparse.Namespace) -> Iterable[tuple[object, ...]]:
    """The contexts of each session that the options name."""
    for path in arguments.files:
        for item in read_context_file(path, sealing(arguments, ask=is_sealed(path))):
            yield item.contexts
    for trace in arguments.trace:
        captures = exports(trace)
        if not captures:
            raise ConfigurationError(f"{trace} should hold ha.pcap")
        for exported in read_ha_capture(*captures, keep_deleted=True).sessions():
            yield exported.contexts


def write(directory: Path, tables: WiresharkTables) -> None:
    """Add to what a profile has."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"can't make {directory}: {error.strerror}") from error
    for name, lines in (
        ("ikev2_decryption_table", tables.ikev2), ("esp_sa", tables.esp), ("preferences", PREFERENCES),
    ):  # fmt: skip
        path = directory / name
        there = read_limited(path, _LIMIT).decode("utf-8").splitlines() if path.exists() else []
        settings = {line.partition(":")[0] for line in there} if name == "preferences" else set()
        added = [line for line in dict.fromkeys(lines) if line not in there and line.partition(":")[0] not in settings]
        write_private(path, "".join(f"{line}\n" for line in [*there, *added]).encode(), replace=True)


def refused_lines(directory: Path) -> list[str]:
    """Table and line number of what the installed tshark refuses in a profile; nothing where there is no tshark.

    Its own words are not passed on: they may hold the value, which may be a key.
    """
    program = shutil.which("tshark")
    if program is None:
        return []
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(directory)}
    try:
        run = subprocess.run([program, "-G", "folders"], capture_output=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    said = run.stderr.decode("utf-8", "replace")
    return [f"{table}:{line}" for table, line in _TABLE_FAULT.findall(said)]
