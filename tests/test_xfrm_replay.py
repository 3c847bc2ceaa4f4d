"""The kernel's two forms of a replay state, against its own recordings and iproute2's text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_xfrm_formats import NEW_SA, SA_DUMPS, bodies, text_of

from cxtp.adapters.xfrm.formats import parse_security_association
from cxtp.adapters.xfrm.replay import Numbers, from_replay_state, numbers_of
from cxtp.adapters.xfrm.values import ExtendedReplayState, ReplayState


@pytest.mark.parametrize("path", SA_DUMPS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_the_kernel_said(path: Path) -> None:
    text = text_of(path)
    for body in bodies(path, NEW_SA):
        sa = parse_security_association(body)
        (block,) = re.findall(rf"^\tproto \w+ spi 0x{sa.spi:08x}.*?(?=^src|\Z)", text, re.MULTILINE | re.DOTALL)
        replay = numbers_of(sa)
        small = re.search(r"anti-replay context: seq 0x(\w+), oseq 0x(\w+), bitmap 0x(\w+)", block)
        large = re.search(r"seq-hi 0x(\w+), seq 0x(\w+), oseq-hi 0x(\w+), oseq 0x(\w+)", block)
        if small is not None and isinstance(sa.replay, ReplayState):
            told = [int(number, 16) for number in small.groups()]
            assert [replay.inbound, replay.outbound, replay.bitmap] == told
            assert replay.to_replay_state() == sa.replay
        elif large is not None:
            high, low, out_high, out_low = (int(number, 16) for number in large.groups())
            assert (replay.inbound, replay.outbound) == (high << 32 | low, out_high << 32 | out_low)
            assert replay.to_replay_state() == sa.replay  # the ring too, word for word
        else:
            raise AssertionError(f"iproute2 said nothing of SA {sa.spi:08x}'s replay state")


def test_the_ring_by_hand() -> None:
    """net/xfrm/xfrm_replay.c: number s stands at bit (s - 1) % window.  Window 64, 70 the highest, 68 not seen."""
    replay = Numbers(0, 70, 64, 0b1011, True).to_replay_state()  # 70, 69, 67
    assert isinstance(replay, ExtendedReplayState)
    assert list(replay.bitmap) == [1 << 5 | 1 << 4 | 1 << 2, 0]  # (70 - 1) % 64 = 5, 4, and (67 - 1) % 64 = 2


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([32, 64, 128, 256]),
    st.integers(0, 2**256 - 1),
)
def test_there_and_back(outbound: int, inbound: int, window: int, bitmap: int) -> None:
    bitmap &= (1 << min(window, inbound)) - 1
    replay = Numbers(outbound, inbound, window, bitmap, True)
    assert from_replay_state(replay.to_replay_state(), 0, extended=True) == replay
