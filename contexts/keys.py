"""IKEv2 keys, pure: prf, prf+, SKEYSEED, SK_*, KEYMAT, and the seed draft's three key cases.

RFC 7296, 2.13 (prf+), 2.14 (SKEYSEED, SK_*), 2.17 (KEYMAT), 2.18 (rekeying); RFC 9370, 2.2.2 and 2.2.4 (additional
key exchanges).  Everything is octets; no error or repr holds any of them.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from cxtp.errors import LocalError, MalformedContext

from .algorithms import IkeTransforms, MacKind, ike_transforms, ipsec_transforms, pseudorandom_function
from .key_exchange import diffie_hellman, public_value
from .values import (
    DerivedKeys,
    DiffieHellmanPrivate,
    IkeKeying,
    IkeKeys,
    IkeProposal,
    IkeSpis,
    IpsecKeying,
    IpsecKeys,
    IpsecProposal,
    KeymatDerivation,
    Nonces,
    SharedSecret,
    Skeyseed,
)

__all__ = [
    "MAXIMUM_NONCE",
    "check_ike_keys",
    "check_ipsec_keys",
    "derive_ike_keys",
    "derive_ipsec_keys",
    "diffie_hellman",
    "ike_key_generations",
    "key_case",
    "mac",
    "prf",
    "prf_plus",
    "public_value",
    "to_key_case",
]

MAXIMUM_NONCE = 256
"""Octets of a nonce (RFC 7296, 3.9)."""

_AES_BLOCK = 16
_ITERATIONS = 255
"""prf+ counts its blocks in one octet (RFC 7296, 2.13)."""


# --- MACs and pseudorandom functions ----------------------------------------------------------------------------


def _aes_cmac(key: bytes, data: bytes) -> bytes:
    authenticator = CMAC(algorithms.AES(key))
    authenticator.update(data)
    return authenticator.finalize()


def _aes_xcbc(key: bytes, data: bytes) -> bytes:
    """AES-XCBC-MAC, all 16 octets (RFC 3566, 4)."""
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    key1, key2, key3 = (block_cipher.update(bytes([n]) * _AES_BLOCK) for n in (1, 2, 3))
    whole = (max(len(data), 1) - 1) // _AES_BLOCK * _AES_BLOCK
    last = data[whole:]
    if len(last) == _AES_BLOCK:
        mask = key2
    else:
        mask, last = key3, (last + b"\x80").ljust(_AES_BLOCK, b"\0")
    final = bytes(a ^ b for a, b in zip(last, mask, strict=True))
    return Cipher(algorithms.AES(key1), modes.CBC(bytes(_AES_BLOCK))).encryptor().update(data[:whole] + final)[-16:]


_AES_MACS = {MacKind.AES_XCBC: _aes_xcbc, MacKind.AES_CMAC: _aes_cmac}


def mac(kind: MacKind, key: bytes, data: bytes) -> bytes:
    """The whole, untruncated MAC; the AES ones take 16 octets of key, else LocalError."""
    if kind not in _AES_MACS:
        return hmac.digest(key, data, kind.value)
    if len(key) != _AES_BLOCK:
        raise LocalError(f"{kind.value} takes a key of 16 octets, not {len(key)}")
    return _AES_MACS[kind](key, data)


def prf(number: int, key: bytes, data: bytes) -> bytes:
    """prf(key, data) by the PRF transform's number; keys of any length.

    For AES128_XCBC and AES128_CMAC a key that is not 128 bits long is padded or hashed (RFC 4434, 2; RFC 4615, 3).
    Raises UnsupportedAlgorithm.
    """
    function = pseudorandom_function(number)
    if function.fixed_key:
        if len(key) < _AES_BLOCK and function.kind is MacKind.AES_XCBC:
            key = key.ljust(_AES_BLOCK, b"\0")
        elif len(key) != _AES_BLOCK:
            key = mac(function.kind, bytes(_AES_BLOCK), key)
    return mac(function.kind, key, data)


def prf_plus(number: int, key: bytes, seed: bytes, length: int) -> bytes:
    """The first ``length`` octets of prf+(key, seed) (RFC 7296, 2.13).

    Raises UnsupportedAlgorithm; LocalError for more than 255 blocks of the prf's output.
    """
    limit = _ITERATIONS * pseudorandom_function(number).output_octets
    if not 0 <= length <= limit:
        raise LocalError(f"prf+ gives 0 to {limit} octets with prf {number}, not {length} (RFC 7296, 2.13)")
    stream = block = b""
    for counter in range(1, _ITERATIONS + 1):
        if len(stream) >= length:
            break
        block = prf(number, key, block + seed + bytes([counter]))
        stream += block
    return stream[:length]


def _cut(stream: bytes, *lengths: int) -> list[bytes]:
    ends = list(accumulate(lengths))
    return [stream[end - length : end] for end, length in zip(ends, lengths, strict=True)]


# --- IKE_SA -----------------------------------------------------------------------------------------------------


def derive_ike_keys(keying: IkeKeying, proposal: IkeProposal, spis: IkeSpis) -> IkeKeys:
    """SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr as in use now; the last of :func:`ike_key_generations`."""
    return ike_key_generations(keying, proposal, spis)[-1]


def ike_key_generations(keying: IkeKeying, proposal: IkeProposal, spis: IkeSpis) -> tuple[IkeKeys, ...]:
    """All keys that the IKE_SA had, oldest first, the current ones last.

    More than one only after IKE_INTERMEDIATE key updates (RFC 9370, 2.2.2), and then as far back as ``keying``
    goes.  Raises UnsupportedAlgorithm, and MalformedContext for material that can't be right.
    """
    transforms = ike_transforms(proposal)
    if isinstance(keying, DerivedKeys):
        generations = (*keying.earlier, keying.keys)
        for keys in generations:
            check_ike_keys(keys, proposal)
        return generations
    if isinstance(keying, Skeyseed):
        _check_nonces(keying.nonces)
        seeds = [*keying.earlier, keying.skeyseed]
        if not all(seeds):
            raise MalformedContext("IKE_SA", "SKEYSEED", 0, "empty", section="RFC 7296, 2.14")
        return tuple(_expand(transforms, seed, keying.nonces, spis) for seed in seeds)
    return tuple(keys for _, keys in _generations_from_secret(keying, proposal, transforms, spis))


def _generations_from_secret(
    keying: DiffieHellmanPrivate | SharedSecret, proposal: IkeProposal, transforms: IkeTransforms, spis: IkeSpis
) -> list[tuple[bytes, IkeKeys]]:
    """Each SKEYSEED with its keys (case 1)."""
    _check_nonces(keying.nonces)
    if isinstance(keying, DiffieHellmanPrivate):
        secret = diffie_hellman(proposal.key_exchange, keying.private_key, keying.peer_key_exchange)
    else:
        secret = keying.shared_secret
    if not secret or not all(keying.additional_secrets):
        raise MalformedContext("IKE_SA", "shared secret", 0, "empty", section="RFC 7296, 2.14")
    if keying.rekeyed_from is not None and not keying.rekeyed_from.sk_d:
        raise MalformedContext("IKE_SA", "SK_d of the rekeyed IKE_SA", 0, "empty", section="RFC 7296, 2.18")
    nonces = keying.nonces.initiator + keying.nonces.responder
    if keying.rekeyed_from is not None:
        # The rekeying exchange belongs to the old IKE_SA, so its prf makes SKEYSEED (RFC 7296, 2.18); additional
        # secrets all go into this one (RFC 9370, 2.2.4).
        data = secret + nonces + b"".join(keying.additional_secrets)
        seed = prf(keying.rekeyed_from.prf, keying.rekeyed_from.sk_d, data)
        return [(seed, _expand(transforms, seed, keying.nonces, spis))]
    function = transforms.prf
    key = keying.nonces.initiator[:8] + keying.nonces.responder[:8] if function.fixed_key else nonces
    seed = prf(function.number, key, secret)
    generations = [(seed, _expand(transforms, seed, keying.nonces, spis))]
    for additional in keying.additional_secrets:  # one IKE_INTERMEDIATE each (RFC 9370, 2.2.2)
        seed = prf(function.number, generations[-1][1].sk_d, additional + nonces)
        generations.append((seed, _expand(transforms, seed, keying.nonces, spis)))
    return generations


def _expand(transforms: IkeTransforms, skeyseed: bytes, nonces: Nonces, spis: IkeSpis) -> IkeKeys:
    """SK_* = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr), cut in the order of RFC 7296, 2.14."""
    function, a, e = transforms.prf, transforms.integrity_key_octets, transforms.encryption_key_octets
    d = function.key_octets
    lengths = (d, a, a, e, e, d, d)
    seed = nonces.initiator + nonces.responder + _spi_octets(spis)
    return IkeKeys(*_cut(prf_plus(function.number, skeyseed, seed, sum(lengths)), *lengths))


def _spi_octets(spis: IkeSpis) -> bytes:
    if not all(0 <= spi < 1 << 64 for spi in (spis.initiator, spis.responder)):
        raise MalformedContext("IKE_SA", "SPIs", 0, "not 64 bits", section="RFC 7296, 3.1")
    return spis.initiator.to_bytes(8, "big") + spis.responder.to_bytes(8, "big")


def _check_nonces(nonces: Nonces, context: str = "IKE_SA") -> None:
    if not all(0 < len(nonce) <= MAXIMUM_NONCE for nonce in (nonces.initiator, nonces.responder)):
        raise MalformedContext(context, "nonces", 0, "not 1 to 256 octets each", section="RFC 7296, 3.9")


def check_ike_keys(keys: IkeKeys, proposal: IkeProposal) -> None:
    """SK_* must have the proposal's lengths (SK_pi and SK_pr may be empty): else MalformedContext."""
    transforms = ike_transforms(proposal)
    d, a, e = transforms.prf.key_octets, transforms.integrity_key_octets, transforms.encryption_key_octets
    expected = {
        "sk_d": (d,), "sk_ai": (a,), "sk_ar": (a,), "sk_ei": (e,), "sk_er": (e,), "sk_pi": (d, 0), "sk_pr": (d, 0)
    }  # fmt: skip
    _check_lengths("IKE_SA", keys, expected)


