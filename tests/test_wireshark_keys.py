"""``cxtp keys wireshark``: tshark decrypts the recorded sessions with our tables; strongSwan wrote the same lines."""

from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_wireshark import tshark

__all__ = ["tshark"]

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
NAMES = sorted(path.parent.name for path in TRACES.glob("*/outer.pcap"))
WITHHELD = {"k-chacha20-rekeys", "v5-mlkem-addke3"}
"""ChaCha20-Poly1305: Wireshark 4.0 has it neither for IKEv2 nor for ESP."""
UNCHECKED = {"k-esn-gcm12", "k-esn-w128"}
"""ESN: Wireshark 4.0 has no place for the high 32 bits, so that it decrypts but can't check the ICV."""
SEVERAL_GENERATIONS = {"v4-addke"}
"""RFC 9370: IKE_INTERMEDIATE and IKE_AUTH have keys of their own under the same SPIs, and Wireshark takes one."""
IKE_SA_INIT = "34"
INNER = {"0x04", "0x29", "0x01", "0x6c"}  # IPv4, IPv6, ICMP in transport mode, IPComp


def keys(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cxtp", "keys", "wireshark", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def dissected(tshark: str, trace: str, profile: Path) -> list[dict[str, str]]:
    """What tshark finds in each packet with the tables in ``profile``."""
    fields = ("isakmp.exchangetype", "isakmp.enc.decrypted", "esp.spi", "esp.protocol", "esp.icv_good",
              "esp.icv_bad", "_ws.malformed")  # fmt: skip
    command = [tshark, "-r", str(TRACES / trace / "outer.pcap"), "-o", "esp.enable_authentication_check:TRUE"]
    command += ["-T", "fields", "-E", "separator=|", *(word for name in fields for word in ("-e", name))]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(profile)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [dict(zip(fields, line.split("|"), strict=True)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("trace", NAMES)
def test_tshark_opens_all_that_the_tables_are_for(trace: str, tshark: str, tmp_path: Path) -> None:
    done = keys("--trace", TRACES / trace, "-o", tmp_path, "--json", code=1 if trace in WITHHELD else 0)
    withheld = json.loads(done.stdout)["withheld"]
    assert bool(withheld) is (trace in WITHHELD)
    assert all("CHACHA20_POLY1305" in line for line in withheld)
    for name in ("ikev2_decryption_table", "esp_sa"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    packets = dissected(tshark, trace, tmp_path)
    ike = [packet for packet in packets if packet["isakmp.exchangetype"] not in ("", IKE_SA_INIT)]
    esp = [packet for packet in packets if packet["esp.spi"]]
    assert ike
    if trace in WITHHELD:
        assert not any(packet["isakmp.enc.decrypted"] or packet["esp.protocol"] for packet in packets)
        return
    assert all(packet["isakmp.enc.decrypted"] for packet in ike)
    assert {packet["esp.protocol"] for packet in esp} <= INNER
    good = Counter(packet["esp.icv_good"] for packet in esp)
    assert set(good) <= ({"0", "False"} if trace in UNCHECKED else {"1", "True"}), good
    assert trace in SEVERAL_GENERATIONS or not any(packet["_ws.malformed"] for packet in packets)


@pytest.mark.parametrize("trace", sorted(path.parent.name for path in TRACES.glob("*/esp_sa")))
def test_strongswan_wrote_the_same_keys(trace: str, tmp_path: Path) -> None:
    """Its save-keys plugin: a second witness of names, columns and keys."""
    keys("--trace", TRACES / trace, "-o", tmp_path)
    for name, identity in (("ikev2_decryption_table", slice(0, 2)), ("esp_sa", slice(0, 4))):
        theirs = {tuple(row[identity]): row for row in csv.reader((TRACES / trace / name).read_text().splitlines())}
        ours = {tuple(row[identity]): row for row in csv.reader((tmp_path / name).read_text().splitlines())}
        assert ours or (trace, name) == ("transport-mode", "esp_sa")  # its export knows no CHILD_SA
        for key, row in ours.items():
            assert row == theirs[key]


def test_what_a_profile_has_stays_and_nothing_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "esp_sa").write_text("# mine\n")
    (tmp_path / "preferences").write_text("esp.enable_encryption_decode: FALSE\n")
    for _ in range(2):
        keys("--trace", TRACES / "v5-plain", "-o", tmp_path)
    lines = (tmp_path / "esp_sa").read_text().splitlines()
    assert lines[0] == "# mine"
    assert len(lines) == 3
    assert (tmp_path / "preferences").read_text().splitlines()[0] == "esp.enable_encryption_decode: FALSE"


def test_no_source_of_keys_is_an_error(tmp_path: Path) -> None:
    assert "name a context file" in keys("-o", tmp_path, code=2).stderr
    assert "ha.pcap" in keys("--trace", tmp_path, "-o", tmp_path, code=2).stderr
