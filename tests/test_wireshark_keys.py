"""``cxtp keys wireshark``: tshark decrypts the recorded sessions with our tables; strongSwan wrote the same lines."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from session_examples import LOCAL, REMOTE, esp_proposals, ipsec_context, keys_for, octets
from test_wireshark import tshark

from contexts.algorithms import ENCRYPTION, CipherKind
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from contexts.session.esp import IpsecSaSession
from contexts.values import SequenceNumbers
from cxtp.adapters.capture import PcapWriter
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.adapters.wireshark_tables import wireshark_tables
from cxtp.cli import main
from cxtp.commands.keys import write

__all__ = ["tshark"]

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
NAMES = sorted(path.parent.name for path in TRACES.glob("*/outer.pcap"))
WITHHELD = {"k-chacha20-rekeys", "v5-mlkem-addke3"}
"""ChaCha20-Poly1305: Wireshark 4.0 has it neither for IKEv2 nor for ESP."""
UNCHECKED = {"k-esn-gcm12", "k-esn-w128"}
"""ESN: Wireshark 4.0 has no place for the high 32 bits, so that it decrypts but can't check the ICV."""
SEVERAL_GENERATIONS = {"v4-addke"}
"""RFC 9370: IKE_INTERMEDIATE and IKE_AUTH have keys of their own under the same SPIs, and Wireshark takes one."""
IKE_SA_INIT, IKE_AUTH, IKE_INTERMEDIATE = "34", "35", "43"
INNER = {"0x04", "0x29", "0x01", "0x6c"}  # IPv4, IPv6, ICMP in transport mode, IPComp


@dataclass(frozen=True)
class Said:
    stdout: str
    stderr: str


