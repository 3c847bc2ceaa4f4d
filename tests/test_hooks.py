"""Hooks get the session as JSON, without keys; what they do wrong is told, counted, and holds nothing up."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import MN, owned, recorded_contexts

from contexts.base import decode
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from cxtp.errors import ConfigurationError
from cxtp.hooks import HookFailed, Hooks

OTHER = ip_address("198.51.100.99")
RECORD = replace(owned(MN, recorded_contexts()), peer="b", generation=3)


def hook(directory: Path, body: str) -> Path:
    path = directory / "hook"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return path


def test_it_is_told_what_moves_and_no_key(tmp_path: Path) -> None:
    told = tmp_path / "told"
    path = hook(tmp_path, f'echo "$1" > {told}.event; cat > {told}\n')
    hooks = Hooks("a", activated=path)
    asyncio.run(hooks.activated(RECORD))
    asyncio.run(hooks.released(RECORD))  # none is given
    assert (tmp_path / "told.event").read_text() == "activated\n"
    text = told.read_text()
    session = json.loads(text)
    assert (session["event"], session["node"], session["peer"], session["generation"]) == ("activated", "a", "b", 3)
    contexts = [decode(item) for item in RECORD.contexts]
    children = [context for context in contexts if isinstance(context, IpsecSaContext)]
    assert [item["inbound_spi"] for item in session["associations"]] == [f"{c.inbound_spi:08x}" for c in children]
    assert session["associations"][0]["local"] == str(children[0].local_host.address)
    restored = RestoredSession.restore(contexts)  # type: ignore[arg-type]
    for child in children:
        keys = restored.ipsec_keys(child.inbound_spi)
        assert keys.inbound_encryption.hex() not in text
        assert keys.outbound_encryption.hex() not in text
    assert hooks.counters == {"activated": 1}


@pytest.mark.parametrize(
    ("body", "reason"), [("echo not today >&2; exit 3\n", "ended with 3: not today"), ("sleep 60\n", "longer than 0.2")]
)
def test_what_it_does_wrong_is_told(tmp_path: Path, body: str, reason: str) -> None:
    hooks = Hooks("a", released=hook(tmp_path, body), timeout=0.2 if "sleep" in body else 10)
    with pytest.raises(HookFailed, match=reason):
        asyncio.run(hooks.released(RECORD))
    assert hooks.counters == {"released": 1, "released_failed": 1}


def test_a_hook_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program")
    for path in (tmp_path / "missing", tmp_path / "text"):
        with pytest.raises(ConfigurationError, match="may not be executed"):
            Hooks("a", activated=path)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_session_leaves_once_its_hooks_have_ended(tmp_path: Path, asked_before: bool) -> None:
    """What still announces its address here would be believed after the other gateway's word."""
    done = tmp_path / "done"
    slow = hook(tmp_path, f"sleep 0.3; echo done > {done}\n")
    hooks = Hooks("a", activated=slow, releasing=tmp_path / "hook" if asked_before else None)

    async def main() -> None:
        coming = asyncio.create_task(hooks.activated(RECORD))
        await asyncio.sleep(0)
        await hooks.releasing(RECORD)
        assert coming.done() or done.exists()
        await coming

    asyncio.run(main())


def test_another_session_waits_for_nothing(tmp_path: Path) -> None:
    hooks = Hooks("a", activated=hook(tmp_path, "sleep 5\n"))

    async def main() -> None:
        coming = asyncio.create_task(hooks.activated(RECORD))
        await asyncio.sleep(0)
        await asyncio.wait_for(hooks.releasing(replace(RECORD, mn_address=OTHER)), 2)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)

    asyncio.run(main())
