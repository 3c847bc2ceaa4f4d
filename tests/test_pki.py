"""The cluster's authority and node certificates, checked by cryptography's verifier and by openssl."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cxtp.errors import ConfigurationError
from cxtp.pki import authority_paths, create_authority, create_node_certificate, describe, node_paths

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
LATER = NOW + timedelta(days=3)
ADDRESSES = ("192.0.2.1", "2001:db8::1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "pki"
    create_authority(path, "Cluster One", 365, now=NOW)
    return path


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(authority: Path, certificate: Path, *, name: str | None = None, when: datetime = LATER) -> None:
    """As a TLS client (``name`` given: it checks a server's certificate) or as a TLS server."""
    builder = PolicyBuilder().store(Store([load(authority)])).time(when)
    if name is None:
        builder.build_client_verifier().verify(load(certificate), [])
        return
    try:
        subject: x509.GeneralName = x509.IPAddress(ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    builder.build_server_verifier(subject).verify(load(certificate), [])  # type: ignore[arg-type]


def openssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is not there: install the package openssl")
        pytest.skip("openssl is not there (package openssl)")
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)


def openssl_verify(authority: Path, certificate: Path, *options: object, when: datetime = LATER) -> bool:
    common = ("-x509_strict", "-no-CApath", "-no-CAstore", "-attime", int(when.timestamp()))
    done = openssl("verify", *common, "-CAfile", authority, *options, certificate)
    return done.returncode == 0 and done.stdout.strip().endswith(": OK")


# --- what is accepted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["gw-a", "gw-a.example.net", "a" * 63 + "." + "b" * 63])
def test_both_verifiers_accept_a_node(directory: Path, node: str) -> None:
    paths = create_node_certificate(directory, node, ADDRESSES, 30, now=NOW)
    for name in (node, *ADDRESSES):
        verify(paths.authority, paths.certificate, name=name)
    verify(paths.authority, paths.certificate)
    for purpose in ("sslserver", "sslclient"):
        assert openssl_verify(paths.authority, paths.certificate, "-purpose", purpose)
    assert openssl_verify(paths.authority, paths.certificate, "-verify_hostname", node)
    for address in ADDRESSES:
        assert openssl_verify(paths.authority, paths.certificate, "-verify_ip", address)


def test_a_tls_13_handshake_with_both_certificates(directory: Path) -> None:
    now = datetime.now(timezone.utc)  # ssl has no clock to set
    create_authority(directory, "Cluster", 2, now=now, force=True)
    contexts = []
    for node, purpose in (("gw-a", ssl.Purpose.CLIENT_AUTH), ("gw-b", ssl.Purpose.SERVER_AUTH)):
        paths = create_node_certificate(directory, node, [], 1, now=now)
        context = ssl.create_default_context(purpose, cafile=paths.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(paths.certificate, paths.private_key)
        contexts.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts[0].wrap_bio(to_server, to_client, server_side=True)
    client = contexts[1].wrap_bio(to_client, to_server, server_hostname="gw-a")
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == server.version() == "TLSv1.3"
    client_seen, server_seen = client.getpeercert(), server.getpeercert()
    assert client_seen is not None
    assert server_seen is not None
    assert client_seen["subjectAltName"] == (("DNS", "gw-a"),)
    assert server_seen["subjectAltName"] == (("DNS", "gw-b"),)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path, directory: Path) -> None:
    create_authority(tmp_path / "other", "Cluster One", 365, now=NOW)  # of the same name
    other = create_node_certificate(tmp_path / "other", "gw-a", ADDRESSES, 30, now=NOW)
    authority = authority_paths(directory).certificate
    for name in ("gw-a", None):
        with pytest.raises(VerificationError):
            verify(authority, other.certificate, name=name)
    assert not openssl_verify(authority, other.certificate)


@pytest.mark.parametrize("name", ["gw-b", "a.gw-a", "192.0.2.2", "2001:db8::2"])
def test_another_name_is_refused(directory: Path, name: str) -> None:
    paths = create_node_certificate(directory, "gw-a", ADDRESSES, 30, now=NOW)
    with pytest.raises(VerificationError):
        verify(paths.authority, paths.certificate, name=name)


@pytest.mark.parametrize(
    ("when", "valid"),
    [
        (timedelta(minutes=-6), False),
        (timedelta(minutes=-4), True),  # the peer's clock may be behind
        (timedelta(days=30, minutes=-1), True),
        (timedelta(days=30, minutes=1), False),
    ],
)
def test_time_of_validity(directory: Path, when: timedelta, valid: bool) -> None:
    paths = create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    if valid:
        verify(paths.authority, paths.certificate, name="gw-a", when=NOW + when)
    else:
        with pytest.raises(VerificationError):
            verify(paths.authority, paths.certificate, name="gw-a", when=NOW + when)
    assert openssl_verify(paths.authority, paths.certificate, when=NOW + when) is valid


def test_a_node_can_not_sign_another_node(directory: Path, tmp_path: Path) -> None:
    paths = create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    rogue = tmp_path / "rogue"
    rogue.mkdir(mode=0o700)
    shutil.copy(paths.certificate, rogue / "ca.crt")
    shutil.copy(paths.private_key, rogue / "ca.key")
    with pytest.raises(ConfigurationError, match="no authority"):
        create_node_certificate(rogue, "gw-b", [], 30, now=NOW)


# --- contents ------------------------------------------------------------------------------------------------------


def test_the_authority(directory: Path) -> None:
    certificate = load(directory / "ca.crt")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert certificate.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=365)


