"""contexts/keys.py, key_exchange.py and algorithms.py against RFC vectors, recorded keys, and formulas written anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hmac import HMAC
from session_examples import NONCES, SPIS, Trace, keys_for, octets, traces

from contexts.algorithms import ENCRYPTION, INTEGRITY, PRF, MacKind, encryption, integrity
from contexts.key_exchange import SUPPORTED_METHODS, modp_prime
from contexts.keys import (
    check_ike_keys,
    derive_ike_keys,
    derive_ipsec_keys,
    diffie_hellman,
    ike_key_generations,
    key_case,
    mac,
    prf,
    prf_plus,
    public_value,
    to_key_case,
)
from contexts.values import (
    DerivedKeys,
    DiffieHellmanPrivate,
    IkeKeying,
    IkeKeys,
    IkeProposal,
    IkeSpis,
    IpsecKeys,
    IpsecProposal,
    KeymatDerivation,
    Nonces,
    RekeyedFrom,
    SharedSecret,
    Skeyseed,
)
from cxtp.constants import (
    EncryptionAlgorithm,
    IntegrityAlgorithm,
    KeyExchangeMethod,
    PseudorandomFunction,
    SecurityProtocol,
)
from cxtp.errors import LocalError, MalformedContext, RemoteError, UnsupportedAlgorithm

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "rfc_keys_and_packets.json").read_text(encoding="utf-8")
)
AES_GCM = IkeProposal(20, 256, 0, 0, 5, 19)
AES_CBC = IkeProposal(12, 128, 12, 0, 5, 19)
TRACES = traces()
each_trace = pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# --- tables -----------------------------------------------------------------------------------------------------


def test_every_number_that_has_a_name_has_a_row() -> None:
    assert set(ENCRYPTION) == set(EncryptionAlgorithm)
    assert set(INTEGRITY) == set(IntegrityAlgorithm) - {IntegrityAlgorithm.NONE}
    assert set(PRF) == set(PseudorandomFunction)
    kems = {KeyExchangeMethod.ML_KEM_512, KeyExchangeMethod.ML_KEM_768, KeyExchangeMethod.ML_KEM_1024}
    assert set(KeyExchangeMethod) - kems - {KeyExchangeMethod.NONE} == SUPPORTED_METHODS


@pytest.mark.parametrize(
    ("number", "bits", "octets_with_salt"),
    # RFC 4106, 8.1; RFC 4309, 7.1; RFC 3686, 5.1; RFC 7634, 2; RFC 2451: key, then salt
    [(20, 128, 20), (20, 256, 36), (16, 192, 27), (13, 256, 36), (28, 0, 36), (28, 256, 36), (12, 256, 32), (3, 0, 24)],
)
def test_key_lengths(number: int, bits: int, octets_with_salt: int) -> None:
    assert encryption(number).key_length(bits) == octets_with_salt


@pytest.mark.parametrize(("number", "bits"), [(12, 0), (12, 64), (20, 129), (28, 128), (3, 128)])
def test_a_key_length_that_the_algorithm_does_not_have(number: int, bits: int) -> None:
    with pytest.raises(UnsupportedAlgorithm) as refused:
        encryption(number).key_length(bits)
    assert (refused.value.kind, refused.value.number) == ("encryption algorithm", number)
    assert str(bits) in str(refused.value)


@pytest.mark.parametrize(
    "proposal",
    [
        replace(AES_CBC, encryption=999),
        replace(AES_CBC, integrity=999),
        replace(AES_CBC, integrity=0),
        replace(AES_CBC, prf=999),
        replace(AES_CBC, encryption=EncryptionAlgorithm.NULL, encryption_key_length=0),
        replace(AES_CBC, integrity_key_length=64),
    ],
)
def test_an_unknown_number_is_refused_by_name(proposal: IkeProposal) -> None:
    with pytest.raises(UnsupportedAlgorithm) as refused:
        derive_ike_keys(SharedSecret(b"s" * 32, NONCES), proposal, SPIS)
    assert str(int(refused.value.number)) in str(refused.value)


def test_an_aead_beside_an_integrity_algorithm() -> None:
    with pytest.raises(MalformedContext):
        derive_ike_keys(SharedSecret(b"s" * 32, NONCES), replace(AES_GCM, integrity=12), SPIS)
    assert integrity(12).icv_octets == 16


# --- MACs and prfs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["mac"]["cases"])
def test_mac_vectors(case: dict[str, str]) -> None:
    assert mac(MacKind(case["kind"]), unhex(case["key"]), unhex(case["message"])).hex() == case["mac"]


@pytest.mark.parametrize("case", VECTORS["prf"]["cases"])
def test_prf_key_rule_of_the_aes_ones(case: dict[str, Any]) -> None:
    assert prf(case["number"], unhex(case["key"]), unhex(case["message"])).hex() == case["output"]


def test_an_aes_mac_takes_no_other_key_length() -> None:
    with pytest.raises(LocalError):
        mac(MacKind.AES_CMAC, bytes(20), b"")


HASHES = {2: hashes.SHA1(), 5: hashes.SHA256(), 6: hashes.SHA384(), 7: hashes.SHA512()}


def reference_prf(number: int, key: bytes, data: bytes) -> bytes:
    """The same functions from cryptography's classes and RFC 3566's steps, written for this test."""
    if number in HASHES:
        keyed = HMAC(key, HASHES[number])
        keyed.update(data)
        return keyed.finalize()
    if number == 8:
        if len(key) != 16:
            key = reference_prf(8, bytes(16), key)
        cmac = CMAC(algorithms.AES(key))
        cmac.update(data)
        return cmac.finalize()
    key = key + bytes(16 - len(key)) if len(key) <= 16 else reference_prf(4, bytes(16), key)

    def aes(with_key: bytes, block: bytes) -> bytes:
        return Cipher(algorithms.AES(with_key), modes.ECB()).encryptor().update(block)

    k1, k2, k3 = aes(key, b"\1" * 16), aes(key, b"\2" * 16), aes(key, b"\3" * 16)
    blocks = [data[at : at + 16] for at in range(0, len(data), 16)] or [b""]
    state = bytes(16)
    for index, block in enumerate(blocks):
        if index == len(blocks) - 1:
            extra = k2 if len(block) == 16 else k3
            block = block if len(block) == 16 else block + b"\x80" + bytes(15 - len(block))
            mixed = int.from_bytes(block, "big") ^ int.from_bytes(state, "big") ^ int.from_bytes(extra, "big")
        else:
            mixed = int.from_bytes(block, "big") ^ int.from_bytes(state, "big")
        state = aes(k1, mixed.to_bytes(16, "big"))
    return state


@pytest.mark.parametrize("number", sorted(PRF))
def test_prf_plus_is_its_formula(number: int) -> None:
    key, seed = octets(16, 9), octets(50, 3)
    t1 = reference_prf(number, key, seed + b"\x01")
    t2 = reference_prf(number, key, t1 + seed + b"\x02")
    t3 = reference_prf(number, key, t2 + seed + b"\x03")
    stream = t1 + t2 + t3
    for length in range(len(stream) + 1):
        assert prf_plus(number, key, seed, length) == stream[:length]


@pytest.mark.parametrize("number", sorted(PRF))
def test_prf_plus_ends_after_255_blocks(number: int) -> None:
    most = 255 * PRF[number].output_octets
    assert len(prf_plus(number, b"k" * 16, b"seed", most)) == most
    for length in (most + 1, -1):
        with pytest.raises(LocalError):
            prf_plus(number, b"k" * 16, b"seed", length)


# --- key exchange methods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["key_exchange"]["cases"], ids=lambda case: case["source"])
def test_key_exchange_vectors(case: dict[str, Any]) -> None:
    method = case["method"]
    private_i, private_r = unhex(case["private_i"]), unhex(case["private_r"])
    public_i, public_r = public_value(method, private_i), public_value(method, private_r)
    assert public_i.hex().startswith(case["public_i"])
    assert public_r.hex() == case["public_r"]
    assert diffie_hellman(method, private_i, public_r).hex() == case["shared"]
    assert diffie_hellman(method, private_r, public_i).hex() == case["shared"]


MODP = {2: 1024, 5: 1536, 14: 2048, 15: 3072, 16: 4096, 17: 6144, 18: 8192}


@pytest.mark.parametrize(("method", "bits"), MODP.items())
def test_modp_primes_are_scapys(method: int, bits: int) -> None:
    groups = pytest.importorskip("scapy.layers.tls.crypto.groups")
    assert modp_prime(method) == getattr(groups, f"modp{bits}").m


@pytest.mark.parametrize(("method", "bits"), MODP.items())
@pytest.mark.filterwarnings("ignore:.*over finite fields:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_modp_is_openssls(method: int, bits: int) -> None:
    dh = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.dh")
    ours, theirs = octets(40, 1), octets(40, 2)
    length = bits // 8
    private = ours.rjust(length, b"\0")
    parameters = dh.DHParameterNumbers(modp_prime(method), 2)
    peer_public = public_value(method, theirs.rjust(length, b"\0"))
    own_public = dh.DHPublicNumbers(int.from_bytes(public_value(method, private), "big"), parameters)
    key = dh.DHPrivateNumbers(int.from_bytes(private, "big"), own_public).private_key()
    peer = dh.DHPublicNumbers(int.from_bytes(peer_public, "big"), parameters).public_key()
    assert diffie_hellman(method, private, peer_public) == key.exchange(peer)


def test_a_short_modp_secret_is_padded_to_the_primes_length() -> None:
    # 2^1 to the power of 1: the shared secret is 2, 128 octets of it
    assert diffie_hellman(2, bytes(127) + b"\1", bytes(127) + b"\2") == bytes(127) + b"\2"


def private_key_for(method: int, start: int) -> bytes:
    length = MODP[method] // 8 if method in MODP else {19: 32, 20: 48, 21: 66, 31: 32, 32: 56}[method]
    return octets(min(length, 30), start).rjust(length, b"\0") if method < 31 else octets(length, start)


@pytest.mark.parametrize("method", sorted(SUPPORTED_METHODS))
def test_both_sides_of_an_exchange_get_the_same_keys(method: int) -> None:
    """An IKE_SA_INIT of our own making: each side has its own private key and the other's KE content."""
    proposal = replace(AES_GCM, key_exchange=method)
    private_i, private_r = private_key_for(method, 11), private_key_for(method, 77)
    side_i = DiffieHellmanPrivate(private_i, public_value(method, private_r), NONCES)
    side_r = DiffieHellmanPrivate(private_r, public_value(method, private_i), NONCES)
    keys = derive_ike_keys(side_i, proposal, SPIS)
    assert keys == derive_ike_keys(side_r, proposal, SPIS)
    secret = diffie_hellman(method, private_i, public_value(method, private_r))
    assert keys == derive_ike_keys(SharedSecret(secret, NONCES), proposal, SPIS)


