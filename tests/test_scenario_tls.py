"""The TLS of the scenarios: OpenSSL talks with either end; Wireshark opens it with what the capture itself holds."""

from __future__ import annotations

import random
import ssl
import struct
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from test_wireshark import tshark
from witnesses import wireshark

from cxtp.adapters.capture import tcp_streams
from cxtp.cli import main
from cxtp.errors import LocalError
from cxtp.scenarios.tls13 import Client, Identity, Server, identities, records

SCENARIOS = Path(__file__).parent.parent / "pcaps" / "scenarios"
NOW = datetime.now(timezone.utc)

__all__ = ["tshark"]


def openssl(identity: Identity, directory: Path, *, server: bool) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """One end of OpenSSL's, which verifies as cxtp node does, and what goes in and comes out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(identity.authority))
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "pem").write_bytes(key + ssl.DER_cert_to_PEM_cert(identity.certificate).encode())
    context.load_cert_chain(directory / "pem")
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if server else "new.example.org"
    return context.wrap_bio(inward, outward, server_side=server, server_hostname=name), inward, outward


@pytest.fixture
def pair() -> tuple[Identity, Identity]:
    ours, theirs = identities(random.Random(1), ("previous.example.org", "new.example.org"), NOW)
    return ours, theirs


def test_openssl_as_the_server(pair: tuple[Identity, Identity], tmp_path: Path) -> None:
    client = Client(pair[0], random.Random(2), "new.example.org")
    server, inward, outward = openssl(pair[1], tmp_path, server=True)
    inward.write(client.hello())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    inward.write(client.answer(outward.read()))
    server.do_handshake()  # certificate, signature and Finished are right
    certificate = server.getpeercert() or {}
    assert certificate["subjectAltName"] == (("DNS", "previous.example.org"),)
    inward.write(client.send(b"x" * 20_000))
    assert server.read(16_384) + server.read(16_384) == b"x" * 20_000
    server.write(b"y" * 20_000)
    assert client.receive(outward.read()) == b"y" * 20_000  # OpenSSL's tickets before it are passed over
    inward.write(client.close())
    assert server.read() == b""


def test_openssl_as_the_client(pair: tuple[Identity, Identity], tmp_path: Path) -> None:
    server = Server(pair[1], random.Random(3))
    client, inward, outward = openssl(pair[0], tmp_path, server=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    inward.write(server.answer(outward.read()))
    client.do_handshake()
    server.finish(outward.read())
    client.write(b"asked")
    assert server.receive(outward.read()) == b"asked"
    inward.write(server.send(b"answered"))
    assert client.read() == b"answered"


def test_a_wrong_signature_would_be_seen(pair: tuple[Identity, Identity], tmp_path: Path) -> None:
    """OpenSSL does check what the two tests above rely on."""
    forged = Identity(pair[1].certificate, pair[0].private_key, pair[1].authority)
    server = Server(forged, random.Random(3))
    client, inward, outward = openssl(pair[0], tmp_path, server=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    inward.write(server.answer(outward.read()))
    with pytest.raises(ssl.SSLError, match=r"(?i)signature"):
        client.do_handshake()


def test_records_that_break_off() -> None:
    for octets in (b"\x16", b"\x16\x03\x03\0\5abcd"):
        with pytest.raises(LocalError):
            list(records(octets))


# --- the captures ---------------------------------------------------------------------------------------------------


def key_log(capture: Path) -> dict[str, bytes]:
    """The lines of its Decryption Secrets Blocks (draft-ietf-opsawg-pcapng, 4.7): label, secret."""
    octets, found, at = capture.read_bytes(), {}, 0
    while at < len(octets):
        kind, length = struct.unpack("<II", octets[at : at + 8])
        if kind == 10:
            secrets_type, size = struct.unpack("<4sI", octets[at + 8 : at + 16])
            assert secrets_type == b"KSLT"  # "TLSK" as a number, octets reversed
            for line in octets[at + 16 : at + 16 + size].decode().splitlines():
                label, _, secret = line.split(" ")
                found[label] = bytes.fromhex(secret)
        at += length
    return found


def opened(secret: bytes, stream: bytes) -> bytes:
    """The application data of one direction, by RFC 8446 (5.2, 7.3) with the library's HKDF; records under other keys
    are passed over."""

    def derived(label: bytes, octets: int) -> bytes:
        info = struct.pack("!HB", octets, 6 + len(label)) + b"tls13 " + label + b"\0"
        return HKDFExpand(SHA384(), octets, info).derive(secret)

    aead, iv = AESGCM(derived(b"key", 32)), int.from_bytes(derived(b"iv", 12), "big")
    found, number, at = b"", 0, 0
    while at < len(stream):
        length = int.from_bytes(stream[at + 3 : at + 5], "big")
        record, at = stream[at : at + 5 + length], at + 5 + length
        try:
            plain = aead.decrypt((iv ^ number).to_bytes(12, "big"), record[5:], record[:5])
        except InvalidTag:  # of the handshake's keys
            continue
        number += 1
        found += plain[:-1] if plain[-1] == 23 else b""
    return found


def tls_messages(capture: Path) -> list[bytes]:
    """All CXTP messages inside TLS, client's first."""
    secrets, streams = key_log(capture), {5091: b"", 0: b""}
    for data in tcp_streams(capture, 5091):
        streams[5091 if data.source_port == 5091 else 0] += data.payload
    found = []
    for port, label in ((0, "CLIENT"), (5091, "SERVER")):
        rest = opened(secrets[f"{label}_TRAFFIC_SECRET_0"], streams[port])
        while rest:
            length = int.from_bytes(rest[2:4], "big")
            found.append(rest[:length])
            rest = rest[length:]
    return found


