"""The codec against recordings of real gateways: every field as iproute2 prints it, and back octet for octet."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxtp.adapters.xfrm import (
    INFINITE,
    ExtendedReplayState,
    Lifetime,
    MalformedNetlink,
    ReplayState,
    SaFlag,
    SecurityAssociation,
    SecurityPolicy,
    UnfitValue,
    Usage,
)
from cxtp.adapters.xfrm.attributes import build_attributes, parse_attributes
from cxtp.adapters.xfrm.events import UnknownEvent, parse_event
from cxtp.adapters.xfrm.formats import (
    build_policy,
    build_security_association,
    messages,
    parse_policy,
    parse_security_association,
)

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
NEW_SA, NEW_POLICY = 0x10, 0x13
SA_DUMPS = sorted(TRACES.glob("*/xfrm-*.sa.bin"))
POLICY_DUMPS = sorted(TRACES.glob("*/xfrm-*.policy.bin"))
FLAGS = {SaFlag.ANY_FAMILY: "af-unspec", SaFlag.ESN: "esn"}


def bodies(path: Path, kind: int) -> list[bytes]:
    return [body for header, body in messages(path.read_bytes()) if header.type == kind]


def sections(path: Path) -> tuple[str, str]:
    text = path.with_name(path.name.split(".")[0] + ".txt").read_text()
    _, states, policies = re.split(r"^# ip -s -d xfrm (?:state|policy)\n", text, flags=re.MULTILINE)
    return states.strip("\n"), policies.split("\n# ")[0].strip("\n")


def limit(value: int) -> str:
    return "(INF)" if value == INFINITE else str(value)


def date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}" if seconds else "-"


def lifetime_lines(lifetime: Lifetime, usage: Usage) -> list[str]:
    one = lifetime
    return [
        "\tlifetime config:",
        f"\t  limit: soft {limit(one.soft_octets)}(bytes), hard {limit(one.hard_octets)}(bytes)",
        f"\t  limit: soft {limit(one.soft_packets)}(packets), hard {limit(one.hard_packets)}(packets)",
        f"\t  expire add: soft {one.soft_add_seconds}(sec), hard {one.hard_add_seconds}(sec)",
        f"\t  expire use: soft {one.soft_use_seconds}(sec), hard {one.hard_use_seconds}(sec)",
        "\tlifetime current:",
        f"\t  {usage.octets}(bytes), {usage.packets}(packets)",
        f"\t  add {date(usage.add_time)} use {date(usage.use_time)}",
    ]


def replay_lines(sa: SecurityAssociation) -> list[str]:
    state = sa.replay
    if isinstance(state, ReplayState):
        return [
            f"\tanti-replay context: seq {state.inbound:#x}, oseq {state.outbound:#x}, bitmap 0x{state.bitmap:08x}"
        ]
    assert isinstance(state, ExtendedReplayState)
    return [
        "\tanti-replay esn context:",
        f"\t seq-hi {state.inbound_high:#x}, seq {state.inbound_low:#x}, "
        f"oseq-hi {state.outbound_high:#x}, oseq {state.outbound_low:#x}",
        f"\t replay_window {state.window}, bitmap-length {len(state.bitmap)}",
        "\t " + "".join(f"{word:08x} " for word in reversed(state.bitmap)),
    ]


def as_iproute2_prints(sa: SecurityAssociation) -> str:
    """``ip -s -d xfrm state``, for all that the recordings have."""
    flags = "".join(f" {name}" for flag, name in FLAGS.items() if sa.flags & flag)
    lines = [
        f"src {sa.source} dst {sa.destination}",
        f"\tproto {'esp' if sa.protocol == 50 else sa.protocol} spi 0x{sa.spi:08x}({sa.spi}) "
        f"reqid {sa.request_id}(0x{sa.request_id:08x}) mode {('transport', 'tunnel')[sa.mode]}",
        f"\treplay-window {sa.window_field} seq 0x{sa.sequence:08x} flag {flags[1:]} (0x{sa.flags:08b})",
    ]
    for name, algorithm in (("aead", sa.aead), ("auth-trunc", sa.authentication), ("enc", sa.encryption)):
        if algorithm:
            icv = f" {algorithm.icv_bits}" if algorithm.icv_bits is not None else ""
            key = f"0x{algorithm.key.hex()} ({8 * len(algorithm.key)} bits)"
            lines.append(f"\t{name} {algorithm.name} {key}{icv}")
    if sa.encapsulation:
        end = sa.encapsulation
        address = ip_address(end.original_address[:4])
        assert end.type == 2
        lines.append(
            f"\tencap type espinudp sport {end.source_port} dport {end.destination_port} addr {address}"
        )
    lines += replay_lines(sa)
    if not sa.selector.any_family:
        one = sa.selector
        lines.append(
            f"\tsel src {one.source}/{one.source_prefix} dst {one.destination}/{one.destination_prefix} uid {one.user}"
        )
    lines += lifetime_lines(sa.lifetime, sa.usage)
    errors = sa.errors
    lines += [
        "\tstats:",
        f"\t  replay-window {errors.replay_window} replay {errors.replay} failed {errors.integrity}",
    ]
    return "\n".join(lines)


def policy_as_iproute2_prints(policy: SecurityPolicy) -> str:
    """``ip -s -d xfrm policy``, for all that the recordings have."""
    one = policy.selector
    direction = ("dir in", "dir out", "dir fwd", "socket in", "socket out")[policy.direction]
    lines = [
        f"src {one.source}/{one.source_prefix} dst {one.destination}/{one.destination_prefix} uid {one.user}",
        f"\t{direction} action {('allow', 'block')[policy.action]} index {policy.index} priority {policy.priority} "
        f"ptype {('main', 'sub')[policy.kind or 0]} share {('any',)[policy.share]} flag  (0x{policy.flags:08b})",
        *lifetime_lines(policy.lifetime, policy.usage),
    ]
    for template in policy.templates:
        masks = (
            template.encryption_algorithms,
            template.authentication_algorithms,
            template.compression_algorithms,
        )
        lines += [
            f"\ttmpl src {template.source} dst {template.destination}",
            f"\t\tproto {'esp' if template.protocol == 50 else template.protocol} "
            f"spi 0x{template.spi:08x}({template.spi}) reqid {template.request_id}(0x{template.request_id:08x}) "
            f"mode {('transport', 'tunnel')[template.mode]}",
            f"\t\tlevel {'use' if template.optional else 'required'} share {('any',)[template.share]} ",
            "\t\tenc-mask {:08x} auth-mask {:08x} comp-mask {:08x}".format(*masks),
        ]
    return "\n".join(lines)


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.parent.name)


def with_text(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.with_name(path.name.split(".")[0] + ".txt").exists()]


def test_there_are_recordings() -> None:
    assert len(with_text(SA_DUMPS)) >= 5
    assert len(with_text(POLICY_DUMPS)) >= 5


@by_name(with_text(SA_DUMPS))
def test_every_field_of_an_sa_is_what_iproute2_prints(path: Path) -> None:
    found = [parse_security_association(body) for body in bodies(path, NEW_SA)]
    assert "\n".join(map(as_iproute2_prints, found)) == sections(path)[0]


@by_name(with_text(POLICY_DUMPS))
def test_every_field_of_a_policy_is_what_iproute2_prints(path: Path) -> None:
    found = [parse_policy(body) for body in bodies(path, NEW_POLICY)]
    assert "\n".join(map(policy_as_iproute2_prints, found)) == sections(path)[1]


@by_name(SA_DUMPS + POLICY_DUMPS)
def test_octets_come_back(path: Path) -> None:
    for body in bodies(path, NEW_SA):
        assert build_security_association(parse_security_association(body)) == body
    for body in bodies(path, NEW_POLICY):
        assert build_policy(parse_policy(body)) == body


def test_an_unknown_attribute_keeps_its_place() -> None:
    (body, *_) = bodies(SA_DUMPS[0], NEW_SA)
    attributes = list(parse_attributes(body[224:]))
    attributes.insert(1, (4000, b"new"))
    octets = body[:224] + build_attributes(attributes)
    sa = parse_security_association(octets)
    assert sa.other == ((4000, b"new"),)
    assert build_security_association(sa) == octets


@pytest.mark.parametrize("path", [SA_DUMPS[0], POLICY_DUMPS[0]], ids=lambda path: path.name)
def test_cut_anywhere_it_is_the_typed_error_or_a_value(path: Path) -> None:
    kind = NEW_SA if ".sa." in path.name else NEW_POLICY
    parse = parse_security_association if kind == NEW_SA else parse_policy
    body = bodies(path, kind)[0]
    refused = 0
    for end in range(len(body)):
        try:
            parse(body[:end])
        except MalformedNetlink:
            refused += 1
    assert refused > len(body) // 2


@settings(derandomize=True, deadline=None)
@given(kind=st.integers(0x10, 0x28), octets=st.binary(max_size=400))
def test_any_octets_are_some_event(kind: int, octets: bytes) -> None:
    event = parse_event(kind, octets)
    if isinstance(event, UnknownEvent):
        assert event.octets == octets


def test_keys_are_in_no_text() -> None:
    for path in SA_DUMPS:
        for body in bodies(path, NEW_SA):
            sa = parse_security_association(body)
            for algorithm in filter(None, (sa.aead, sa.encryption, sa.authentication)):
                assert algorithm.key
                with pytest.raises(UnfitValue) as caught:
                    build_security_association(replace(sa, flags=-1))
                for text in (repr(sa), str(caught.value), repr(caught.value.__cause__)):
                    assert repr(algorithm.key)[2:-1] not in text
                    assert algorithm.key.hex() not in text