def test_a_node_certificate(directory: Path) -> None:
    paths = create_node_certificate(directory, "gw-a", [*ADDRESSES, IPv4Address("192.0.2.1")], 30, now=NOW)
    certificate, authority = load(paths.certificate), load(paths.authority)
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw-a"]
    assert names.get_values_for_type(x509.IPAddress) == [IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")]
    identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    key = load_pem_private_key(paths.private_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert key.public_key() == certificate.public_key()


def test_a_node_certificate_ends_with_its_authority(directory: Path) -> None:
    paths = create_node_certificate(directory, "gw-a", [], 10_000, now=NOW)
    assert load(paths.certificate).not_valid_after_utc == load(paths.authority).not_valid_after_utc


def test_serial_numbers_are_random_and_positive(directory: Path) -> None:
    create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    create_node_certificate(directory, "gw-b", [], 30, now=NOW)
    numbers = {description.serial_number for description in describe(directory)}
    assert len(numbers) == 3
    assert all(0 < number < 1 << 159 for number in numbers)  # 20 octets, RFC 5280, 4.1.2.2
    assert max(numbers) > 1 << 64


def test_describe(directory: Path) -> None:
    create_node_certificate(directory, "gw-b", [], 30, now=NOW)
    create_node_certificate(directory, "gw-a", ADDRESSES, 30, now=NOW)
    authority, first, second = describe(directory)
    assert authority.is_authority
    assert authority.subject == "CN=Cluster One"
    assert (authority.node_name, authority.addresses) == ("", ())
    assert (first.node_name, first.addresses) == ("gw-a", tuple(map(ip_address, ADDRESSES)))
    assert (second.node_name, second.addresses, second.is_authority) == ("gw-b", (), False)
    printed = openssl("x509", "-in", first.path, "-noout", "-fingerprint", "-sha256").stdout
    assert printed.strip().rpartition("=")[2].replace(":", "").lower() == first.sha256


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_are_private(directory: Path) -> None:
    before = os.umask(0)
    try:
        create_node_certificate(directory, "gw-a", [], 30, now=NOW)
        create_authority(directory.parent / "second", "Two", 30, now=NOW)
    finally:
        os.umask(before)
    for root in (directory, directory.parent / "second"):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        for file in root.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(directory)) == ["ca.crt", "ca.key", "gw-a.crt", "gw-a.key"]


def test_nothing_is_overwritten_unless_forced(directory: Path) -> None:
    paths = create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    with pytest.raises(ConfigurationError, match="exists already"):
        create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    with pytest.raises(ConfigurationError, match="exists already"):
        create_authority(directory, "Another", 365, now=NOW)
    paths.certificate.unlink()
    with pytest.raises(ConfigurationError, match="exists already"):  # its key alone counts as well
        create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    paths.certificate.write_bytes(before["gw-a.crt"])
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    create_node_certificate(directory, "gw-a", [], 30, now=NOW, force=True)
    create_authority(directory, "Another", 365, now=NOW, force=True)
    after = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert all(after[name] != before[name] for name in before)


def test_an_open_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match=f"chmod 700 {directory}"):
        create_authority(directory, "One", 30, now=NOW)
    assert os.listdir(directory) == []


