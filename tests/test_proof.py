"""The proof that a node holds a session: all that was seen is opened, keys are compared and never used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader, RawPcapWriter

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
from contexts.values import SharedSecret
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.errors import ConfigurationError, RemoteError
from cxtp.proof import FAILURES_KEPT, Proof, compare_keys, open_capture, suite_of

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
WITH_KEYS = sorted(path.parent.name for path in TRACES.glob("*/keys.json"))


@cache
def session(trace: str) -> tuple[Context, ...]:
    (found,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    return found.contexts


@pytest.mark.parametrize("trace", WITH_KEYS)
def test_as_many_packets_as_the_recordings_own_notes_say(trace: str) -> None:
    """README.txt tells what another decryption with the daemon's own keys opened, or what tshark counted."""
    found = re.search(r"(?:own Python decryption|tshark): (\{.*?\})", (TRACES / trace / "README.txt").read_text())
    assert found is not None
    truth = json.loads(found.group(1))
    proof = open_capture(session(trace), TRACES / trace / "outer.pcap")
    expected = {"ike": truth["sk_ok"], "esp": truth["esp_ok"], "ah": truth.get("ah_ok", 0)}
    assert {kind: proof.opened[kind] for kind in expected} == expected
    assert proof.complete
    assert proof.failures == []


def rewritten(source: Path, target: Path, change: Iterable[tuple[int, int]], copies: int = 1) -> Path:
    """The capture with one bit flipped in octet ``from the end`` of packet ``number`` (from 1), so many times over."""
    flips = dict(change)
    with RawPcapReader(str(source)) as reader:
        frames, link_type = [(data, meta) for data, meta in reader], reader.linktype
    writer = RawPcapWriter(str(target), linktype=link_type)
    writer.write_header(None)
    for _ in range(copies):
        for number, (data, meta) in enumerate(frames, 1):
            octets = bytearray(data)
            if number in flips:
                octets[-flips[number]] ^= 1
            writer.write_packet(bytes(octets), sec=meta.sec, usec=meta.usec)
    writer.close()
    return target


def protected_packets(trace: str) -> dict[str, list[int]]:
    """The numbers of the packets by kind, told by protocol and port alone (IPv4 without options, Ethernet)."""
    found: dict[str, list[int]] = {"esp": [], "ike": []}
    with RawPcapReader(str(TRACES / trace / "outer.pcap")) as reader:
        assert reader.linktype == 1
        for number, (frame, _) in enumerate(reader, 1):
            protocol = frame[23] if frame[12:14] == b"\x08\x00" else 0
            if protocol == 50:
                found["esp"].append(number)
            elif protocol == 17 and 500 in (int.from_bytes(frame[34:36], "big"), int.from_bytes(frame[36:38], "big")):
                found["ike"].append(number)
    return found


@pytest.mark.parametrize("kind", ["esp", "ike"])
def test_a_packet_with_one_bit_changed_is_named_and_the_others_are_opened(tmp_path: Path, kind: str) -> None:
    trace = "k-raw-gcm"
    number = protected_packets(trace)[kind][-1]
    source = TRACES / trace / "outer.pcap"
    changed = rewritten(source, tmp_path / "changed.pcap", [(number, 1)])
    proof, whole = open_capture(session(trace), changed), open_capture(session(trace), source)
    assert not proof.complete
    assert proof.seen == whole.seen
    assert proof.opened[kind] == whole.opened[kind] - 1
    (failure,) = proof.failures
    assert failure.startswith(f"packet {number}, {kind}: ")


def test_a_packet_that_was_recorded_twice_is_opened_twice(tmp_path: Path) -> None:
    trace = "k-esn-w128"
    twice = rewritten(TRACES / trace / "outer.pcap", tmp_path / "twice.pcap", [], copies=2)
    proof, once = open_capture(session(trace), twice), open_capture(session(trace), TRACES / trace / "outer.pcap")
    assert {kind: 2 * n for kind, n in once.opened.items()} == proof.opened
    assert proof.complete


