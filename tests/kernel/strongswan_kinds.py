"""Kinds of sessions between strongSwan daemons: connections and secrets for both ends, as vici takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

SHARED = {4: ip_address("10.9.0.100"), 6: ip_address("fd00:9::100")}
GATEWAY = "gateway.example"
IKE = ("aes128gcm16-prfsha256-x25519", "aes128-sha256-x25519", "chacha20poly1305-prfsha256-ecp256")
"""What gateways take; the client offers one."""

Command = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One kind.  ``esp`` as strongSwan writes it; ``version`` of IP outside and inside; ``liveness`` seconds, 0: none;
    ``number`` makes its addresses."""

    name: str
    number: int
    authentication: str = "psk"
    ike: str = IKE[0]
    esp: str = "aes128gcm16"
    version: int = 4
    virtual: bool = False
    children: int = 1
    mobike: bool = False
    mode: str = "tunnel"
    ipcomp: bool = False
    encap: bool = False
    liveness: int = 0

    @property
    def client(self) -> IPv4Address | IPv6Address:
        """The client's address outside."""
        base = ip_address("10.9.0.20") if self.version == 4 else ip_address("fd00:9::20")
        return base + self.number

    @property
    def identity(self) -> str:
        return f"{self.name}.example"

    @property
    def width(self) -> int:
        return 32 if self.version == 4 else 128

    def child(self, number: int = 0) -> str:
        """Its name at both ends."""
        return f"{self.name}-{number + 1}"


_ALL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("psk-gcm", {}),
    ("certificates", {"authentication": "pubkey", "esp": "aes256gcm16"}),
    ("eap", {"authentication": "eap-md5", "virtual": True}),
    ("cbc", {"ike": IKE[1], "esp": "aes128-sha256"}),
    ("chacha20", {"ike": IKE[2], "esp": "chacha20poly1305"}),
    ("nat", {"encap": True}),
    ("ipv6", {"version": 6}),
    ("virtual-ip", {"virtual": True}),
    ("two-children", {"children": 2}),
    ("mobike", {"mobike": True}),
    ("transport", {"mode": "transport"}),
    ("ipcomp", {"ipcomp": True}),
    ("esn", {"esp": "aes128gcm16-esn"}),
)
KINDS = {name: Kind(name, number, **values) for number, (name, values) in enumerate(_ALL, 1)}


def inner_addresses(kind: Kind) -> list[tuple[str, str]]:
    """Per CHILD_SA: the client's address ("" where it gets a virtual one) and the gateways', each with its width."""
    if kind.mode == "transport":
        return []
    found = []
    for child in range(kind.children):
        number = kind.number + 100 * child
        if kind.version == 6:
            found.append((f"fd00:200::{number:x}/128", f"fd00:100::{number:x}/128"))
        else:
            found.append(("" if kind.virtual else f"10.200.{number}.1/32", f"10.100.{number}.1/32"))
    return found


def connections(kinds: Sequence[Kind], *, at_client: bool, credentials: Credentials) -> dict[str, Any]:
    """By name."""
    return {kind.name: _connection(kind, at_client, credentials) for kind in kinds}


def _connection(kind: Kind, at_client: bool, credentials: Credentials) -> dict[str, Any]:
    gateway: dict[str, Any] = {"auth": "psk" if kind.authentication == "psk" else "pubkey", "id": GATEWAY}
    client: dict[str, Any] = {"auth": kind.authentication, "id": kind.identity}
    if kind.authentication == "eap-md5":
        client["eap_id"] = kind.identity if at_client else "%any"
    for mine, who, name in ((at_client, client, kind.identity), (not at_client, gateway, GATEWAY)):
        if mine and who["auth"] == "pubkey":
            who["certs"] = [credentials.certificates[name]]
    yes = {True: "yes", False: "no"}
    made: dict[str, Any] = {
        "version": "2",
        "local_addrs": [str(kind.client if at_client else SHARED[kind.version])],
        "remote_addrs": [str(SHARED[kind.version]) if at_client else "%any"],
        "proposals": [kind.ike] if at_client else list(IKE),
        "mobike": yes[kind.mobike],
        "encap": yes[kind.encap and at_client],
        "local": client if at_client else gateway,
        "remote": gateway if at_client else client,
        "children": {kind.child(number): _child(kind, number, at_client) for number in range(kind.children)},
    }
    if kind.liveness:
        made["dpd_delay"] = f"{kind.liveness}s"
    if kind.virtual:
        made |= {"vips": ["0.0.0.0"]} if at_client else {"pools": ["p4"]}
    return made


def _child(kind: Kind, number: int, at_client: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "esp_proposals": [kind.esp],
        "mode": kind.mode,
        "ipcomp": "yes" if kind.ipcomp else "no",
    }
    if kind.mode == "tunnel":
        client, gateway = inner_addresses(kind)[number]
        ends = [[client or "dynamic"], [gateway]]
        made["local_ts"], made["remote_ts"] = ends if at_client else reversed(ends)
    return made


def secrets(kinds: Iterable[Kind], credentials: Credentials, *, at_client: bool) -> list[Command]:
    """vici's commands that load what an end needs to authenticate all kinds."""
    found: list[Command] = [("load_cert", {"type": "X509", "flag": "CA", "data": credentials.authority})]
    for kind in kinds:
        secret = {"data": f"the secret of {kind.name}".encode()}
        if kind.authentication == "psk":
            found.append(("load_shared", {"type": "IKE", "owners": [GATEWAY, kind.identity], **secret}))
        elif kind.authentication == "eap-md5":
            found.append(("load_shared", {"type": "EAP", "owners": [kind.identity], **secret}))
    for name, key in credentials.keys.items():
        if (name != GATEWAY) == at_client:
            found.append(("load_key", {"type": "ecdsa", "data": key}))
    return found


@dataclass(frozen=True)
class Credentials:
    """An authority, and by name certificates and keys (ECDSA with P-256), PEM and DER."""

    authority: bytes
    certificates: Mapping[str, bytes]
    keys: Mapping[str, bytes]

    @classmethod
    def make(cls, kinds: Iterable[Kind]) -> Credentials:
        """For the gateways, and each kind that wants one."""
        issuer_key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        names = [GATEWAY, *(kind.identity for kind in kinds if kind.authentication == "pubkey")]
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        public = {name: _certificate(name, key, issuer, issuer_key) for name, key in keys.items()}
        private = {
            name: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for name, key in keys.items()
        }
        return cls(_certificate(None, issuer_key, issuer, issuer_key), public, private)


def _certificate(
    name: str | None, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    now = datetime.now(timezone.utc)
    subject = issuer if name is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
    )
    if name is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
