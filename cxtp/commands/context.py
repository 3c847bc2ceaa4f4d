"""``cxtp context``: sessions in files, sealed so that they may travel (the seed draft's SCP session)."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from contexts.key_cases import with_key_case
from contexts.presentation import describe, to_plain

from ..adapters.context_file import (
    FileSession,
    is_sealed,
    read_context_file,
    validate_context_file,
    write_context_file,
)
from ..adapters.context_file_seal import KeyFile, Passphrase, Unseal
from ..adapters.strongswan_ha import read_ha_capture
from ..control import ControlClient
from ..errors import ConfigurationError
from ..proof import suite_of
from .output import print_json, print_table
from .sealing import add_sealing, sealing


def add(subparsers: Any) -> None:
    """Declare the command."""
    command = subparsers.add_parser("context", help="show, export, import and validate context files")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")

    show = actions.add_parser("show", help="what a context file holds")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true")
    show.add_argument("--show-keys", action="store_true", help="show session keys as well")
    add_sealing(show, writing=False)
    show.set_defaults(run=run_show)

    export = actions.add_parser(
        "export",
        help="write sessions to a context file",
        description="Write a running node's sessions, or those in captures of strongSwan's ha messages, to a file. "
        "A node keeps what it exports.",
    )
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument("--control", type=Path, help="the control socket of a running node")
    source.add_argument("--ha", type=Path, nargs="+", metavar="PCAP", help="captures of strongSwan's ha messages")
    export.add_argument("--keep-deleted", action="store_true", help="with --ha: each SA as it stood while it lived")
    export.add_argument("--key-case", type=int, choices=(1, 2, 3), default=1, help="with --ha: how keys are carried")
    export.add_argument("--mn", action="append", default=[], metavar="ADDRESS", help="this session alone; repeatable")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    add_sealing(export, writing=True)
    export.set_defaults(run=run_export)

    import_ = actions.add_parser("import", help="give a context file's sessions to a running node")
    import_.add_argument("file", type=Path)
    import_.add_argument("--control", type=Path, required=True, help="the node's control socket")
    add_sealing(import_, writing=False)
    import_.set_defaults(run=run_import)

    validate = actions.add_parser("validate", help="check a context file against its schema")
    validate.add_argument("file", type=Path)
    validate.add_argument("--json", action="store_true")
    add_sealing(validate, writing=False)
    validate.set_defaults(run=run_validate)


def run_show(arguments: argparse.Namespace) -> int:
    """Print the sessions."""
    sessions = read_context_file(arguments.file, sealing(arguments, ask=is_sealed(arguments.file)))
    if arguments.json:
        print_json(
            {
                "sessions": [
                    {
                        "mn_address": str(session.mn_address),
                        "contexts": [to_plain(c, show_keys=arguments.show_keys) for c in session.contexts],
                    }
                    for session in sessions
                ]
            }
        )
        return 0
    for session in sessions:
        print(f"{session.mn_address}  {suite_of(session.contexts)}")
        for context in session.contexts:
            print(f"  {context.name}")
            rows = describe(context)
            if arguments.show_keys:
                rows = [(name, str(value)) for name, value in to_plain(context, show_keys=True).items()]
            for label, value in rows:
                print(f"    {label}: {value}")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write them."""
    seal = sealing(arguments, ask=not arguments.plaintext_keys)
    if arguments.control is not None:
        answer = asyncio.run(
            _ask(
                arguments.control,
                "export",
                file=str(arguments.output.absolute()),
                mn_addresses=arguments.mn,
                plaintext_keys=arguments.plaintext_keys,
                **_seal_arguments(seal),
            )
        )
        rows = [(row["mn_address"], row["contexts"], row["suite"]) for row in answer["sessions"]]
    else:
        tracker = read_ha_capture(*arguments.ha, keep_deleted=arguments.keep_deleted)
        sessions = [
            FileSession(session.mn_address, with_key_case(session.contexts, arguments.key_case))
            for session in tracker.sessions()
            if not arguments.mn or str(session.mn_address) in arguments.mn
        ]
        if not sessions:
            raise ConfigurationError("the captures hold no session that could be exported")
        write_context_file(arguments.output, sessions, seal, arguments.plaintext_keys)
        rows = [(str(s.mn_address), len(s.contexts), suite_of(s.contexts)) for s in sessions]
    print_table(("session", "contexts", "suite"), rows)
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """Send them to the node."""
    seal = sealing(arguments, ask=is_sealed(arguments.file))
    answer = asyncio.run(
        _ask(arguments.control, "import", file=str(arguments.file.absolute()), **_seal_arguments(seal))
    )
    rows = [(row["mn_address"], row["contexts"], row["suite"]) for row in answer["sessions"]]
    print_table(("session", "contexts", "suite"), rows)
    return 0


def run_validate(arguments: argparse.Namespace) -> int:
    """Print what is wrong; 0 for a valid file, 1 for another."""
    findings = validate_context_file(arguments.file, sealing(arguments, ask=False))
    if arguments.json:
        plain = [{"kind": f.kind.value, "path": f.path, "message": f.message, "sealed": f.sealed} for f in findings]
        print_json({"valid": not findings, "findings": plain})
    else:
        for finding in findings:
            print(finding)
        print("not valid" if findings else "valid")
    return 1 if findings else 0


def _seal_arguments(seal: Unseal | None) -> dict[str, str]:
    if isinstance(seal, Passphrase):
        return {"passphrase": seal.text}
    if isinstance(seal, KeyFile):
        return {"key_file": str(seal.path.absolute())}
    return {}


async def _ask(control: Path, command: str, **arguments: Any) -> dict[str, Any]:
    async with ControlClient(control) as client:
        return await client.ask(command, **arguments)
