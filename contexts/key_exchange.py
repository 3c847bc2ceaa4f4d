"""Key exchange methods by IANA number: g^ir from our private key and the peer's KE content, and our own KE content.

MODP groups 2, 5 and 14 to 18 (RFC 2409, RFC 3526), ECP groups 19 to 21 (RFC 5903), Curve25519 and Curve448
(RFC 8031, RFC 7748).  Pure functions; private keys and KE contents are octets as in
:class:`contexts.values.DiffieHellmanPrivate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from cryptography.exceptions import UnsupportedAlgorithm as PrimitiveMissing
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cxtp.constants import KeyExchangeMethod as K
from cxtp.errors import RemoteError, UnsupportedAlgorithm


@dataclass(frozen=True)
class _ModpGroup:
    """RFC 3526: the prime is 2^bits - 2^(bits-64) - 1 + 2^64 * ( [2^(bits-130) pi] + offset ), the generator 2."""

    bits: int
    offset: int


_MODP: Mapping[int, _ModpGroup] = {
    K.MODP_1024: _ModpGroup(1024, 129_093),  # RFC 2409, 6.2
    K.MODP_1536: _ModpGroup(1536, 741_804),  # RFC 3526, 2
    K.MODP_2048: _ModpGroup(2048, 124_476),
    K.MODP_3072: _ModpGroup(3072, 1_690_314),
    K.MODP_4096: _ModpGroup(4096, 240_904),
    K.MODP_6144: _ModpGroup(6144, 929_484),
    K.MODP_8192: _ModpGroup(8192, 4_743_158),
}

_ECP: Mapping[int, ec.EllipticCurve] = {
    K.ECP_256: ec.SECP256R1(),
    K.ECP_384: ec.SECP384R1(),
    K.ECP_521: ec.SECP521R1(),
}


def diffie_hellman(method: int, private_key: bytes, peer_key_exchange: bytes) -> bytes:
    """The shared secret g^ir as SKEYSEED takes it.

    MODP: padded to the prime's length (RFC 7296, 2.14).  ECP: the x coordinate alone (RFC 5903, 7), the KE content
    being x | y.  Curve25519, Curve448: the function's output, all-zero refused (RFC 7748, 6).

    Raises UnsupportedAlgorithm for a method that is not known here (also for a KEM: its secret can't be made again
    from keys), RemoteError for a private key or KE content of the wrong length or value.
    """
    return _method(method).exchange(method, private_key, peer_key_exchange)


def public_value(method: int, private_key: bytes) -> bytes:
    """The KE content that belongs to a private key; raises as :func:`diffie_hellman`."""
    return _method(method).public(method, private_key)


def _refuse(method: int, reason: str, section: str) -> RemoteError:
    return RemoteError(f"key exchange method {method}: {reason} ({section})", section=section)


def _check_length(method: int, what: str, octets: bytes, expected: int, section: str) -> None:
    if len(octets) != expected:
        raise _refuse(method, f"{what} has {len(octets)} octets, {expected} expected", section)


# --- MODP -------------------------------------------------------------------------------------------------------

_GUARD_BITS = 64


def _arctangent_of_inverse(x: int, one: int) -> int:
    """arctan(1/x), scaled by ``one``."""
    power = total = one // x
    divisor, sign = 3, -1
    while power:
        power //= x * x
        total += sign * (power // divisor)
        divisor, sign = divisor + 2, -sign
    return total


@cache
def modp_prime(method: int) -> int:
    """The prime of a MODP group, from its definition in RFC 3526 (pi by Machin's formula)."""
    group = _MODP[method]
    one = 1 << (group.bits - 130 + _GUARD_BITS)
    pi = 4 * (4 * _arctangent_of_inverse(5, one) - _arctangent_of_inverse(239, one)) >> _GUARD_BITS
    return (1 << group.bits) - (1 << (group.bits - 64)) - 1 + ((pi + group.offset) << 64)


def _modp_private(method: int, private_key: bytes) -> int:
    _check_length(method, "private key", private_key, _MODP[method].bits // 8, "RFC 3526")
    exponent = int.from_bytes(private_key, "big")
    if not 0 < exponent < modp_prime(method) - 1:
        raise _refuse(method, "private key out of range", "RFC 3526")
    return exponent


def _modp_exchange(method: int, private_key: bytes, peer_key_exchange: bytes) -> bytes:
    prime, octets = modp_prime(method), _MODP[method].bits // 8
    exponent = _modp_private(method, private_key)
    _check_length(method, "KE content", peer_key_exchange, octets, "RFC 7296, 3.4")
    public = int.from_bytes(peer_key_exchange, "big")
    if not 1 < public < prime - 1:
        raise _refuse(method, "KE content out of range", "RFC 6989, 2.1")
    # Not constant in time, which matters little: it runs once for an SA that is moved, no peer chooses when.
    # cryptography has deprecated finite-field Diffie-Hellman.
    return pow(public, exponent, prime).to_bytes(octets, "big")


def _modp_public(method: int, private_key: bytes) -> bytes:
    exponent = _modp_private(method, private_key)
    return pow(2, exponent, modp_prime(method)).to_bytes(_MODP[method].bits // 8, "big")


# --- ECP --------------------------------------------------------------------------------------------------------


def _field_octets(method: int) -> int:
    return (_ECP[method].key_size + 7) // 8


def _ecp_private(method: int, private_key: bytes) -> ec.EllipticCurvePrivateKey:
    _check_length(method, "private key", private_key, _field_octets(method), "RFC 5903")
    try:
        return ec.derive_private_key(int.from_bytes(private_key, "big"), _ECP[method])
    except ValueError:
        raise _refuse(method, "private key out of range", "RFC 5903") from None


def _ecp_exchange(method: int, private_key: bytes, peer_key_exchange: bytes) -> bytes:
    private = _ecp_private(method, private_key)
    _check_length(method, "KE content", peer_key_exchange, 2 * _field_octets(method), "RFC 5903, 7")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(_ECP[method], b"\x04" + peer_key_exchange)
        return private.exchange(ec.ECDH(), public)
    except ValueError:
        raise _refuse(method, "KE content is no point of the curve", "RFC 6989, 2.3") from None


def _ecp_public(method: int, private_key: bytes) -> bytes:
    public = _ecp_private(method, private_key).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


# --- Curve25519, Curve448 ---------------------------------------------------------------------------------------


def _montgomery_private(method: int, private_key: bytes) -> x25519.X25519PrivateKey | x448.X448PrivateKey:
    _check_length(method, "private key", private_key, 32 if method == K.CURVE25519 else 56, "RFC 7748, 5")
    try:
        if method == K.CURVE25519:
            return x25519.X25519PrivateKey.from_private_bytes(private_key)
        return x448.X448PrivateKey.from_private_bytes(private_key)
    except PrimitiveMissing:
        raise UnsupportedAlgorithm("key exchange method", method, "missing from this OpenSSL") from None


def _montgomery_exchange(method: int, private_key: bytes, peer_key_exchange: bytes) -> bytes:
    private = _montgomery_private(method, private_key)
    _check_length(method, "KE content", peer_key_exchange, len(private_key), "RFC 8031, 2")
    try:
        if isinstance(private, x25519.X25519PrivateKey):
            return private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_key_exchange))
        return private.exchange(x448.X448PublicKey.from_public_bytes(peer_key_exchange))
    except ValueError:
        raise _refuse(method, "the shared secret is all zero", "RFC 7748, 6") from None


def _montgomery_public(method: int, private_key: bytes) -> bytes:
    return _montgomery_private(method, private_key).public_key().public_bytes_raw()


@dataclass(frozen=True)
class _Method:
    exchange: Callable[[int, bytes, bytes], bytes]
    public: Callable[[int, bytes], bytes]


_MODP_METHOD = _Method(_modp_exchange, _modp_public)
_ECP_METHOD = _Method(_ecp_exchange, _ecp_public)
_MONTGOMERY_METHOD = _Method(_montgomery_exchange, _montgomery_public)

_METHODS: Mapping[int, _Method] = {
    **dict.fromkeys(_MODP, _MODP_METHOD),
    **dict.fromkeys(_ECP, _ECP_METHOD),
    K.CURVE25519: _MONTGOMERY_METHOD,
    K.CURVE448: _MONTGOMERY_METHOD,
}

SUPPORTED_METHODS = frozenset(_METHODS)
"""Methods whose shared secret can be made from a private key (case 1); case 1 with the secret itself takes any."""


def _method(number: int) -> _Method:
    found = _METHODS.get(number)
    if found is None:
        raise UnsupportedAlgorithm("key exchange method", number)
    return found
