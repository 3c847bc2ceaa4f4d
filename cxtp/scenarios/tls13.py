"""Both ends of a TLS 1.3 connection with mutual certificates (RFC 8446), made of given keys, for captures.

The same keys give the same octets: X25519, Ed25519 (whose signatures are deterministic), TLS_AES_256_GCM_SHA384.  What
``cxtp node`` speaks over TCP is OpenSSL's; this plays it where it has to be made again octet for octet.  The tests let
OpenSSL talk with each end.  It believes its peer without a check: it is no TLS for a network.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import LocalError

HASH_OCTETS, KEY_OCTETS, IV_OCTETS = 48, 32, 12
_SUITE, _X25519, _ED25519, _TLS_1_3 = 0x1302, 0x001D, 0x0807, 0x0304
_LEGACY_VERSION, _LEGACY_RECORD_VERSION = 0x0303, 0x0301
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO, _ENCRYPTED_EXTENSIONS, _CERTIFICATE = 1, 2, 8, 11
_CERTIFICATE_REQUEST, _CERTIFICATE_VERIFY, _FINISHED = 13, 15, 20
_SERVER_NAME, _SUPPORTED_GROUPS, _SIGNATURE_ALGORITHMS, _SUPPORTED_VERSIONS, _KEY_SHARE = 0, 10, 13, 43, 51
_CLOSE_NOTIFY = bytes((1, 0))
_MIDDLEBOX = struct.pack("!BHHB", _CHANGE_CIPHER_SPEC, _LEGACY_VERSION, 1, 1)
"""What looks like a TLS 1.2 session that goes on (D.4), as OpenSSL sends it."""


@dataclass(frozen=True)
class Identity:
    """A certificate (DER), its private key, and the certificate of the authority that signed it."""

    certificate: bytes
    private_key: Ed25519PrivateKey = field(repr=False)
    authority: bytes = b""


def identities(rng: random.Random, names: Sequence[str], now: datetime) -> tuple[Identity, ...]:
    """One for each DNS name, all of one authority, as ``cxtp pki`` makes them but for the kind of key."""
    authority_key, authority_name = _private_key(rng), _name("cxtp scenarios")
    authority = _builder(rng, authority_name, authority_name, authority_key, now)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    authority = (
        authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    signed = authority.sign(authority_key, None).public_bytes(Encoding.DER)
    found = []
    for name in names:
        key = _private_key(rng)
        builder = _builder(rng, _name(name), authority_name, key, now)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(authority=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
            (identifier, False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        found.append(Identity(builder.sign(authority_key, None).public_bytes(Encoding.DER), key, signed))
    return tuple(found)


class Direction:
    """The records that one side protects with one traffic secret (5.2, 5.3)."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._aead = AESGCM(expand_label(secret, b"key", b"", KEY_OCTETS))
        self._iv = int.from_bytes(expand_label(secret, b"iv", b"", IV_OCTETS), "big")
        self._number = 0

    def seal(self, kind: int, content: bytes) -> bytes:
        """One record."""
        head = struct.pack("!BHH", _APPLICATION_DATA, _LEGACY_VERSION, len(content) + 1 + 16)
        return head + self._aead.encrypt(self._nonce(), content + bytes((kind,)), head)

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Content type and content of one record."""
        inner = self._aead.decrypt(self._nonce(), record[5:], record[:5]).rstrip(b"\0")
        return inner[-1], inner[:-1]

    def _nonce(self) -> bytes:
        number, self._number = self._number, self._number + 1
        return (self._iv ^ number).to_bytes(IV_OCTETS, "big")


class Side:
    """What client and server have alike; ``key_log`` are the lines that Wireshark takes."""

    def __init__(self, identity: Identity, rng: random.Random) -> None:
        self.identity = identity
        self.random = rng.randbytes(32)
        self._exchange = X25519PrivateKey.from_private_bytes(rng.randbytes(32))
        self._session_id = rng.randbytes(32)
        self._transcript = b""
        self._client_random = b""
        self._out: Direction
        self._in: Direction
        self._master = b""
        self.key_log: list[str] = []

    def send(self, payload: bytes) -> bytes:
        """Application data, in records of at most 2^14 octets (5.1)."""
        parts = (payload[start : start + 0x4000] for start in range(0, len(payload), 0x4000))
        return b"".join(self._out.seal(_APPLICATION_DATA, part) for part in parts)

    def receive(self, octets: bytes) -> bytes:
        """The application data in whole records; other things are passed over."""
        opened = (self._in.open(record) for kind, record in records(octets) if kind == _APPLICATION_DATA)
        return b"".join(content for kind, content in opened if kind == _APPLICATION_DATA)

    def close(self) -> bytes:
        """close_notify (6.1)."""
        return self._out.seal(_ALERT, _CLOSE_NOTIFY)

    def _share(self) -> bytes:
        public = self._exchange.public_key().public_bytes_raw()
        return struct.pack("!HH", _X25519, len(public)) + public

    def _message(self, kind: int, body: bytes) -> bytes:
        """A handshake message, which becomes part of the transcript."""
        octets = bytes((kind,)) + len(body).to_bytes(3, "big") + body
        self._transcript += octets
        return octets

    def _protected(self, kind: int, body: bytes) -> bytes:
        return self._out.seal(_HANDSHAKE, self._message(kind, body))

    def _hash(self) -> bytes:
        return hashlib.sha384(self._transcript).digest()

    def _agree(self, their_share: bytes) -> tuple[bytes, bytes]:
        """The handshake traffic secrets, client's first (7.1)."""
        early = _extract(bytes(HASH_OCTETS), bytes(HASH_OCTETS))
        shared = self._exchange.exchange(X25519PublicKey.from_public_bytes(their_share))
        handshake = _extract(_derived(early), shared)
        self._master = _extract(_derived(handshake), bytes(HASH_OCTETS))
        return self._secrets(handshake, "HANDSHAKE_TRAFFIC_SECRET", b"hs")

    def _applications(self) -> tuple[bytes, bytes]:
        """The application traffic secrets; the transcript ends with the server's Finished."""
        return self._secrets(self._master, "TRAFFIC_SECRET_0", b"ap")

    def _secrets(self, secret: bytes, label: str, name: bytes) -> tuple[bytes, bytes]:
        found = []
        for side in ("CLIENT", "SERVER"):
            what = side[:1].lower().encode() + b" " + name + b" traffic"
            found.append(expand_label(secret, what, self._hash(), HASH_OCTETS))
            self.key_log.append(f"{side}_{label} {self._client_random.hex()} {found[-1].hex()}")
        return found[0], found[1]

    def _certificate(self) -> bytes:
        """Certificate and CertificateVerify (4.4.2, 4.4.3)."""
        entry = len(self.identity.certificate).to_bytes(3, "big") + self.identity.certificate + bytes(2)
        certificate = self._protected(_CERTIFICATE, b"\0" + len(entry).to_bytes(3, "big") + entry)
        who = "server" if isinstance(self, Server) else "client"
        signed = b" " * 64 + f"TLS 1.3, {who} CertificateVerify".encode() + b"\0" + self._hash()
        signature = self.identity.private_key.sign(signed)
        return certificate + self._protected(_CERTIFICATE_VERIFY, struct.pack("!H", _ED25519) + _vector(signature))

    def _finished(self) -> bytes:
        key = expand_label(self._out.secret, b"finished", b"", HASH_OCTETS)
        return self._protected(_FINISHED, hmac.digest(key, self._hash(), "sha384"))

    def _read(self, octets: bytes) -> None:
        """Protected handshake messages of the other side, into the transcript."""
        for kind, record in records(octets):
            if kind == _APPLICATION_DATA:
                self._transcript += self._in.open(record)[1]


