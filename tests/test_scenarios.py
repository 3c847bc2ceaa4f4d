"""The committed captures: made again octet for octet, read alike by three decoders, decrypted, judged as indexed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_scenario_tls import key_log, tls_messages
from test_wireshark import tshark
from witnesses import scapy_packets, wireshark
from witnesses.normal_form import Normal, ours

from cxtp.adapters.capture import ip_packets
from cxtp.commands.keys import write
from cxtp.conformance.judge import judge_capture
from cxtp.conformance.records import RecordReader
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Level, Verdict
from cxtp.scenarios import SCENARIOS, make

DIRECTORY = Path(__file__).parent.parent / "pcaps" / "scenarios"
INDEX = {item["name"]: item for item in json.loads((DIRECTORY / "index.json").read_text())["scenarios"]}
HANDOVERS = sorted(name for name in INDEX if name.startswith("handover"))
ASSOCIATIONS = ("mobile-predictive", "refused-stale", "lost-chunk", "lost-chunk-of-several", "multicast-listener",
                "continuation", "forged-token", "handover", "handover-ipv6")  # fmt: skip
# Who asks and who answers, by RFC 4067's own flows; a repetition is there twice.
COURSES = {
    "predictive": "PCTD CTDR CTAR CTAA",  # 5.1
    "reactive": "CT-Req PCTD CTDR CTAR CTAA",  # 5.2
    "mobile-reactive": "CTAR CT-Req CTD CTDR CTAA",  # 5.3
    "unsolicited": "CTD CTDR",
    "refused-by-previous": "CTAR CT-Req CTD CTAA",  # our decision 21
    "refused-stale": "CTAR CT-Req CTD CTDR CTAA",
    "lost-request": "CTAR CTAR CT-Req CTD CTDR CTAA",
    "lost-data": "CTD CTD CTDR",
    "lost-reply": "CTD CTDR CTD CTDR",
    "lost-chunk": "CTD CTDR",  # SCTP alone knows that it was lost
    "duplicate-request": "CTAR CT-Req CTD CTAR CTDR CTAA",
    "null-token": "CT-Req PCTD CTDR",  # 2.5.6
    "multicast-listener": "CTAR CT-Req CTD CTDR CTAA",
    "ipv6": "CTAR CT-Req CTD CTDR CTAA",
    "handover": "CTD CTDR",
}
NAMES = {1: "CTAR", 2: "CTAA", 3: "CTD", 4: "PCTD", 5: "CTDR", 6: "CTC", 7: "CT-Req"}
IN_STREAMS = ("tcp", "tls", "handover-tls")
each_scenario = pytest.mark.parametrize("name", INDEX)
CHECKSUMS = (
    "ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE", "sctp.checksum:CRC-32C"
)  # fmt: skip

__all__ = ["tshark"]


def messages(path: Path) -> list[bytes]:
    """All CXTP messages, over whatever transport, as we read them, and those inside TLS."""
    reader, found = RecordReader(), []
    for packet in ip_packets(path):
        found += [item.octets for item in reader.put(packet)]
    found += [item.octets for item in reader.finish()]
    return [*found, *tls_messages(path)] if key_log(path) else found


def as_text(found: Normal | None) -> str:
    return json.dumps(found, sort_keys=True)


def cxtp(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cxtp", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_index_is_whole() -> None:
    assert list(INDEX) == list(SCENARIOS)
    assert sorted(p.name for p in DIRECTORY.glob("*.pcap*")) == sorted(item["file"] for item in INDEX.values())
    readme = (DIRECTORY / "README.md").read_text()
    assert all(f"[{item['file']}]" in readme and item["shows"] in readme for item in INDEX.values())


@each_scenario
def test_it_is_made_again(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made.pcapng"
    make(SCENARIOS[name], made)
    assert made.read_bytes() == (DIRECTORY / INDEX[name]["file"]).read_bytes()
    make(SCENARIOS[name], made, seed=2)
    assert made.read_bytes() != (DIRECTORY / INDEX[name]["file"]).read_bytes()


@each_scenario
def test_three_decoders_agree(name: str, tshark: str) -> None:
    path = DIRECTORY / INDEX[name]["file"]
    octets = messages(path)
    assert octets or name == "handover-esp-link"  # nothing of it is to be seen without keys
    expected = [ours(item) for item in octets]
    seen = [found for trees in wireshark.all_normal(tshark, path) for found in trees]
    if key_log(path):  # read direction by direction; the capture has them in the order of time
        assert sorted(seen, key=as_text) == sorted(expected, key=as_text)
    else:
        assert seen == expected
    course = [NAMES[found["type"]] for found in seen if found is not None]
    assert name not in COURSES or course == COURSES[name].split()
    assert ("CTC" in course) == (name == "cancel")
    for item, found in zip(octets, expected, strict=True):
        assert found is not None
        if not any("status" in context for context in found.get("contexts", [])):
            assert scapy_packets.dissected(item) == found
    # scapy finds them itself, but for those in several packets, streams and TLS; what SCTP repeats it shows twice
    own = [scapy_packets.of_packet(packet) for packet in scapy_packets.in_capture(path)]
    assert all(item in expected for item in own)
    if name not in IN_STREAMS:
        assert all(item in own or len(octets[place]) > 1400 for place, item in enumerate(expected))


@each_scenario
def test_wireshark_finds_no_fault_of_its_own(name: str, tshark: str, tmp_path: Path) -> None:
    """Ethernet to ESP and ISAKMP, all checksums; with the keys, all is decrypted, and what is inside is sound."""
    write(tmp_path / "profile", make(SCENARIOS[name], tmp_path / "made.pcapng"))
    fields = ("_ws.malformed", "_ws.expert.severity", "_ws.col.Protocol", "isakmp.exchangetype",
              "isakmp.enc.decrypted", "isakmp.ikev2.integrity_checksum", "esp.spi", "esp.icv_bad",
              "esp.sequence-analysis.wrong-sequence-number", "ip.checksum.status", "udp.checksum.status",
              "tcp.checksum.status", "sctp.checksum.status", "icmp.checksum.status")  # fmt: skip
    preferences = (*CHECKSUMS, "esp.do_esp_sequence_analysis:TRUE", "esp.enable_authentication_check:TRUE")
    command = [tshark, "-X", f"lua_script:{wireshark.SCRIPT}", "-r", str(tmp_path / "made.pcapng")]
    command += [word for item in preferences for word in ("-o", item)]
    command += ["-T", "fields", "-E", "separator=|", *(word for item in fields for word in ("-e", item))]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(tmp_path / "profile")}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    packets = [dict(zip(fields, line.split("|"), strict=True)) for line in said.splitlines()]
    assert packets
    warning = 0x00600000  # PI_WARN; our own dissector's infos of refusals are notes and chats
    for number, packet in enumerate(packets, 1):
        assert not packet["_ws.malformed"], number
        severities = [int(text, 0) for text in packet["_ws.expert.severity"].split(",") if text]
        again = name == "handover-numbers-again" and bool(packet["esp.sequence-analysis.wrong-sequence-number"])
        assert again or all(severity < warning for severity in severities), (number, packet)
        assert again or not packet["esp.sequence-analysis.wrong-sequence-number"], number
        sums = {status for field in fields[-5:] for status in packet[field].split(",") if status}
        assert sums <= {"1"}, (number, packet)  # 1: good; 2 would be: not checked
        assert packet["esp.icv_bad"] not in ("1", "True"), number
        if packet["isakmp.exchangetype"] not in ("", "34"):
            assert packet["isakmp.enc.decrypted"], number
            assert not packet["isakmp.ikev2.integrity_checksum"], number  # "incorrect": decrypted into nonsense
        if packet["esp.spi"]:
            assert packet["_ws.col.Protocol"] in ("ICMP", "CXTP"), number
    if name == "handover-numbers-again":
        assert any(packet["esp.sequence-analysis.wrong-sequence-number"] for packet in packets)
    if name == "handover-esp-link":
        assert [packet["_ws.col.Protocol"] for packet in packets].count("CXTP") == 2


@pytest.mark.parametrize("name", ASSOCIATIONS)
def test_an_association_is_whole(name: str, tshark: str) -> None:
    """As tshark reads it: set up and shut down in order, tags and TSNs right, all acknowledged, repeated where lost."""
    fields = ("ip.src", "ipv6.src", "sctp.verification_tag", "sctp.chunk_type", "sctp.init_initiate_tag",
              "sctp.initack_initiate_tag", "sctp.data_tsn_raw", "sctp.sack_cumulative_tsn_ack_raw",
              "sctp.init_initial_tsn", "sctp.initack_initial_tsn", "sctp.shutdown_cumulative_tsn_ack",
              "sctp.retransmission", "sctp.checksum.status")  # fmt: skip
    said = wireshark.run(tshark, DIRECTORY / INDEX[name]["file"], "-Y", "sctp", "-o", "sctp.checksum:CRC-32C", "-T",
                         "fields", "-E", "separator=|", *(w for f in fields for w in ("-e", f)))  # fmt: skip
    rows = [dict(zip(fields, line.split("|"), strict=True)) for line in said.splitlines()]
    chunks = [row["sctp.chunk_type"] for row in rows]
    assert (chunks[:4], chunks[-3:]) == (["1", "2", "10", "11"], ["7", "8", "14"])
    assert {row["sctp.checksum.status"] for row in rows} == {"1"}
    opener, other = (row["ip.src"] or row["ipv6.src"] for row in rows[:2])
    tags = {other: rows[0]["sctp.init_initiate_tag"], opener: rows[1]["sctp.initack_initiate_tag"]}
    assert rows[0]["sctp.verification_tag"] == "0x00000000"
    assert all(row["sctp.verification_tag"] == tags[row["ip.src"] or row["ipv6.src"]] for row in rows[1:])
    first = {opener: int(rows[0]["sctp.init_initial_tsn"]), other: int(rows[1]["sctp.initack_initial_tsn"])}
    repeated = [row["sctp.retransmission"] for row in rows if row["sctp.retransmission"]]
    assert len(repeated) == name.startswith("lost-chunk")
    for end, tsn in first.items():
        sent = [int(row["sctp.data_tsn_raw"]) for row in rows
                if row["sctp.data_tsn_raw"] and (row["ip.src"] or row["ipv6.src"]) == end]
        assert sorted(set(sent)) == list(range(tsn, tsn + len(set(sent))))
        assert len(sent) - len(set(sent)) == (len(repeated) if end == opener else 0)
        told = [int(row["sctp.sack_cumulative_tsn_ack_raw"]) for row in rows
                if row["sctp.sack_cumulative_tsn_ack_raw"] and (row["ip.src"] or row["ipv6.src"]) != end]
        assert told == sorted(told)
        assert told[-1:] == sent[-1:]


@each_scenario
def test_it_is_judged_as_the_index_says(name: str) -> None:
    report = judge_capture(DIRECTORY / INDEX[name]["file"], Case())
    failed = [result.rule.id for result in report.results if result.verdict is Verdict.FAIL]
    assert failed == INDEX[name]["breaks"]
    assert INDEX[name]["verdict"] == ("fail" if report.failed(Level.MUST) else "pass")


def test_the_commands(tmp_path: Path) -> None:
    assert "handover-udp" in cxtp("pcap", "list").stdout
    assert "there are: predictive" in cxtp("pcap", "make", "nonsense", "-o", tmp_path / "x", code=2).stderr
    cxtp("pcap", "make", "handover", "-o", tmp_path / "x.pcap", "--seed", "3", "--keys", tmp_path / "profile")
    assert (tmp_path / "profile" / "esp_sa").read_text().count("AES-GCM") >= 4
    assert (tmp_path / "x.pcap").read_bytes()[:4] == bytes.fromhex("d4c3b2a1")
    assert messages(tmp_path / "x.pcap")
    assert "can't be written" in cxtp("pcap", "make", "tcp", "-o", tmp_path / "no" / "x", code=2).stderr
