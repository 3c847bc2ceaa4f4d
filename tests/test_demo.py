"""``cxtp demo`` on every recorded session: real processes, real network, real packets of strongSwan."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import loopback
import pytest

from cxtp.adapters.capture import udp_datagrams
from cxtp.constants import PORT
from cxtp.demo import _loopback_pair
from cxtp.errors import ConfigurationError

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
NAMES = sorted(path.parent.name for path in TRACES.glob("*/outer.pcap"))


def cxtp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cxtp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@cache
def demo(transport: str, key_case: int) -> dict[str, Any]:
    result = cxtp("demo", "--transport", transport, "--key-case", str(key_case), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("key_case", [1, 2, 3])
@pytest.mark.parametrize("transport", ["tls", "udp"])
def test_every_recorded_session_moves_and_is_opened(transport: str, key_case: int) -> None:
    answer = demo(transport, key_case)
    assert answer["ok"] is True
    assert sorted({row["trace"] for row in answer["sessions"]}) == NAMES
    for row in answer["sessions"]:
        assert row["ike_opened"] == row["ike_seen"] > 0, row
        assert row["esp_opened"] == row["esp_seen"], row
        assert row["ah_opened"] == row["ah_seen"], row
        expected = True if (TRACES / row["trace"] / "keys.json").exists() else None
        assert row["keys_match"] is expected, row


@pytest.mark.parametrize("trace", NAMES)
def test_counts_are_those_that_were_found_when_it_was_recorded(trace: str) -> None:
    """README.txt of a trace holds what another decryption, or tshark, found on the wire."""
    text = (TRACES / trace / "README.txt").read_text()
    found = re.search(r"(?:own Python decryption|tshark): (\{.*?\})", text)
    if found is None:
        assert trace.startswith(("k-takeover", "takeover")), "a recording without a second witness"
        return
    truth = json.loads(found.group(1))
    rows = [row for row in demo("tls", 1)["sessions"] if row["trace"] == trace]
    assert sum(row["ike_seen"] for row in rows) == truth["sk_ok"]
    assert sum(row["esp_seen"] for row in rows) == truth["esp_ok"]
    assert sum(row["ah_seen"] for row in rows) == truth.get("ah_ok", 0)


def test_demos_have_networks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, free = (loopback.subnet() for _ in range(3))
    drawn = iter([int(octet) - 1 for subnet in (one, other, free) for octet in subnet.split(".")[1:]])
    monkeypatch.setattr("secrets.randbelow", lambda limit: next(drawn))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind((f"{one}.2", PORT))
        datagrams.bind((f"{other}.3", PORT))
        assert _loopback_pair() == (f"{free}.2", f"{free}.3")


def test_a_port_that_somebody_has_on_all_addresses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bound for real it would be taken from whatever test runs beside this one.
    monkeypatch.setattr("cxtp.demo._is_free", lambda address: False)
    with pytest.raises(ConfigurationError, match="listens on all addresses"):
        _loopback_pair()


def test_the_json_has_the_fields_that_are_promised() -> None:
    row = demo("tls", 1)["sessions"][0]
    head = ["trace", "suite", "contexts", "octets", "milliseconds"]
    counts = ["ike_seen", "ike_opened", "esp_seen", "esp_opened"]
    assert [name for name in row if not name.startswith("ah_")] == [*head, *counts, "keys_match"]


def copy_of(tmp_path: Path, trace: str) -> Path:
    target = tmp_path / trace
    shutil.copytree(TRACES / trace, target)
    return target


def test_a_packet_that_was_changed_is_not_opened(tmp_path: Path) -> None:
    trace = copy_of(tmp_path, "k-raw-gcm")
    capture = bytearray((trace / "outer.pcap").read_bytes())
    capture[-1] ^= 1  # the recording ends with an IKE message: its ICV
    (trace / "outer.pcap").write_bytes(capture)
    result = cxtp("demo", "--trace", trace, "--transport", "udp", "--json")
    assert result.returncode == 1
    answer = json.loads(result.stdout)
    (row,) = answer["sessions"]
    assert answer["ok"] is False
    assert row["ike_opened"] + row["esp_opened"] == row["ike_seen"] + row["esp_seen"] - 1
    assert "packet " in result.stderr


def test_what_is_left_out_is_said_though_all_else_was_opened(tmp_path: Path) -> None:
    """As an export with one more client looks whose authentication failed: an IKE_ADD, and no IKE_UPDATE ever."""
    trace = copy_of(tmp_path, "k-raw-gcm")
    add = next(d for d in udp_datagrams(trace / "ha.pcap", 4510) if d.payload[1] == 1)  # IKE_ADD
    spi = add.payload.index(bytes.fromhex("0102")) + 2  # IKE_ID: attribute 1, IKE version 2, SPI of the initiator
    other = add.payload[:spi] + bytes(8 * [0xAB]) + add.payload[spi + 8 :]
    with (trace / "ha.pcap").open("ab") as capture:
        capture.write(pcap_record(other))
    result = cxtp("demo", "--trace", trace, "--transport", "udp", "--json")
    assert result.returncode == 0
    assert len(json.loads(result.stdout)["sessions"]) == 1
    assert "left out: IKE_SA abababababababab" in result.stderr


def pcap_record(payload: bytes) -> bytes:
    """A pcap record (little-endian, Ethernet) of a datagram on loopback to UDP port 4510."""
    udp = struct.pack("!HHHH", 4510, 4510, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4)) + udp
    frame = bytes(12) + b"\x08\x00" + ip
    return struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame


def test_keys_json_only_compares(tmp_path: Path) -> None:
    trace = copy_of(tmp_path, "v5-plain")
    keys = json.loads((trace / "keys.json").read_text())
    sk_d = keys["ike_sas"][0]["sk_d"]
    keys["ike_sas"][0]["sk_d"] = "00" * (len(sk_d) // 2)
    (trace / "keys.json").write_text(json.dumps(keys))
    wrong = cxtp("demo", "--trace", trace, "--transport", "udp", "--json")
    assert wrong.returncode == 1
    (row,) = json.loads(wrong.stdout)["sessions"]
    assert row["keys_match"] is False
    assert row["ike_opened"] == row["ike_seen"]

    (trace / "keys.json").unlink()
    without = cxtp("demo", "--trace", trace, "--transport", "udp", "--json")
    assert without.returncode == 0
    assert json.loads(without.stdout)["sessions"][0]["keys_match"] is None


def test_a_directory_that_is_no_trace(tmp_path: Path) -> None:
    result = cxtp("demo", "--trace", tmp_path)
    assert result.returncode == 2
    assert "ha.pcap and outer.pcap" in result.stderr


def secrets_of(trace: str) -> set[str]:
    keys = json.loads((TRACES / trace / "keys.json").read_text())
    names = re.compile(r"(sk_|key_|integ_key_|dh_shared|skeyseed|add_secret)")
    rows = [*keys["ike_sas"], *keys["child_sas"]]
    found = {value for row in rows for name, value in row.items() if names.match(name)}
    return {value for value in found if isinstance(value, str) and value}


@pytest.mark.parametrize("transport", ["tls", "udp"])
def test_the_capture_dissects_and_keys_stay_hidden_unless_asked_for(tmp_path: Path, transport: str) -> None:
    out = tmp_path / "out.pcap"
    trace = TRACES / "k-transport-cbc"
    moved = cxtp("-vv", "demo", "--trace", trace, "--transport", transport, "--key-case", "3", "--pcap", out)
    assert moved.returncode == 0, moved.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    as_json, as_text = cxtp("dissect", out, "--json"), cxtp("dissect", out)
    assert (as_json.returncode, as_text.returncode) == (0, 0)
    messages = [item["message"] for item in json.loads(as_json.stdout)["messages"]]
    kinds = [message["type"] for message in messages]
    assert list(dict.fromkeys(kinds)) == ["CTD", "CTDR"]  # a busy machine repeats over UDP
    assert transport == "udp" or len(kinds) == 2
    assert [context["context_type"] for context in messages[0]["contexts"]] == [
        "transfer manifest",
        "IKE_SA",
        "IPsec_SA",
    ]
    assert messages[-1]["success"] is True
    hidden = moved.stdout + moved.stderr + as_json.stdout + as_text.stdout
    shown = cxtp("dissect", out, "--json", "--show-keys").stdout
    secrets = secrets_of("k-transport-cbc")
    assert len(secrets) >= 10
    assert not [secret for secret in secrets if secret in hidden]
    assert len([secret for secret in secrets if secret in shown]) >= 8  # SK_*, both directions' keys


def test_tshark_finds_no_fault_in_the_capture(tmp_path: Path) -> None:
    tshark = shutil.which("tshark")
    if tshark is None:
        assert os.environ.get("CI") != "true", "tshark is missing: apt-get install tshark"
        pytest.skip("needs tshark: apt-get install tshark")
    out = tmp_path / "out.pcap"
    assert cxtp("demo", "--trace", TRACES / "v5-plain", "--pcap", out).returncode == 0
    fields = ["-T", "fields", "-e", "_ws.expert.message", "-e", "tcp.port"]
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    checks += ["-Y", "_ws.malformed or _ws.expert.severity >= 6291456"]  # warnings and errors
    found = subprocess.run([tshark, "-r", str(out), *checks, *fields], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