def keys(*arguments: str | Path, code: int = 0) -> Said:
    """The command in this process: a new one for each takes most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main(["keys", "wireshark", *map(str, arguments)])
    assert found == code, out.getvalue() + err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def dissected(tshark: str, trace: str, profile: Path) -> list[dict[str, str]]:
    """What tshark finds in each packet with the tables in ``profile``."""
    return read(tshark, TRACES / trace / "outer.pcap", profile)


def read(tshark: str, capture: Path, profile: Path) -> list[dict[str, str]]:
    fields = ("isakmp.exchangetype", "isakmp.enc.decrypted", "isakmp.ikev2.integrity_checksum", "esp.spi",
              "esp.protocol", "esp.icv_good", "esp.icv_bad", "_ws.malformed")  # fmt: skip
    command = [tshark, "-r", str(capture), "-o", "esp.enable_authentication_check:TRUE"]
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
    wrong = {p["isakmp.exchangetype"] for p in packets if p["_ws.malformed"] or p["isakmp.ikev2.integrity_checksum"]}
    assert wrong == ({IKE_INTERMEDIATE} if trace in SEVERAL_GENERATIONS else set())


@pytest.mark.parametrize("trace", sorted(SEVERAL_GENERATIONS))
def test_each_generation_opens_its_messages(trace: str, tshark: str, tmp_path: Path) -> None:
    """The table has them all, the current one last, where Wireshark takes it; the others by a table of their own."""
    keys("--trace", TRACES / trace, "-o", tmp_path)
    lines = (tmp_path / "ikev2_decryption_table").read_text().splitlines()
    spis = [line.split(",")[:2] for line in lines]
    several = [line for line, pair in zip(lines, spis, strict=True) if spis.count(pair) > 1]
    assert len(several) == 3
    opened = []
    for number, line in enumerate(several):
        profile = tmp_path / str(number)
        profile.mkdir()
        (profile / "ikev2_decryption_table").write_text(f"{line}\n")
        packets = dissected(tshark, trace, profile)
        sound = [p for p in packets if p["isakmp.enc.decrypted"] and not p["isakmp.ikev2.integrity_checksum"]]
        opened.append([packet["isakmp.exchangetype"] for packet in sound])
    assert opened[:2] == [[IKE_INTERMEDIATE] * 2] * 2
    assert opened[2][:2] == [IKE_AUTH] * 2


@pytest.mark.parametrize("extended", [False, True], ids=["32 bits", "ESN"])
def test_every_algorithm_of_esp(extended: bool, tshark: str, tmp_path: Path) -> None:
    """Each that Wireshark knows, as our sessions seal it, its ICV checked; with ESN only decrypted."""
    payload = struct.pack("!HHHH", 4067, 4067, 8 + 32, 0) + bytes(32)
    contexts = []
    with PcapWriter(tmp_path / "sealed.pcap") as writer:
        for number, proposal in enumerate(esp_proposals(extended=extended)):
            context = ipsec_context(
                proposal, keys_for(proposal), inbound_spi=0xC0000000 + number, outbound_spi=0xD0000000 + number,
                sequence_numbers=SequenceNumbers(outbound=(5 << 32) + 7 if extended else 7),
            )  # fmt: skip
            contexts.append(context)
            session = RestoredSession.restore([context]).ipsec_sa(context.inbound_spi)
            assert isinstance(session, IpsecSaSession)
            iv = octets(session.iv_octets, number)
            writer.write_ip(float(number), LOCAL, REMOTE, 50, session.seal_outbound(payload, 17, iv))
    tables = wireshark_tables(contexts)
    write(tmp_path, tables)
    unknown = (CipherKind.AES_CCM, CipherKind.AES_GMAC, CipherKind.CHACHA20_POLY1305)
    seen: Counter[str] = Counter()
    for context, packet in zip(contexts, read(tshark, tmp_path / "sealed.pcap", tmp_path), strict=True):
        assert context.proposal.encryption is not None
        kind = ENCRYPTION[context.proposal.encryption].kind
        if kind in unknown:
            assert packet["esp.protocol"] == ""
            assert any(f"{context.inbound_spi:08x}" in line for line in tables.withheld)
            continue
        name = context.proposal.name
        assert packet["esp.protocol"] == "0x11", name
        checked = "CMAC" not in name and "XCBC" not in name
        if extended:
            assert packet["esp.icv_good"] in ("0", "False"), name
            assert packet["esp.icv_bad"] in (("1", "True") if kind is CipherKind.AES_GCM else ("0", "False")), name
        else:
            assert packet["esp.icv_good"] in (("1", "True") if checked else ("0", "False")), name
        seen[kind.name] += 1
    assert set(seen) == {"AES_CBC", "AES_CTR", "AES_GCM", "NULL", "TRIPLE_DES_CBC"}, seen


def test_a_context_file_has_the_same_keys_as_the_recording(tmp_path: Path) -> None:
    trace = TRACES / "rekey-ike-child"
    export = ["context", "export", "--ha", str(trace / "ha.pcap"), "--keep-deleted", "--plaintext-keys"]
    assert main([*export, "-o", str(tmp_path / "x.ctx")]) == 0
    keys(tmp_path / "x.ctx", "-o", tmp_path / "file")
    keys("--trace", trace, "-o", tmp_path / "trace")
    for name in ("ikev2_decryption_table", "esp_sa", "preferences"):
        assert stat.S_IMODE((tmp_path / "file" / name).stat().st_mode) == 0o600
        found, recorded = ((tmp_path / d / name).read_text().splitlines() for d in ("file", "trace"))
        assert found
        assert set(found) <= set(recorded)


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


def test_what_the_installed_wireshark_refuses_is_told(tshark: str, tmp_path: Path) -> None:
    """Names of another version: place alone, for the value may be a key."""
    (tmp_path / "esp_sa").write_text('"IPv4","*","*","0xc0000001","Secret-of-5.0","0x00","NULL",""\n')
    done = keys("--trace", TRACES / "v5-plain", "-o", tmp_path, "--json", code=1)
    assert json.loads(done.stdout)["refused"] == ["esp_sa:1"]
    assert "esp_sa:1: the installed Wireshark does not take this line" in done.stderr
    assert "Secret" not in done.stdout + done.stderr
    (tmp_path / "esp_sa").write_text('"IPv4","*","*","0xc0000001","NULL","","NULL","","64-bit"\n')
    assert json.loads(keys("--trace", TRACES / "v5-plain", "-o", tmp_path, "--json", code=1).stdout)["refused"]


def test_no_source_of_keys_is_an_error(tmp_path: Path) -> None:
    assert "name a context file" in keys("-o", tmp_path, code=2).stderr
    assert "ha.pcap" in keys("--trace", tmp_path, "-o", tmp_path, code=2).stderr


def test_an_algorithm_that_is_not_known_here_is_named_and_the_rest_written() -> None:
    """Camellia-CBC (23), which strongSwan may negotiate: for a CHILD_SA, for an IKE_SA with its children."""
    contexts = [
        c
        for s in read_ha_capture(TRACES / "two-children" / "ha.pcap", keep_deleted=True).sessions()
        for c in s.contexts
        if isinstance(c, (IkeSaContext, IpsecSaContext))
    ]
    whole = wireshark_tables(contexts)
    first = next(n for n, c in enumerate(contexts) if isinstance(c, IpsecSaContext))
    assert not whole.withheld

    def with_camellia(place: int) -> list[IkeSaContext | IpsecSaContext]:
        item = contexts[place]
        other = replace(item, proposal=replace(item.proposal, encryption=23))  # type: ignore[type-var]
        return [*contexts[:place], other, *contexts[place + 1 :]]

    child = wireshark_tables(with_camellia(first))
    assert (child.ikev2, len(child.esp), len(child.withheld)) == (whole.ikev2, len(whole.esp) - 2, 1)
    assert "encryption algorithm 23 is not supported" in child.withheld[0]
    parent = wireshark_tables(with_camellia(next(n for n, c in enumerate(contexts) if isinstance(c, IkeSaContext))))
    assert (parent.ikev2, parent.esp, len(parent.withheld)) == ([], [], len(contexts))