def test_reasons_are_kept_up_to_a_number_and_all_failures_are_counted() -> None:
    """Another session's secret under the same SPIs: nothing opens."""
    wrong = []
    for context in session("k-esn-w128"):
        if isinstance(context, IkeSaContext):
            assert isinstance(context.keying, SharedSecret)
            context = replace(context, keying=replace(context.keying, shared_secret=bytes(32)))
        wrong.append(context)
    proof = open_capture(wrong, TRACES / "k-esn-w128" / "outer.pcap")
    assert sum(proof.seen.values()) > FAILURES_KEPT
    assert (sum(proof.opened.values()), len(proof.failures)) == (0, FAILURES_KEPT)


def test_nothing_of_another_session_is_seen() -> None:
    proof = open_capture(session("v5-plain"), TRACES / "k-raw-gcm" / "outer.pcap")
    assert proof == Proof()


def test_a_capture_that_breaks_off(tmp_path: Path) -> None:
    octets = (TRACES / "v5-plain" / "outer.pcap").read_bytes()
    short = tmp_path / "short.pcap"
    short.write_bytes(octets[:-3])
    with pytest.raises(RemoteError, match=r"short\.pcap, packet"):
        open_capture(session("v5-plain"), short)


# --- keys.json ------------------------------------------------------------------------------------------------------

IKE_NAMES = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er")
CHILD_NAMES = ("key_in", "key_out", "integ_key_in", "integ_key_out")


@pytest.mark.parametrize(
    ("kind", "name"), [("ike_sas", name) for name in IKE_NAMES] + [("child_sas", name) for name in CHILD_NAMES]
)
@pytest.mark.parametrize("case", [1, 3])
def test_each_key_is_compared(tmp_path: Path, kind: str, name: str, case: int) -> None:
    trace = "k-transport-cbc"  # CBC and HMAC: all nine keys have octets
    contexts = with_key_case(session(trace), case)
    keys = json.loads((TRACES / trace / "keys.json").read_text())
    true_key = bytes.fromhex(keys[kind][0][name])
    assert true_key
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    assert compare_keys(contexts, path) is True
    for wrong in (bytes([true_key[0] ^ 1]) + true_key[1:], true_key[:-1], b""):
        keys[kind][0][name] = wrong.hex()
        path.write_text(json.dumps(keys))
        assert compare_keys(contexts, path) is False
    keys[kind][0][name] = None  # not known: nothing to compare
    path.write_text(json.dumps(keys))
    assert compare_keys(contexts, path) is True


def test_inbound_is_not_outbound(tmp_path: Path) -> None:
    trace = "k-transport-cbc"
    keys = json.loads((TRACES / trace / "keys.json").read_text())
    (child,) = keys["child_sas"]
    child["key_in"], child["key_out"] = child["key_out"], child["key_in"]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    assert compare_keys(session(trace), path) is False


def test_keys_of_other_sas_say_nothing() -> None:
    assert compare_keys(session("v5-plain"), TRACES / "k-raw-gcm" / "keys.json") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"ike_sas": [{}]}', '{"ike_sas": [{"spi_i": "x", "spi_r": "y"}]}', '{"child_sas": 5}'],
)
def test_what_is_no_file_of_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"keys\.json is no file of keys"):
        compare_keys(session("v5-plain"), path)
    with pytest.raises(ConfigurationError):
        compare_keys(session("v5-plain"), tmp_path / "none.json")


def test_a_wrong_key_in_keys_json_is_not_repeated(tmp_path: Path) -> None:
    keys = json.loads((TRACES / "v5-plain" / "keys.json").read_text())
    keys["ike_sas"][0]["sk_d"] = "c0ffee" * 10 + "zz"
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    with pytest.raises(ConfigurationError) as refused:
        compare_keys(session("v5-plain"), path)
    assert "c0ffee" not in str(refused.value)


def test_the_suite_is_named_once() -> None:
    """Of a rekeyed session: the algorithms, not each SA."""
    contexts = session("rekey-ike-child")
    assert sum(isinstance(context, IpsecSaContext) for context in contexts) == 2
    assert suite_of(contexts) == "IKE:AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384 ESP:AES_GCM_16-256"
    assert suite_of([]) == ""
