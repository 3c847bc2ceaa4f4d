"""Key derivation per case, above the bare primitives, and beside what negotiating anew would cost in these."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from statistics import median

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519

from contexts.ikev2 import IkeSaContext
from contexts.keys import diffie_hellman, ike_key_generations, public_value, to_key_case
from contexts.values import DiffieHellmanPrivate, SharedSecret

from .harness import Report, interleaved
from .samples import recorded_contexts

TRACES = ("aes128-sha256-modp3072", "aes256gcm16-prfsha384-ecp384", "cert-auth")


def derivation(seconds: float) -> Report:
    """SK_* of one IKE_SA in each case.  The floor is seven HMACs of the suite's hash, about what prf+ needs."""
    report = Report("Keys: SK_* of one IKE_SA, by case (floor: seven bare HMACs)")
    for trace in TRACES:
        ike = next(c for c in recorded_contexts(trace) if isinstance(c, IkeSaContext))
        if not isinstance(ike.keying, SharedSecret):
            raise SystemExit("the recordings carry shared secrets")
        digest = {5: "sha256", 6: "sha384", 7: "sha512"}[ike.proposal.prf]
        octets = {19: 32, 20: 48, 21: 66, 31: 32, 15: 384, 14: 256}[ike.proposal.key_exchange]
        private = bytes([1]) * octets if ike.proposal.key_exchange != 21 else b"\0" + bytes([1]) * (octets - 1)
        peer = public_value(ike.proposal.key_exchange, bytes([2]) * octets)
        case_1 = DiffieHellmanPrivate(private, peer, ike.keying.nonces)
        keyings = {
            "case 1, private key": case_1,
            "case 1, shared secret": ike.keying,
            "case 2": to_key_case(ike.keying, ike.proposal, ike.spis, 2),
            "case 3": to_key_case(ike.keying, ike.proposal, ike.spis, 3),
        }
        variants = {"floor": lambda digest=digest: [hmac.digest(bytes(48), bytes(80), digest) for _ in range(7)]}
        for name, keying in keyings.items():
            variants[name] = lambda keying=keying, ike=ike: ike_key_generations(keying, ike.proposal, ike.spis)
        report.compare(trace, variants, floor="floor", seconds=seconds)
    return report


def _negotiations() -> dict[str, Callable[[], object]]:
    """One gateway's asymmetric work in IKE_SA_INIT and IKE_AUTH: key pair, g^ir, one signature, one check."""
    ecdsa, digest = ec.ECDSA(hashes.SHA256()), hashes.SHA256()
    signer = ec.generate_private_key(ec.SECP256R1())
    signature = signer.sign(b"octets", ecdsa)
    rsa_signer = rsa.generate_private_key(65537, 3072)
    rsa_signature = rsa_signer.sign(b"octets", padding.PKCS1v15(), digest)
    peer_384 = public_value(20, bytes([2]) * 48)
    peer_25519 = x25519.X25519PrivateKey.generate().public_key()

    def signatures() -> None:
        signer.sign(b"octets", ecdsa)
        signer.public_key().verify(signature, b"octets", ecdsa)

    def ecp_384() -> None:
        private = bytes([3]) * 48
        public_value(20, private)
        diffie_hellman(20, private, peer_384)
        signatures()

    def curve25519() -> None:
        x25519.X25519PrivateKey.generate().exchange(peer_25519)
        signatures()

    def ecp_384_rsa() -> None:
        private = bytes([3]) * 48
        public_value(20, private)
        diffie_hellman(20, private, peer_384)
        rsa_signer.sign(b"octets", padding.PKCS1v15(), digest)
        rsa_signer.public_key().verify(rsa_signature, b"octets", padding.PKCS1v15(), digest)

    return {"ECP-384, ECDSA": ecp_384, "Curve25519, ECDSA": curve25519, "ECP-384, RSA-3072": ecp_384_rsa}


def asymmetric_work(seconds: float) -> dict[str, float]:
    """Seconds of one gateway's asymmetric work, by suite: medians."""
    return {name: median(times) for name, times in interleaved(_negotiations(), seconds).items()}


def negotiation(seconds: float) -> Report:
    """The asymmetric work of negotiating anew for one gateway, beside deriving keys from what was moved."""
    report = Report("Negotiating anew: one gateway's asymmetric work alone (floor: SK_* from a shared secret)")
    ike = next(c for c in recorded_contexts("aes256gcm16-prfsha384-ecp384") if isinstance(c, IkeSaContext))
    report.compare(
        "asymmetric",
        {
            "SK_* from shared secret": lambda: ike_key_generations(ike.keying, ike.proposal, ike.spis),
            **_negotiations(),
        },
        floor="SK_* from shared secret",
        seconds=seconds,
    )
    return report