def test_paths_of_a_node(directory: Path) -> None:
    made = create_node_certificate(directory, "gw-a", [], 30, now=NOW)
    assert node_paths(directory, "gw-a") == made
    with pytest.raises(ConfigurationError, match=r"gw-b.crt is missing"):
        node_paths(directory, "gw-b")
    made.private_key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        node_paths(directory, "gw-a")


@pytest.mark.parametrize(
    "name",
    ["", "ca", "GW-A", "../ca", "a/b", "-a", "a-", "a..b", "a.", ".a", "gw_a", "gä", "a" * 64, "a b", "a\n", "a\0",
     "192.0.2.1", "1", "*.example", ".".join(["abcdefgh"] * 30)],
)  # fmt: skip
def test_bad_node_names(directory: Path, name: str) -> None:
    before = sorted(os.listdir(directory))
    with pytest.raises(ConfigurationError):
        create_node_certificate(directory, name, [], 30, now=NOW)
    with pytest.raises(ConfigurationError):
        node_paths(directory, name)
    assert sorted(os.listdir(directory)) == before


@pytest.mark.parametrize("addresses", [["gw"], ["192.0.2.1/24"], ["fe80::1%eth0"], ["192.0.2.256"], [""]])
def test_bad_addresses(directory: Path, addresses: Sequence[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"address|zone"):
        create_node_certificate(directory, "gw-a", addresses, 30, now=NOW)


@pytest.mark.parametrize("name", ["", " a", "a ", "a" * 65, "a\nb", "ä", "a/b"])
def test_bad_authority_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        create_authority(tmp_path / "pki", name, 30, now=NOW)


def test_bad_times(directory: Path) -> None:
    for days in (0, -1, 36_501):
        with pytest.raises(ConfigurationError, match="days"):
            create_node_certificate(directory, "gw-a", [], days, now=NOW)
    with pytest.raises(ConfigurationError, match="time zone"):
        create_node_certificate(directory, "gw-a", [], 1, now=NOW.replace(tzinfo=None))
    with pytest.raises(ConfigurationError, match="not valid now"):
        create_node_certificate(directory, "gw-a", [], 1, now=NOW + timedelta(days=366))


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_broken_authority(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=name):
        create_node_certificate(directory, "gw-a", [], 1, now=NOW)
    with pytest.raises(ConfigurationError, match=name):
        authority_paths(directory)


def test_an_authority_with_the_wrong_key(directory: Path, tmp_path: Path) -> None:
    other = create_authority(tmp_path / "other", "Other", 365, now=NOW)
    shutil.copy(other.private_key, directory / "ca.key")
    with pytest.raises(ConfigurationError, match="is not the key"):
        create_node_certificate(directory, "gw-a", [], 1, now=NOW)
    (directory / "ca.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        create_node_certificate(directory, "gw-a", [], 1, now=NOW)


def test_no_directory(tmp_path: Path) -> None:
    for call in (describe, authority_paths):
        with pytest.raises(ConfigurationError):
            call(tmp_path / "missing")