class Client(Side):
    """:meth:`hello`, then :meth:`answer`."""

    def __init__(self, identity: Identity, rng: random.Random, server_name: str) -> None:
        super().__init__(identity, rng)
        self._server_name = server_name.encode()
        self._client_random = self.random

    def hello(self) -> bytes:
        """ClientHello (4.1.2)."""
        host = b"\0" + _vector(self._server_name)
        extensions = _extensions((
            (_SERVER_NAME, _vector(host)),
            (_SUPPORTED_GROUPS, _vector(struct.pack("!H", _X25519))),
            (_SIGNATURE_ALGORITHMS, _vector(struct.pack("!H", _ED25519))),
            (_SUPPORTED_VERSIONS, b"\2" + struct.pack("!H", _TLS_1_3)),
            (_KEY_SHARE, _vector(self._share())),
        ))  # fmt: skip
        body = struct.pack("!H", _LEGACY_VERSION) + self.random + bytes((32,)) + self._session_id
        body += _vector(struct.pack("!H", _SUITE)) + b"\1\0" + extensions
        return _record(_LEGACY_RECORD_VERSION, self._message(_CLIENT_HELLO, body))

    def answer(self, flight: bytes) -> bytes:
        """Certificate, CertificateVerify and Finished, for the server's whole flight."""
        hello = next(record for kind, record in records(flight) if kind == _HANDSHAKE)[5:]
        self._transcript += hello
        client, server = self._agree(key_share(hello))
        self._out, self._in = Direction(client), Direction(server)
        self._read(flight)
        ours, theirs = self._applications()
        sent = _MIDDLEBOX + self._certificate() + self._finished()
        self._out, self._in = Direction(ours), Direction(theirs)
        return sent


