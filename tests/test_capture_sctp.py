"""SCTP associations that are written, as tshark and our own reader see them (RFC 9260)."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_capture import A4, A6, B4, B6, complaints, tshark

from cxtp.adapters.capture import PcapWriter, sctp_data
from cxtp.adapters.capture.writer import PAYLOAD_PROTOCOL_IDENTIFIER
from cxtp.errors import LocalError

PAIRS = [(A4, B4), (A6, B6)]
DELAY = 0.004


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("delay", [0.0, DELAY])
def test_written_sctp_is_read_by_tshark_and_by_us(tmp_path: Path, source, destination, delay: float) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "written.pcap"
    sent = [b"abc", bytes(n & 0xFF for n in range(9001)), b"x" * 1452, b"last"]
    with PcapWriter(path) as writer:
        writer.delay = delay
        writer.open_sctp(9.0, source, 5091, destination, 5091)
        for number, payload in enumerate(sent):
            ends = (source, 5091, destination, 5091) if number % 2 else (destination, 5091, source, 5091)
            writer.write_sctp(10.0 + number, *ends, payload)
    read = list(sctp_data(path))
    assert [message.payload for message in read] == sent
    assert {(m.stream, m.unordered, m.payload_protocol_identifier) for m in read} == {
        (0, True, PAYLOAD_PROTOCOL_IDENTIFIER)
    }
    assert complaints(path) == []
    names = ("sctp.chunk_type", "frame.time_relative", "sctp.checksum.status", "sctp.assoc_index")
    rows = tshark(path, *names)
    assert [row[0] for row in rows[:4]] == ["1", "2", "10", "11"]
    assert [row[0] for row in rows[-3:]] == ["7", "8", "14"]
    assert {row[2] for row in rows} == {"1"}
    assert {row[3] for row in rows} == {"0"}  # one association, by tags and ports
    times = [float(row[1]) for row in rows]
    assert times == sorted(times)
    assert times[:4] == pytest.approx([number * delay for number in range(4)])


def test_what_is_lost_comes_again_behind_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "written.pcap"
    with PcapWriter(path) as writer:
        writer.delay = DELAY
        writer.open_sctp(1.0, A4, 5091, B4, 5091)
        lost = writer.write_sctp(2.0, A4, 5091, B4, 5091, b"first", lost=True)
        writer.write_sctp(2.01, A4, 5091, B4, 5091, b"second")
        writer.write_sctp(2.02, A4, 5091, B4, 5091, b"third")
        writer.repeat_sctp(2.05, lost)
    names = ("sctp.chunk_type", "sctp.data_tsn", "sctp.sack_cumulative_tsn_ack", "sctp.sack_gap_block_start",
             "sctp.sack_gap_block_end", "sctp.retransmission")  # fmt: skip
    rows = [[*row[:5], bool(row[5])] for row in tshark(path, *names)[4:-3]]
    # relative TSNs: the first is 0, and -1 was acknowledged before it
    assert rows == [
        ["0", "0", "", "", "", False],
        ["0", "1", "", "", "", False],
        ["3", "", "4294967295", "2", "2", False],
        ["0", "2", "", "", "", False],
        ["3", "", "4294967295", "2", "3", False],
        ["0", "0", "", "", "", True],
        ["3", "", "2", "", "", False],
    ]
    assert complaints(path) == []
    assert [message.payload for message in sctp_data(path)] == [b"first", b"second", b"third"]


def test_an_association_that_is_none(tmp_path: Path) -> None:
    with PcapWriter(tmp_path / "one.pcap") as writer:
        sent = writer.write_sctp(1.0, A4, 5091, B4, 5091, b"x")
    with PcapWriter(tmp_path / "two.pcap") as writer, pytest.raises(LocalError, match="no such association"):
        writer.repeat_sctp(2.0, sent)
    with PcapWriter(tmp_path / "three.pcap") as writer, pytest.raises(LocalError, match="no port"):
        writer.open_sctp(1.0, A4, 70_000, B4, 5091)
