"""The committed captures: made again octet for octet, read alike by three decoders, decrypted, judged as indexed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_wireshark import tshark
from witnesses import scapy_packets, wireshark
from witnesses.normal_form import ours

from cxtp.adapters.capture import ip_packets
from cxtp.conformance.judge import judge_capture
from cxtp.conformance.records import RecordReader
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Level, Verdict
from cxtp.scenarios import SCENARIOS, make

DIRECTORY = Path(__file__).parent.parent / "pcaps" / "scenarios"
INDEX = {item["name"]: item for item in json.loads((DIRECTORY / "index.json").read_text())["scenarios"]}
HANDOVERS = sorted(name for name in INDEX if name.startswith("handover"))
each_scenario = pytest.mark.parametrize("name", INDEX)
CHECKSUMS = ("ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE", "sctp.checksum:crc32c")

__all__ = ["tshark"]


def messages(path: Path) -> list[bytes]:
    """All CXTP messages, over whatever transport, as we read them."""
    reader, found = RecordReader(), []
    for packet in ip_packets(path):
        found += [item.octets for item in reader.put(packet)]
    return [*found, *(item.octets for item in reader.finish())]


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
    assert [found for trees in wireshark.all_normal(tshark, path) for found in trees] == expected
    for item, found in zip(octets, expected, strict=True):
        assert found is not None
        if not any("status" in context for context in found.get("contexts", [])):
            assert scapy_packets.normal(item) == scapy_packets.without_vendor_values(found)


@each_scenario
def test_wireshark_finds_no_fault_of_its_own(name: str, tshark: str, tmp_path: Path) -> None:
    """Ethernet to ESP and ISAKMP, all checksums; with the keys, all is decrypted, and what is inside is sound."""
    make(SCENARIOS[name], tmp_path / "made.pcapng")
    cxtp("pcap", "make", name, "-o", tmp_path / "made.pcapng", "--keys", tmp_path / "profile")
    fields = ("_ws.malformed", "_ws.expert.severity", "_ws.col.Protocol", "isakmp.exchangetype",
              "isakmp.enc.decrypted", "isakmp.ikev2.integrity_checksum", "esp.spi", "esp.icv_bad",
              "esp.sequence-analysis.wrong-sequence-number", "icmp.checksum.status")  # fmt: skip
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
        assert packet["esp.icv_bad"] not in ("1", "True"), number
        if packet["isakmp.exchangetype"] not in ("", "34"):
            assert packet["isakmp.enc.decrypted"], number
        if packet["esp.spi"]:
            assert packet["_ws.col.Protocol"] in ("ICMP", "CXTP"), number
    if name == "handover-numbers-again":
        assert any(packet["esp.sequence-analysis.wrong-sequence-number"] for packet in packets)
    if name == "handover-esp-link":
        assert [packet["_ws.col.Protocol"] for packet in packets].count("CXTP") == 2


@each_scenario
def test_it_is_judged_as_the_index_says(name: str) -> None:
    report = judge_capture(DIRECTORY / INDEX[name]["file"], Case())
    failed = [result.rule.id for result in report.results if result.verdict is Verdict.FAIL]
    assert failed == INDEX[name]["breaks"]
    assert INDEX[name]["verdict"] == ("fail" if report.failed(Level.MUST) else "pass")


def test_the_commands(tmp_path: Path) -> None:
    assert "handover-udp" in cxtp("pcap", "list").stdout
    assert "there are: predictive" in cxtp("pcap", "make", "nonsense", "-o", tmp_path / "x", code=2).stderr
    cxtp("pcap", "make", "handover", "-o", tmp_path / "x.pcap", "--seed", "3")
    assert (tmp_path / "x.pcap").read_bytes()[:4] == bytes.fromhex("d4c3b2a1")
    assert messages(tmp_path / "x.pcap")
    assert "can't be written" in cxtp("pcap", "make", "tcp", "-o", tmp_path / "no" / "x", code=2).stderr