def _check_lengths(context: str, keys: IkeKeys | IpsecKeys, expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, lengths in expected.items():
        octets = len(getattr(keys, name))
        if octets not in lengths:
            raise MalformedContext(context, name, 0, f"{octets} octets, {lengths[0]} expected")


# --- IPsec_SA ---------------------------------------------------------------------------------------------------


def derive_ipsec_keys(keying: IpsecKeying, proposal: IpsecProposal, sk_d: bytes = b"", prf: int = 0) -> IpsecKeys:
    """The keys of an IPsec_SA as its gateway sees them (RFC 7296, 2.17).

    ``sk_d`` and ``prf`` (number) are those of the IKE_SA that ``keying.ike_spis`` names; IpsecKeys need neither and
    are only checked.  Raises UnsupportedAlgorithm, MalformedContext.
    """
    transforms = ipsec_transforms(proposal)
    if isinstance(keying, IpsecKeys):
        check_ipsec_keys(keying, proposal)
        return keying
    _check_nonces(keying.nonces, "IPsec_SA")
    if not sk_d:
        raise MalformedContext("IPsec_SA", "KEYMAT", 0, "no SK_d to derive it from", section="RFC 7296, 2.17")
    e, a = transforms.encryption_key_octets, transforms.integrity_key_octets
    keymat = prf_plus(prf, sk_d, _keymat_seed(keying), 2 * (e + a))
    from_initiator_e, from_initiator_a, from_responder_e, from_responder_a = _cut(keymat, e, a, e, a)
    if keying.initiator:
        return IpsecKeys(from_responder_e, from_responder_a, from_initiator_e, from_initiator_a)
    return IpsecKeys(from_initiator_e, from_initiator_a, from_responder_e, from_responder_a)


def _keymat_seed(keying: KeymatDerivation) -> bytes:
    """g^ir (new), if any, | Ni | Nr | additional secrets (RFC 7296, 2.17; RFC 9370, 2.2.4)."""
    nonces = keying.nonces.initiator + keying.nonces.responder
    return keying.shared_secret + nonces + b"".join(keying.additional_secrets)


def check_ipsec_keys(keys: IpsecKeys, proposal: IpsecProposal) -> None:
    """Keys must have the proposal's lengths, salt included: else MalformedContext."""
    transforms = ipsec_transforms(proposal)
    e, a = (transforms.encryption_key_octets,), (transforms.integrity_key_octets,)
    expected = {"inbound_encryption": e, "inbound_integrity": a, "outbound_encryption": e, "outbound_integrity": a}
    _check_lengths("IPsec_SA", keys, expected)


# --- the three cases --------------------------------------------------------------------------------------------


def key_case(keying: IkeKeying) -> int:
    """Which of the seed draft's cases an IKE_SA's material is: 1, 2 or 3."""
    if isinstance(keying, DerivedKeys):
        return 3
    return 2 if isinstance(keying, Skeyseed) else 1


def to_key_case(
    keying: IkeKeying, proposal: IkeProposal, spis: IkeSpis, case: int, keep_earlier: bool = True
) -> IkeKeying:
    """The same keys in another case: 1 to 2 to 3, never back; the case it has gives ``keying`` itself.

    ``keep_earlier`` False leaves out what only opens messages from before the last IKE_INTERMEDIATE key update.
    Raises LocalError for a conversion upwards (keys don't tell what they were derived from), and what
    :func:`ike_key_generations` raises.
    """
    have = key_case(keying)
    if case not in (1, 2, 3):
        raise LocalError(f"key case {case} does not exist: 1, 2 or 3 (seed draft, 4.1)")
    if case < have:
        raise LocalError(f"case {have} can't become case {case}: what the keys were derived from is not in them")
    if case == 1 or (case == have and keep_earlier):
        return keying
    if case == 3 or isinstance(keying, DerivedKeys):
        *earlier, current = ike_key_generations(keying, proposal, spis)
        return DerivedKeys(current, tuple(earlier) if keep_earlier else ())
    if isinstance(keying, (DiffieHellmanPrivate, SharedSecret)):
        seeds = [seed for seed, _ in _generations_from_secret(keying, proposal, ike_transforms(proposal), spis)]
        return Skeyseed(seeds[-1], keying.nonces, tuple(seeds[:-1]) if keep_earlier else ())
    return replace(keying, earlier=())