@pytest.mark.parametrize("method", sorted(SUPPORTED_METHODS))
def test_bad_key_exchange_content(method: int) -> None:
    private = private_key_for(method, 5)
    good = public_value(method, private_key_for(method, 6))
    for peer in (b"", good[:-1], good + b"\0", bytes(len(good))):
        with pytest.raises(RemoteError) as refused:
            diffie_hellman(method, private, peer)
        assert private.hex() not in str(refused.value)
    for key in (b"", private[:-1], private + b"\0"):
        with pytest.raises(RemoteError):
            public_value(method, key)


@pytest.mark.parametrize("method", [2, 14])
def test_a_degenerate_modp_value(method: int) -> None:
    private, prime = private_key_for(method, 5), modp_prime(method)
    for value in (1, prime - 1, prime, prime + 1):
        with pytest.raises(RemoteError):
            diffie_hellman(method, private, value.to_bytes(MODP[method] // 8, "big"))
    for exponent in (0, prime - 1, prime):
        with pytest.raises(RemoteError):
            public_value(method, exponent.to_bytes(MODP[method] // 8, "big"))


@pytest.mark.parametrize("method", [19, 20, 21])
def test_a_point_off_the_curve_and_a_private_key_of_zero(method: int) -> None:
    private = private_key_for(method, 5)
    point = bytearray(public_value(method, private))
    point[-1] ^= 1
    with pytest.raises(RemoteError):
        diffie_hellman(method, private, bytes(point))
    for value in (bytes(len(private)), b"\xff" * len(private)):
        with pytest.raises(RemoteError):
            public_value(method, value)


@pytest.mark.parametrize(("method", "order_2"), [(31, b"\1" + bytes(31)), (32, b"\1" + bytes(55))])
def test_an_all_zero_secret_is_refused(method: int, order_2: bytes) -> None:
    with pytest.raises(RemoteError) as refused:
        diffie_hellman(method, private_key_for(method, 5), order_2)
    assert "RFC 7748" in refused.value.section


@pytest.mark.parametrize("method", [0, 1, 22, 36, 1033])
def test_an_unknown_method(method: int) -> None:
    with pytest.raises(UnsupportedAlgorithm) as refused:
        diffie_hellman(method, b"", b"")
    assert (refused.value.kind, refused.value.number) == ("key exchange method", method)


# --- SKEYSEED and SK_* ------------------------------------------------------------------------------------------


def reference_ike_keys(proposal: IkeProposal, skeyseed: bytes, nonces: Nonces, spis: IkeSpis) -> IkeKeys:
    """RFC 7296, 2.14, from the formulas."""
    d = {2: 20, 4: 16, 5: 32, 6: 48, 7: 64, 8: 16}[proposal.prf]
    a, e = {20: (0, 36), 12: (32, 16)}[proposal.encryption]
    seed = nonces.initiator + nonces.responder + spis.initiator.to_bytes(8, "big") + spis.responder.to_bytes(8, "big")
    stream = block = b""
    counter = 0
    while len(stream) < 3 * d + 2 * a + 2 * e:
        counter += 1
        block = reference_prf(proposal.prf, skeyseed, block + seed + bytes([counter]))
        stream += block
    cuts = []
    for length in (d, a, a, e, e, d, d):
        cuts.append(stream[:length])
        stream = stream[length:]
    return IkeKeys(*cuts)


@pytest.mark.parametrize("number", sorted(PRF))
@pytest.mark.parametrize("suite", [AES_GCM, AES_CBC], ids=["gcm", "cbc"])
def test_skeyseed_and_keys_are_their_formulas(number: int, suite: IkeProposal) -> None:
    proposal, secret = replace(suite, prf=number), octets(32, 4)
    ni, nr = NONCES.initiator, NONCES.responder
    key = ni[:8] + nr[:8] if number in (4, 8) else ni + nr
    skeyseed = reference_prf(number, key, secret)
    expected = reference_ike_keys(proposal, skeyseed, NONCES, SPIS)
    assert derive_ike_keys(SharedSecret(secret, NONCES), proposal, SPIS) == expected
    check_ike_keys(expected, proposal)


@pytest.mark.parametrize("old_prf", sorted(PRF))
def test_rekeying_uses_the_old_prf_then_the_new_one(old_prf: int) -> None:
    secret, sk_d = octets(32, 4), octets(PRF[old_prf].key_octets, 8)
    skeyseed = reference_prf(old_prf, sk_d, secret + NONCES.initiator + NONCES.responder)
    keying = SharedSecret(secret, NONCES, RekeyedFrom(old_prf, sk_d))
    assert derive_ike_keys(keying, AES_GCM, SPIS) == reference_ike_keys(AES_GCM, skeyseed, NONCES, SPIS)


@pytest.mark.parametrize("number", [5, 8])
def test_ike_intermediate_updates_give_one_generation_each(number: int) -> None:
    # RFC 9370, 2.2.2: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)
    proposal = replace(AES_GCM, prf=number)
    secrets = (octets(32, 1), octets(32, 2), octets(40, 3))
    ni, nr = NONCES.initiator, NONCES.responder
    seed = reference_prf(number, ni[:8] + nr[:8] if number == 8 else ni + nr, secrets[0])
    expected = [reference_ike_keys(proposal, seed, NONCES, SPIS)]
    for secret in secrets[1:]:
        seed = reference_prf(number, expected[-1].sk_d, secret + ni + nr)
        expected.append(reference_ike_keys(proposal, seed, NONCES, SPIS))
    keying = SharedSecret(secrets[0], NONCES, additional_secrets=secrets[1:])
    assert ike_key_generations(keying, proposal, SPIS) == tuple(expected)
    assert derive_ike_keys(keying, proposal, SPIS) == expected[-1]


def test_additional_secrets_of_a_rekey_make_one_skeyseed() -> None:
    # RFC 9370, 2.2.4: SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | ...)
    sk_d, secrets = octets(32, 8), (octets(32, 1), octets(32, 2), octets(40, 3))
    data = secrets[0] + NONCES.initiator + NONCES.responder + secrets[1] + secrets[2]
    skeyseed = reference_prf(5, sk_d, data)
    keying = SharedSecret(secrets[0], NONCES, RekeyedFrom(5, sk_d), secrets[1:])
    assert ike_key_generations(keying, AES_GCM, SPIS) == (reference_ike_keys(AES_GCM, skeyseed, NONCES, SPIS),)


@pytest.mark.parametrize(
    "keying",
    [
        SharedSecret(b"", NONCES),
        SharedSecret(b"s", Nonces(b"", b"n")),
        SharedSecret(b"s", Nonces(b"n", b"n" * 257)),
        SharedSecret(b"s", NONCES, additional_secrets=(b"",)),
        SharedSecret(b"s", NONCES, RekeyedFrom(5, b"")),
        Skeyseed(b"", NONCES),
        Skeyseed(b"s", NONCES, (b"",)),
        DerivedKeys(IkeKeys(b"d" * 32, b"", b"", b"e" * 36, b"e" * 35)),
        DerivedKeys(IkeKeys(b"d" * 31, b"", b"", b"e" * 36, b"e" * 36)),
        DerivedKeys(IkeKeys(b"d" * 32, b"a", b"", b"e" * 36, b"e" * 36)),
        DerivedKeys(IkeKeys(b"d" * 32, b"", b"", b"e" * 36, b"e" * 36, b"p")),
    ],
)
def test_material_that_can_not_be_right(keying: IkeKeying) -> None:
    with pytest.raises(MalformedContext):
        derive_ike_keys(keying, AES_GCM, SPIS)


def test_spis_that_are_too_long() -> None:
    with pytest.raises(MalformedContext):
        derive_ike_keys(SharedSecret(b"s", NONCES), AES_GCM, IkeSpis(1 << 64, 1))


# --- the three cases --------------------------------------------------------------------------------------------


CASE_1: list[IkeKeying] = [
    DiffieHellmanPrivate(private_key_for(19, 1), public_value(19, private_key_for(19, 2)), NONCES),
    SharedSecret(octets(32, 4), NONCES),
    SharedSecret(octets(32, 4), NONCES, RekeyedFrom(6, octets(48, 2)), (octets(32, 5),)),
    SharedSecret(octets(32, 4), NONCES, additional_secrets=(octets(32, 5), octets(32, 6))),
    DiffieHellmanPrivate(
        private_key_for(19, 1), public_value(19, private_key_for(19, 2)), NONCES, additional_secrets=(octets(32, 5),)
    ),
]


@pytest.mark.parametrize("keying", CASE_1)
@pytest.mark.parametrize("proposal", [AES_GCM, AES_CBC], ids=["gcm", "cbc"])
def test_the_three_cases_give_the_same_keys(keying: IkeKeying, proposal: IkeProposal) -> None:
    generations = ike_key_generations(keying, proposal, SPIS)
    case_2 = to_key_case(keying, proposal, SPIS, 2)
    case_3 = to_key_case(keying, proposal, SPIS, 3)
    assert [key_case(each) for each in (keying, case_2, case_3)] == [1, 2, 3]
    for other in (case_2, case_3, to_key_case(case_2, proposal, SPIS, 3)):
        assert ike_key_generations(other, proposal, SPIS) == generations
    for case in (2, 3):
        current = to_key_case(keying, proposal, SPIS, case, keep_earlier=False)
        assert ike_key_generations(current, proposal, SPIS) == generations[-1:]


@pytest.mark.parametrize("case", [1, 2, 3])
def test_the_same_case_is_the_same_material(case: int) -> None:
    keying = to_key_case(CASE_1[3], AES_GCM, SPIS, case)
    assert to_key_case(keying, AES_GCM, SPIS, case) is keying


@pytest.mark.parametrize("case", [2, 3])
def test_earlier_keys_can_be_left_out_later(case: int) -> None:
    keying = to_key_case(CASE_1[3], AES_GCM, SPIS, case)
    current = to_key_case(keying, AES_GCM, SPIS, case, keep_earlier=False)
    assert isinstance(current, (Skeyseed, DerivedKeys))
    assert current.earlier == ()
    assert ike_key_generations(current, AES_GCM, SPIS) == ike_key_generations(keying, AES_GCM, SPIS)[-1:]


@pytest.mark.parametrize(("have", "want"), [(2, 1), (3, 1), (3, 2), (1, 0), (1, 4)])
def test_no_way_up(have: int, want: int) -> None:
    keying = to_key_case(CASE_1[1], AES_GCM, SPIS, have)
    with pytest.raises(LocalError) as refused:
        to_key_case(keying, AES_GCM, SPIS, want)
    assert str(want) in str(refused.value)


# --- KEYMAT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("shared_secret", [b"", octets(32, 6)], ids=["without-pfs", "pfs"])
@pytest.mark.parametrize("additional", [(), (octets(32, 7), octets(33, 8))], ids=["one", "three-secrets"])
def test_keymat_order(initiator: bool, shared_secret: bytes, additional: tuple[bytes, ...]) -> None:
    # RFC 7296, 2.17: the initiator's direction first, encryption before integrity
    sk_d = octets(32, 3)
    seed = shared_secret + NONCES.initiator + NONCES.responder + b"".join(additional)
    t1 = reference_prf(5, sk_d, seed + b"\1")
    t2 = reference_prf(5, sk_d, t1 + seed + b"\2")
    keymat = t1 + t2 + reference_prf(5, sk_d, t2 + seed + b"\3")
    from_initiator, from_responder = (keymat[0:16], keymat[16:48]), (keymat[48:64], keymat[64:96])
    expected = IpsecKeys(*from_responder, *from_initiator) if initiator else IpsecKeys(*from_initiator, *from_responder)
    proposal = IpsecProposal(SecurityProtocol.ESP, 12, 128, 12, 0)
    keying = KeymatDerivation(SPIS, initiator, NONCES, shared_secret, additional)
    assert derive_ipsec_keys(keying, proposal, sk_d, 5) == expected


def test_keymat_of_ah_and_null() -> None:
    keying = KeymatDerivation(SPIS, True, NONCES)
    ah = derive_ipsec_keys(keying, IpsecProposal(SecurityProtocol.AH, None, 0, 14, 0), octets(32), 5)
    null = derive_ipsec_keys(keying, IpsecProposal(SecurityProtocol.ESP, 11, 0, 14, 0), octets(32), 5)
    assert ah == null
    assert (len(ah.inbound_encryption), len(ah.inbound_integrity)) == (0, 64)


@pytest.mark.parametrize(
    "proposal",
    [
        IpsecProposal(SecurityProtocol.AH, 12, 128, 12, 0),
        IpsecProposal(SecurityProtocol.ESP, None, 0, 12, 0),
        IpsecProposal(SecurityProtocol.IKE, 12, 128, 12, 0),
        IpsecProposal(SecurityProtocol.ESP, 20, 128, 12, 0),
        IpsecProposal(SecurityProtocol.ESP, 12, 128, 0, 0),
        IpsecProposal(SecurityProtocol.AH, None, 0, 0, 0),
        IpsecProposal(SecurityProtocol.ESP, 2000, 128, 12, 0),
    ],
)
def test_ipsec_proposals_that_make_no_sense(proposal: IpsecProposal) -> None:
    with pytest.raises((MalformedContext, UnsupportedAlgorithm)):
        derive_ipsec_keys(KeymatDerivation(SPIS, True, NONCES), proposal, octets(32), 5)


def test_ipsec_keys_of_the_wrong_length_and_a_missing_sk_d() -> None:
    proposal = IpsecProposal(SecurityProtocol.ESP, 12, 128, 12, 0)
    keys = keys_for(proposal)
    assert derive_ipsec_keys(keys, proposal) is keys
    with pytest.raises(MalformedContext):
        derive_ipsec_keys(replace(keys, inbound_integrity=b"short"), proposal)
    with pytest.raises(MalformedContext):
        derive_ipsec_keys(KeymatDerivation(SPIS, True, NONCES), proposal)


# --- what strongSwan derived ------------------------------------------------------------------------------------

SK_NAMES = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")


@each_trace
def test_recorded_ike_keys(trace: Trace) -> None:
    contexts = trace.ike_contexts()
    assert contexts
    for context, true in zip(contexts, trace.true_keys["ike_sas"], strict=True):
        case_2 = to_key_case(context.keying, context.proposal, context.spis, 2)
        assert isinstance(case_2, Skeyseed)
        assert case_2.skeyseed.hex() == true["skeyseed"]
        for case in (1, 2, 3):
            keying = to_key_case(context.keying, context.proposal, context.spis, case)
            keys = derive_ike_keys(keying, context.proposal, context.spis)
            assert {name: getattr(keys, name).hex() for name in SK_NAMES} == {name: true[name] for name in SK_NAMES}


@each_trace
def test_recorded_ipsec_keys(trace: Trace) -> None:
    parents = {context.spis: context for context in trace.ike_contexts()}
    for context, true in zip(trace.ipsec_contexts(), trace.true_keys["child_sas"], strict=True):
        assert isinstance(context.keying, KeymatDerivation)
        parent = parents[context.keying.ike_spis]
        sk_d = derive_ike_keys(parent.keying, parent.proposal, parent.spis).sk_d
        keys = derive_ipsec_keys(context.keying, context.proposal, sk_d, parent.proposal.prf)
        assert keys.inbound_encryption.hex() == true["key_in"]
        assert keys.outbound_encryption.hex() == true["key_out"]
        assert keys.inbound_integrity.hex() == true["integ_key_in"]
        assert keys.outbound_integrity.hex() == true["integ_key_out"]


def test_the_recordings_are_there() -> None:
    assert len(TRACES) >= 13
    assert sum(len(trace.true_keys["ike_sas"]) for trace in TRACES) >= 14
    assert any(sa["rekey_of"] for trace in TRACES for sa in trace.true_keys["ike_sas"])
    assert any(sa["dh_shared_secret"] for trace in TRACES for sa in trace.true_keys["child_sas"])


# --- secrets stay secret ----------------------------------------------------------------------------------------


def test_no_key_in_a_repr() -> None:
    secret = octets(32, 4)
    keying = SharedSecret(secret, NONCES)
    keys = derive_ike_keys(keying, AES_CBC, SPIS)
    shown = repr(keying) + repr(keys) + repr(to_key_case(keying, AES_CBC, SPIS, 2))
    for value in (secret, *(getattr(keys, name) for name in SK_NAMES)):
        assert value.hex() not in shown
        assert repr(value)[2:-1] not in shown
