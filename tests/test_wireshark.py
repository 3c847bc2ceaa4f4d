"""The dissector in Wireshark against our own decoder: field by field, and good where and only where ours says good."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from context_examples import VALUES
from message_strategies import worked_examples
from mutators import mutated
from spoiled import MN, generated, spoiled_contexts, spoiled_messages, without_a_parameter
from witnesses import scapy_packets, wireshark
from witnesses.normal_form import ours

from contexts.base import encode
from cxtp.adapters.capture import ip_packets
from cxtp.adapters.capture.writer import PcapWriter
from cxtp.cli import main
from cxtp.continuation import to_blocks
from cxtp.errors import RemoteError
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
from cxtp.wire import IcmpMessage, build, build_icmp, parse_icmp

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")


@pytest.fixture(scope="module")
def tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        assert os.environ.get("CI") != "true", "tshark is missing: apt-get install tshark"
        pytest.skip("tshark is not installed")
    return path


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
        assert found == scapy_packets.normal(octets), octets.hex()


CUT_HEADERS = [bytes.fromhex(f"23c9001400000397c0000009ff01012f0{version}000000") for version in range(3)]
"""A context whose header is cut short, of the known Format Version and others: malformed, whatever it had to say."""


def test_generated_messages(tshark: str, tmp_path: Path) -> None:
    messages = CUT_HEADERS + generated(700)
    assert len(messages) > 1400
    assert all(ours(octets) is not None for octets in messages)
    compare(tshark, as_udp(tmp_path / "generated.pcap", messages), messages)


def test_spoiled_messages(tshark: str, tmp_path: Path) -> None:
    """Three decoders agree on messages that are none, on contexts that are refused, and on what is left."""
    spoiled = [*spoiled_messages(2000), *spoiled_contexts(2000)]
    verdicts = [ours(octets) is None for octets in spoiled]
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8
    compare(tshark, as_udp(tmp_path / "spoiled.pcap", spoiled), spoiled)


def test_spoiled_icmp(tshark: str, tmp_path: Path) -> None:
    """Header, checksum and message spoiled, in both versions; no tree of ours is a refusal too."""
    rng, packets = random.Random(41), []
    ctar = build(ContextTransferActivateRequest(mn_previous_address=MN, access_router_address=A, sequence_number=1))
    for number in range(600):
        kind, ends = ((41, (A, B)), (150, (A6, B6)))[number % 2]
        octets = mutated(build_icmp(IcmpMessage(kind, ctar), ends), rng)
        if octets[:1] in (bytes((41,)), bytes((150,))):  # what else there is has dissectors of its own
            packets.append((octets, ends))
    path = tmp_path / "icmp.pcap"
    with PcapWriter(path) as w:
        for number, (octets, ends) in enumerate(packets):
            if number % 3 and len(octets) >= 4:
                w.write_icmp(float(number * 20), *ends, octets)  # its checksum right again
            else:
                w.write_ip(float(number * 20), *ends, 1 if ends == (A, B) else 58, octets, hop_limit=255)
    expected = []
    for packet in ip_packets(path):
        try:
            expected.append(ours(parse_icmp(packet.payload, (packet.source, packet.destination)).message))
        except RemoteError:
            expected.append(None)
    assert len(expected) == len(packets)
    assert 20 < len([found for found in expected if found]) < 400
    malformed: list[int] = []
    trees = list(wireshark.packets(tshark, path, malformed=malformed))
    assert [wireshark.normal(found[0]) if found else None for found in trees] == expected
    assert malformed
    assert not any(expected[place] for place in malformed)  # Wireshark's own ICMP gave up what we refuse, nothing else


def test_spoiled_streams_and_chunks_make_no_error(tshark: str, tmp_path: Path) -> None:
    """What is no message leaves the dissector whole, whatever it does to the framing."""
    with PcapWriter(tmp_path / "streams.pcap") as w:
        for number, octets in enumerate(spoiled_messages(400)):
            w.write_tcp(float(number), A, 10_000 + number, B, 5091, octets + octets[: number % 40])
            w.write_sctp(float(number), A, 20_000 + number, B, 5091, octets)
    found = wireshark.all_normal(tshark, tmp_path / "streams.pcap")  # a Lua error or a malformed packet fails here
    assert sum(bool(trees) for trees in found) > 400


def fields(tshark: str, path: Path, names: list[str], *options: str) -> list[list[str]]:
    wanted = [part for name in names for part in ("-e", name)]
    said = wireshark.run(tshark, path, "-2", "-T", "fields", "-E", "separator=|", *wanted, *options)
    return [line.split("|") for line in said.splitlines()]


def test_requests_responses_and_repetitions(tshark: str, tmp_path: Path) -> None:
    blocks = plan_parts([encode(VALUES["ike-sa-case-3"])], transfer_id=0x01020304, generation=2)[0]
    ctar = build(ContextTransferActivateRequest(mn_previous_address=MN, access_router_address=A, sequence_number=1))
    request = build(ContextTransferRequest(mn_previous_address=MN, sequence_number=1))
    first, again = (
        build(ContextTransferData(mn_previous_address=MN, elapsed_time=t, blocks=blocks, acknowledge=True))
        for t in (0, 40)
    )
    receipt = tuple(ContextStatus(0xFF03, octet) for octet in (1, 2, 3, 4))
    reply = build(ContextTransferDataReply(mn_previous_address=MN, success=True, statuses=receipt))
    path = tmp_path / "story.pcap"
    with PcapWriter(path) as w:
        w.write_udp(1.00, A6, 5091, B6, 5091, ctar)
        w.write_udp(1.01, B, 5091, A, 5091, request)
        w.write_udp(1.02, A, 5091, B, 5091, first)
        w.write_udp(1.06, A, 5091, B, 5091, again)
        w.write_udp(1.07, B, 5091, A, 5091, reply)
        acknowledge = ContextTransferActivateAcknowledge(mn_previous_address=MN)
        w.write_udp(1.50, B6, 5091, A6, 5091, build(acknowledge))
    names = ["cxtp.response_in", "cxtp.response_to", "cxtp.response_time", "cxtp.retransmission_of", "cxtp.receipt"]
    assert fields(tshark, path, names) == [
        ["6", "", "", "", ""],
        ["3", "", "", "", ""],
        ["5", "2", "0.010000000", "", ""],
        ["5", "2", "0.050000000", "3", ""],
        ["", "3", "0.050000000", "", "0x01020304"],
        ["", "1", "0.500000000", "", ""],
    ]


def test_tokens(tshark: str, tmp_path: Path) -> None:
    key, asked = bytes.fromhex("00112233"), (ContextRequest(0xFF01), ContextRequest(0xFF02, 1))
    good = compute_token(key, MN, 9, asked)
    path = tmp_path / "tokens.pcap"
    with PcapWriter(path) as w:
        for number, token in enumerate((good, b"\1\2\3\4", bytes(4))):
            message = ContextTransferRequest(
                mn_previous_address=MN, sequence_number=9, authorization_token=token, requested=asked
            )
            w.write_udp(float(number), B, 5091, A, 5091, build(message))
    names = ["cxtp.token.status", "cxtp.expert.token"]
    told = fields(tshark, path, ["cxtp.token.status"], "-o", f"cxtp.token_keys:{MN}={key.hex()}")
    assert told == [["1"], ["0"], ["3"]]
    assert fields(tshark, path, names[:1]) == [["2"], ["2"], ["3"]]
    assert fields(tshark, path, names[:1], "-o", "cxtp.token_keys:00112233") == told


def test_every_transport(tshark: str, tmp_path: Path) -> None:
    messages = generated(12)
    large = build(ContextTransferData(mn_previous_address=MN, elapsed_time=0,
                                      blocks=to_blocks(EncodedContext(0x7001, b"y" * 30_000))))
    ctar = build(ContextTransferActivateRequest(mn_previous_address=MN, access_router_address=A, sequence_number=1))
    path = tmp_path / "transports.pcap"
    with PcapWriter(path) as w:
        w.write_tcp(1.0, A, 40000, B, 5091, b"".join([*messages, large]))
        for number, octets in enumerate([*messages, large]):
            w.write_sctp(2.0 + number, A, 5091, B, 5091, octets)
        w.write_sctp(50.0, A, 7, B, 8, ctar)  # known by its payload protocol identifier alone
        w.write_icmp(60.0, A, B, build_icmp(IcmpMessage(41, ctar)))
        w.write_icmp(61.0, A6, B6, build_icmp(IcmpMessage(150, ctar), (A6, B6)))
        w.write_udp(70.0, A, 6000, B, 6001, ctar)
        w.write_icmp(80.0, A, B, build_icmp(IcmpMessage(41, ctar, code=3)))
    seen = [found for trees in wireshark.all_normal(tshark, path, "-d", "udp.port==6000,cxtp") for found in trees]
    sent = [*messages, large]
    assert seen == [ours(octets) for octets in (*sent, *sent, ctar, ctar, ctar, ctar)] + [None]


def told_of(tshark: str, path: Path, *options: str) -> list[list[str]]:
    """The expert infos of each packet."""
    return [[name.removeprefix("cxtp.expert.") for tree in trees for name in wireshark.experts(tree)]
            for trees in wireshark.packets(tshark, path, *options)]  # fmt: skip


def test_each_expert_info_where_it_belongs(tshark: str, tmp_path: Path) -> None:
    path, key = tmp_path / "experts.pcap", bytes.fromhex("00112233")
    ike = encode(VALUES["ike-sa-case-3"])  # type: ignore[arg-type]
    data, vector = ike.data, ike.presence_vector or 0

    def carrying(octets: bytes, bits: int | None = vector, fpt: int = 0xFF01) -> bytes:
        blocks = to_blocks(EncodedContext(fpt, octets, bits))
        return build(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks))

    good = carrying(data)
    missing = without_a_parameter(ike, random.Random(1))
    refused = ContextTransferDataReply(mn_previous_address=MN, success=False, statuses=(ContextStatus(0xFF01, 9),))
    token = compute_token(key, MN, 1, ())
    ctar = build(ContextTransferActivateRequest(mn_previous_address=MN, access_router_address=A, sequence_number=1,
                                                authorization_token=token))
    forged = build(ContextTransferRequest(mn_previous_address=MN, sequence_number=9, authorization_token=b"\1" * 4))
    continued = carrying(bytes(4), None, 0x7001).replace(b"\x70\x01", b"\xff\x00")
    icmp = build_icmp(IcmpMessage(41, ctar))
    cases: list[tuple[str, bytes]] = [
        ("", good),
        ("malformed", good[:-1]),
        ("context_malformed", carrying(data + b"\1")),
        ("context_malformed", carrying(data, vector ^ 1)),
        ("context_missing", carrying(missing.data, missing.presence_vector)),
        ("context_unsupported", carrying(b"\2" + data[1:])),
        ("reserved", carrying(data[:1] + b"\1" + data[2:])),
        ("vendor", carrying(data.replace(b"\0\0\0\0\0\1road", b"\0\0\0\0\0\1\xffoad"))),
        ("unusual", bytes((good[0], good[1] | 1)) + good[2:]),
        ("continuation", continued),
        ("failure", build(refused)),
        ("token", forged),
        ("retransmission", forged),
    ]
    with PcapWriter(path) as w:
        for number, (_, octets) in enumerate(cases):
            w.write_udp(float(number * 20 if number < 12 else 240 - 19.9), A, 5091, B, 5091, octets)
        w.write_icmp(300.0, A, B, icmp)
        w.write_ip(320.0, A, B, 1, icmp[:2] + bytes((icmp[2] ^ 1,)) + icmp[3:], hop_limit=255)
        w.write_ip(340.0, A, B, 1, icmp, hop_limit=64)
    expected = [[name] if name else [] for name, _ in cases]
    expected[12] = ["token", "retransmission"]
    option = ("-o", f"cxtp.token_keys:{MN}={key.hex()}")
    found = [sorted(names, reverse=True) for names in told_of(tshark, path, *option)]
    assert found == [sorted(names, reverse=True) for names in (*expected, [], ["checksum"], ["hop_limit"])]
    cut = tmp_path / "cut.pcap"
    subprocess.run([tshark.replace("tshark", "editcap"), "-s", "100", "-r", str(path), str(cut), "1"], check=True)
    assert "truncated" in told_of(tshark, cut)[0]


def test_decode_as(tshark: str, tmp_path: Path) -> None:
    ctar = build(ContextTransferActivateRequest(mn_previous_address=MN, access_router_address=A, sequence_number=1))
    path = tmp_path / "ports.pcap"
    with PcapWriter(path) as w:
        w.write_udp(1.0, A, 6000, B, 6001, ctar)
        w.write_tcp(2.0, A, 6002, B, 6003, ctar)
        w.write_sctp(3.0, A, 6004, B, 6005, ctar, payload_protocol_identifier=0)
    assert [trees for trees in wireshark.all_normal(tshark, path) if trees] == []
    ports = ("udp.port==6000", "tcp.port==6003", "sctp.port==6005")
    options = [word for port in ports for word in ("-d", f"{port},cxtp")]
    assert [trees for trees in wireshark.all_normal(tshark, path, *options) if trees] == [[ours(ctar)]] * 3


def test_install_and_uninstall(tshark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert main(["wireshark", "install"]) == 0
    capsys.readouterr()
    assert main(["wireshark", "install", "--print-path"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.is_relative_to(home)
    assert (folder / "cxtp.lua").exists()
    messages = list(worked_examples().values())
    path = as_udp(tmp_path / "examples.pcap", messages)
    seen = [[wireshark.normal(tree) for tree in trees] for trees in wireshark.packets(tshark, path, home=home)]
    assert seen == [[ours(octets)] for octets in messages]
    assert main(["wireshark", "uninstall", "--json"]) == 0
    assert not list(folder.glob("cxtp*"))
    assert main(["wireshark", "install", "--folder", "/dev/null/x"]) == 3


def test_the_documented_filters_are_the_dissectors(
    tshark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # -G reads no script that -X names: the dissector is installed
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["wireshark", "install"]) == 0
    said = subprocess.run([tshark, "-G", "fields"], capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in said.splitlines() if line.startswith("F")]
    known = {row[2]: row[1] for row in rows if row[2].startswith("cxtp.")}
    assert len(known) > 100
    text = (Path(__file__).parent.parent / "docs" / "wireshark.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(cxtp\.[a-z0-9_.]+)` \| (.*?) \|$", text, re.MULTILINE))
    assert listed == {name: label for name, label in known.items() if not name.startswith("cxtp.presence.")}
