"""What the codec reads in recorded netlink dumps is what iproute2 printed of the same kernel at the same time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxtp.adapters.xfrm.formats import MalformedNetlink, messages, parse_policy, parse_security_association

RECORDINGS = sorted((Path(__file__).parent.parent / "pcaps" / "strongswan").glob("*/xfrm-gw.sa.bin"))
MODES = ("transport", "tunnel")
DIRECTIONS = ("in", "out", "fwd", "socket in", "socket out")
each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.parent.name)


def text(recording: Path, section: str) -> list[str]:
    """iproute2's paragraphs of one section, one per SA or policy."""
    whole = recording.with_name("xfrm-gw.txt").read_text()
    body = whole.split(f"xfrm {section}\n")[1].split("\n# ")[0]
    return [part for part in re.split(r"^(?=src )", body, flags=re.M) if part.startswith("src ")]


@each_recording
def test_associations_are_what_iproute2_shows(recording: Path) -> None:
    bodies = [body for header, body in messages(recording.read_bytes()) if header.type == 0x10]
    shown = text(recording, "state")
    assert len(bodies) == len(shown) > 0
    for body, words in zip(bodies, shown):
        sa = parse_security_association(body)
        assert f"src {sa.source} dst {sa.destination}\n" in words
        assert f"proto esp spi 0x{sa.spi:08x}(" in words and sa.protocol == 50
        assert f"reqid {sa.request_id}(" in words
        assert f"mode {MODES[sa.mode]}\n" in words
        windows = re.findall(r"replay[-_]window (\d+)", words.split("stats:")[0])
        assert sa.replay_window == max(map(int, windows))
        for keyword, name in (("aead", sa.aead), ("enc", sa.encryption), ("auth-trunc", sa.authentication)):
            found = re.search(rf"^\t{keyword} (\S+) ", words, re.M)
            assert name == (found[1] if found else "")
        for key in re.findall(r" 0x([0-9a-f]{32,}) ", words):
            assert bytes.fromhex(key) in b"".join(octets for _, octets in sa.attributes)
            assert key not in repr(sa) and repr(bytes.fromhex(key)) not in repr(sa)


@each_recording
def test_policies_are_what_iproute2_shows(recording: Path) -> None:
    dump = recording.with_name("xfrm-gw.policy.bin").read_bytes()
    bodies = [body for header, body in messages(dump) if header.type == 0x13]
    shown = text(recording, "policy")
    assert len(bodies) == len(shown) > 0
    for body, words in zip(bodies, shown):
        policy = parse_policy(body)
        chosen = policy.selector
        assert words.startswith(
            f"src {chosen.source}/{chosen.source_prefix} dst {chosen.destination}/{chosen.destination_prefix} "
        )
        direction = re.search(r"^\t(?:dir )?((?:socket )?\w+) action allow index (\d+) priority (\d+)", words, re.M)
        assert direction is not None
        assert (DIRECTIONS[policy.direction], policy.index, policy.priority, policy.action) == (
            direction[1], int(direction[2]), int(direction[3]), 0,
        )
        assert len(policy.templates) == words.count("\ttmpl ")
        for template in policy.templates:
            assert f"tmpl src {template.source} dst {template.destination}\n" in words
            assert f"spi 0x{template.spi:08x}" in words
            assert f"reqid {template.request_id}(" in words and f"mode {MODES[template.mode]}\n" in words
            assert template.optional == ("level use" in words)


def test_cut_short_is_the_typed_error() -> None:
    body = next(body for header, body in messages(RECORDINGS[0].read_bytes()) if header.type == 0x10)
    for length in range(224):
        with pytest.raises(MalformedNetlink):
            parse_security_association(body[:length])
