"""The dissector in Wireshark against our own decoder: field by field, and good where and only where ours says good."""

from __future__ import annotations

import os
import random
import shutil
from ipaddress import ip_address
from pathlib import Path

import pytest
from context_examples import VALUES
from context_strategies import contexts as context_strategy
from hypothesis import HealthCheck, Phase, given, seed, settings
from message_strategies import messages as message_strategy
from message_strategies import worked_examples
from mutators import mutated
from witnesses import wireshark
from witnesses.normal_form import ours

from contexts.base import encode
from cxtp.adapters.capture.writer import PcapWriter
from cxtp.adapters.capture.transport import udp_datagrams
from cxtp.cli import main
from cxtp.continuation import to_blocks
from cxtp.manifest import plan_parts
from cxtp.messages import (
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
)
from cxtp.token import compute_token
from cxtp.wire import IcmpMessage, build, build_icmp

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
MN = ip_address("192.0.2.77")
QUICK = {"database": None, "deadline": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        assert os.environ.get("CI") != "true", "tshark is missing: apt-get install tshark"
        pytest.skip("tshark is not installed")
    return path


def generated(count: int) -> list[bytes]:
    """Messages of every kind, and CTDs with contexts of every kind."""
    found: list[bytes] = list(worked_examples().values())

    @seed(1)
    @settings(max_examples=count, **QUICK)
    @given(message_strategy())
    def of_messages(message: object) -> None:
        found.append(build(message))  # type: ignore[arg-type]

    @seed(2)
    @settings(max_examples=count, **QUICK)
    @given(context_strategy)
    def of_contexts(context: object) -> None:
        blocks = to_blocks(encode(context))  # type: ignore[arg-type]
        found.append(build(ContextTransferData(mn_previous_address=MN, elapsed_time=1, blocks=blocks)))

    of_messages()
    of_contexts()
    for value in VALUES.values():
        encoded = encode(value)
        for blocks in plan_parts([encoded, EncodedContext(0x7001, b"x" * 5000)], transfer_id=5, generation=9):
            found.append(build(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks)))
    return found


def as_udp(path: Path, messages: list[bytes]) -> Path:
    with PcapWriter(path) as writer:
        for number, octets in enumerate(messages):
            writer.write_udp(float(number * 20), A, 5091, B, 5091, octets)
    return path


def compare(tshark: str, path: Path, messages: list[bytes]) -> None:
    seen = [found for found in wireshark.all_normal(tshark, path) if found]
    assert len(seen) == len(messages)
    for octets, (found,) in zip(messages, seen, strict=True):
        assert found == ours(octets), octets.hex()


def test_generated_messages(tshark: str, tmp_path: Path) -> None:
    messages = generated(700)
    assert all(ours(octets) is not None for octets in messages)
    compare(tshark, as_udp(tmp_path / "generated.pcap", messages), messages)


def test_spoiled_messages(tshark: str, tmp_path: Path) -> None:
    rng = random.Random(4067)
    sound = generated(150)
    spoiled = [octets for octets in (mutated(rng.choice(sound), rng)[:60_000] for _ in range(3000)) if octets]
    verdicts = [ours(octets) is None for octets in spoiled]
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.95
    compare(tshark, as_udp(tmp_path / "spoiled.pcap", spoiled), spoiled)