@pytest.mark.parametrize("name", ["tls", "handover-tls"])
def test_wireshark_decrypts_with_the_captures_own_secrets(name: str, tshark: str, tmp_path: Path) -> None:
    """No option but our dissector; every record is opened, and the certificates are those of both sides."""
    capture = SCENARIOS / f"{name}.pcapng"
    command = [tshark, "-X", f"lua_script:{wireshark.SCRIPT}", "-r", str(capture), "-Y", "tls", "-T", "fields"]
    fields = ("tls.record.opaque_type", "tls.record.content_type", "tls.handshake.type", "x509ce.dNSName",
              "tls.alert_message.desc", "cxtp.type")  # fmt: skip
    command += ["-E", "separator=|", *(word for field in fields for word in ("-e", field))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [dict(zip(fields, line.split("|"), strict=True)) for line in said.splitlines()]
    handshake = [kind for row in rows for kind in row["tls.handshake.type"].split(",") if kind]
    assert handshake == ["1", "2", "8", "13", "11", "15", "20", "11", "15", "20"]
    assert [row["x509ce.dNSName"] for row in rows if row["x509ce.dNSName"]] == [
        "new.example.org", "previous.example.org",
    ]  # fmt: skip
    kinds = {"tls": ["7", "3", "5"], "handover-tls": ["3", "5"]}[name]
    assert [row["cxtp.type"] for row in rows if row["cxtp.type"]] == kinds
    assert [row["tls.alert_message.desc"] for row in rows if row["tls.alert_message.desc"]] == ["0", "0"]
    # what is not opened has an opaque type and no content type of its own
    for row in rows[2:]:
        assert len(row["tls.record.content_type"].split(",")) >= len(row["tls.record.opaque_type"].split(",")), row
    without = tmp_path / "without.pcap"
    assert main(["pcap", "make", name, "-o", str(without)]) == 0
    blind = subprocess.run([*command[:4], str(without), *command[5:]], capture_output=True, text=True, check=True)
    assert not any(line.split("|")[-1] for line in blind.stdout.splitlines())  # pcap has no place for secrets