class Server(Side):
    """:meth:`answer`, then :meth:`finish`."""

    def answer(self, hello: bytes) -> bytes:
        """ServerHello to Finished, for a ClientHello's record."""
        message = hello[5:]
        self._transcript += message
        self._client_random = message[6:38]
        session_id = message[39 : 39 + message[38]]
        body = struct.pack("!H", _LEGACY_VERSION) + self.random + bytes((len(session_id),)) + session_id
        body += struct.pack("!HB", _SUITE, 0)
        body += _extensions(((_SUPPORTED_VERSIONS, struct.pack("!H", _TLS_1_3)), (_KEY_SHARE, self._share())))
        sent = _record(_LEGACY_VERSION, self._message(_SERVER_HELLO, body)) + _MIDDLEBOX
        client, server = self._agree(key_share(message))
        self._out, self._in = Direction(server), Direction(client)
        sent += self._protected(_ENCRYPTED_EXTENSIONS, bytes(2))
        algorithms = _extensions(((_SIGNATURE_ALGORITHMS, _vector(struct.pack("!H", _ED25519))),))
        sent += self._protected(_CERTIFICATE_REQUEST, b"\0" + algorithms)
        sent += self._certificate() + self._finished()
        theirs, ours = self._applications()
        self._out, self._next = Direction(ours), Direction(theirs)
        return sent

    def finish(self, flight: bytes) -> None:
        """Take the client's Finished."""
        self._read(flight)
        self._in = self._next


def records(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Content type and octets of each record.  Raises LocalError where they do not end with one."""
    while octets:
        length = 5 + int.from_bytes(octets[3:5], "big")
        if len(octets) < max(length, 5):
            raise LocalError("octets that end within a TLS record")
        yield octets[0], octets[:length]
        octets = octets[length:]


def key_share(hello: bytes) -> bytes:
    """The X25519 share in a ClientHello or ServerHello."""
    at = 39 + hello[38]  # message header, version, random, session id
    if hello[0] == _CLIENT_HELLO:
        at += 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 1 + hello[at]
    else:
        at += 3
    at += 2
    while at + 4 <= len(hello):
        kind, length = struct.unpack("!HH", hello[at : at + 4])
        body = hello[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == _KEY_SHARE:
            shares = body[2:] if hello[0] == _CLIENT_HELLO else body
            while shares:
                group, size = struct.unpack("!HH", shares[:4])
                if group == _X25519:
                    return shares[4 : 4 + size]
                shares = shares[4 + size :]
    raise LocalError("no X25519 key share")


def expand_label(secret: bytes, label: bytes, context: bytes, octets: int) -> bytes:
    """HKDF-Expand-Label (7.1)."""
    label = b"tls13 " + label
    info = struct.pack("!HB", octets, len(label)) + label + bytes((len(context),)) + context
    made, block = b"", b""
    while len(made) < octets:
        block = hmac.digest(secret, block + info + bytes((len(made) // HASH_OCTETS + 1,)), "sha384")
        made += block
    return made[:octets]


def _extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, material, "sha384")


def _derived(secret: bytes) -> bytes:
    return expand_label(secret, b"derived", hashlib.sha384(b"").digest(), HASH_OCTETS)


def _record(version: int, content: bytes) -> bytes:
    return struct.pack("!BHH", _HANDSHAKE, version, len(content)) + content


def _vector(octets: bytes) -> bytes:
    return struct.pack("!H", len(octets)) + octets


def _extensions(items: Sequence[tuple[int, bytes]]) -> bytes:
    return _vector(b"".join(struct.pack("!H", kind) + _vector(body) for kind, body in items))


def _private_key(rng: random.Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _builder(
    rng: random.Random, subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(rng.getrandbits(150) | 1)
        .not_valid_before(now.astimezone(timezone.utc) - timedelta(minutes=5))
        .not_valid_after(now.astimezone(timezone.utc) + timedelta(days=3650))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
