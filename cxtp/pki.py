"""A cluster's own certificate authority and its nodes' certificates, for TLS 1.3 between nodes (RFC 5280).

One directory, mode 0700, holds ``ca.crt``, ``ca.key`` and per node ``NODE.crt``, ``NODE.key``; all PEM, mode
0600.  A node needs ``ca.crt`` and its own two; ``ca.key`` belongs to whoever enrols nodes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import ConfigurationError
from .messages import IPAddress
from .private_files import PathLike, read_limited, read_private, write_private

BACKDATE = timedelta(minutes=5)
"""Certificates start so long before they are made: nodes' clocks differ."""

MAXIMUM_DAYS = 36_500
_MAXIMUM_PEM = 64 * 1024
_AUTHORITY = "ca"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_AUTHORITY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class CertificatePaths:
    """Where a certificate, its private key, and the authority's certificate are."""

    certificate: Path
    private_key: Path
    authority: Path


@dataclass(frozen=True)
class CertificateDescription:
    """One certificate of a directory; times in UTC, ``addresses`` and ``node_name`` empty for the authority."""

    path: Path
    subject: str
    node_name: str
    addresses: tuple[IPAddress, ...]
    serial_number: int
    not_before: datetime
    not_after: datetime
    sha256: str
    is_authority: bool


def create_authority(
    directory: PathLike, name: str, valid_days: int, *, now: datetime, force: bool = False
) -> CertificatePaths:
    """Make the directory and in it an authority that can sign node certificates and no other authority.

    ``now`` with a time zone.  Raises :class:`ConfigurationError` for a bad name, and where an authority exists
    already unless ``force``: every certificate of the old one is then worthless.
    """
    if not _AUTHORITY_NAME.fullmatch(name):
        raise ConfigurationError("an authority's name is 1 to 64 letters, digits, spaces and . _ -")
    not_before, not_after = _validity(now, valid_days)
    paths = _paths(directory, _AUTHORITY)
    _refuse_existing(paths, force)
    _make_directory(Path(directory))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(paths, certificate, key, force)
    return paths


def create_node_certificate(
    directory: PathLike,
    node_name: str,
    addresses: Sequence[str | IPAddress],
    valid_days: int,
    *,
    now: datetime,
    force: bool = False,
) -> CertificatePaths:
    """Make a node's key and its certificate, signed by the directory's authority, for both ends of TLS.

    ``node_name`` is a DNS name in lower case, ``addresses`` where other nodes reach it.  The certificate ends with the
    authority's at the latest.  Raises :class:`ConfigurationError` for a bad name or address, an existing file
    unless ``force``, and an authority that is missing, expired or unreadable.
    """
    _check_node_name(node_name)
    parsed = [_parse_address(address) for address in addresses]
    not_before, not_after = _validity(now, valid_days)
    paths = _paths(directory, node_name)
    _refuse_existing(paths, force)
    authority, authority_key = _load_authority(directory)
    if not authority.not_valid_before_utc <= now < authority.not_valid_after_utc:
        raise ConfigurationError(f"{paths.authority} is not valid now: make a new authority")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(node_name)]
    names += [x509.IPAddress(address) for address in dict.fromkeys(parsed)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_name[:64])])  # RFC 5280: ub-common-name 64
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(
            subject,
            authority.subject,
            key.public_key(),
            max(not_before, authority.not_valid_before_utc),
            min(not_after, authority.not_valid_after_utc),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_identifier(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(paths, certificate, key, force)
    return paths


def node_paths(directory: PathLike, node_name: str) -> CertificatePaths:
    """A node's three files, checked to be there; :class:`ConfigurationError` says what to do if one is not."""
    _check_node_name(node_name)
    paths = _paths(directory, node_name)
    for path in (paths.authority, paths.certificate, paths.private_key):
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing: make it with cxtp pki, or copy it from where it was made")
    read_private(paths.private_key, _MAXIMUM_PEM)  # refuses one that others can read
    return paths


def authority_paths(directory: PathLike) -> CertificatePaths:
    """The authority's files, checked to be there (ConfigurationError otherwise)."""
    _load_authority(directory)
    return _paths(directory, _AUTHORITY)


def describe(directory: PathLike) -> tuple[CertificateDescription, ...]:
    """Every certificate in the directory, the authority's first; :class:`ConfigurationError` for a broken one."""
    root = Path(directory)
    if not root.is_dir():
        raise ConfigurationError(f"{root} is no directory: make an authority with cxtp pki")
    descriptions = [_describe(path) for path in sorted(root.glob("*.crt"))]
    return tuple(sorted(descriptions, key=lambda description: (not description.is_authority, description.path)))


def _describe(path: Path) -> CertificateDescription:
    certificate = _load_certificate(path)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    dns_names = names.get_values_for_type(x509.DNSName) if names else []
    addresses = names.get_values_for_type(x509.IPAddress) if names else []
    return CertificateDescription(
        path=path,
        subject=certificate.subject.rfc4514_string(),
        node_name=dns_names[0] if dns_names else "",
        addresses=tuple(address for address in addresses if isinstance(address, (IPv4Address, IPv6Address))),
        serial_number=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        is_authority=_is_authority(certificate),
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_node_name(name: str) -> None:
    """A host name of RFC 1123, 2.1: it becomes a DNS name and a file name."""
    labels = name.split(".")
    if len(name) > 253 - len(".crt") or not all(_LABEL.fullmatch(label) for label in labels):
        raise ConfigurationError("a node's name is a DNS name in lower case: letters, digits, - and .")
    if labels[-1].isdigit():
        raise ConfigurationError("a node's name may not end in a number: it would be read as an IP address")
    if name == _AUTHORITY:
        raise ConfigurationError(f'"{_AUTHORITY}" is the authority\'s name: choose another for the node')


def _parse_address(address: str | IPAddress) -> IPAddress:
    try:
        parsed = ip_address(address)
    except ValueError:
        raise ConfigurationError(f"{address!r} is no IP address") from None
    if getattr(parsed, "scope_id", None):
        raise ConfigurationError(f"{address!r} has a zone, which a certificate can't hold")
    return parsed


def _validity(now: datetime, valid_days: int) -> tuple[datetime, datetime]:
    if now.tzinfo is None:
        raise ConfigurationError("now must have a time zone")
    if not 1 <= valid_days <= MAXIMUM_DAYS:
        raise ConfigurationError(f"a certificate is valid for 1 to {MAXIMUM_DAYS} days")
    start = now.astimezone(timezone.utc).replace(microsecond=0)
    return start - BACKDATE, start + timedelta(days=valid_days)


def _paths(directory: PathLike, name: str) -> CertificatePaths:
    root = Path(directory)
    return CertificatePaths(root / f"{name}.crt", root / f"{name}.key", root / f"{_AUTHORITY}.crt")


def _refuse_existing(paths: CertificatePaths, force: bool) -> None:
    for path in (paths.certificate, paths.private_key):
        if path.exists() and not force:
            raise ConfigurationError(f"{path} exists already: it is only replaced if you force it")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"{directory} can't be made: {error.strerror}") from error
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"{directory} is open to others (mode {mode:04o}): chmod 700 {directory}")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the authority's own SKI says, which another tool may have made in another way than RFC 5280's first."""
    try:
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _write(
    paths: CertificatePaths, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, force: bool
) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(paths.private_key, pem, replace=force)
    write_private(paths.certificate, certificate.public_bytes(Encoding.PEM), replace=force)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(read_limited(path, _MAXIMUM_PEM))
        _ = certificate.extensions  # parsed at the first look
        return certificate
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise ConfigurationError(f"{path} is no PEM certificate") from None


def _load_authority(directory: PathLike) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    paths = _paths(directory, _AUTHORITY)
    certificate = _load_certificate(paths.certificate)
    if not _is_authority(certificate):
        raise ConfigurationError(f"{paths.certificate} is no authority's certificate")
    try:
        key = load_pem_private_key(read_private(paths.private_key, _MAXIMUM_PEM), password=None)
    except (ValueError, TypeError):
        raise ConfigurationError(f"{paths.private_key} is no PEM private key without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{paths.private_key} is not the key of {paths.certificate}")
    return certificate, key
