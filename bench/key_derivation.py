"""Key derivation per case, above the bare primitives, and beside what negotiating anew would cost in these."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from contexts.ikev2 import IkeSaContext
from contexts.keys import diffie_hellman, ike_key_generations, public_value, to_key_case
from contexts.values import DiffieHellmanPrivate, SharedSecret

from .harness import Report
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


def negotiation(seconds: float) -> Report:
    """The asymmetric work of IKE_SA_INIT and IKE_AUTH for one gateway: key pair, g^ir, one signature, one check."""
    report = Report("Negotiating anew: one gateway's asymmetric work alone (floor: SK_* from a shared secret)")
    ike = next(c for c in recorded_contexts("aes256gcm16-prfsha384-ecp384") if isinstance(c, IkeSaContext))
    signer = ec.generate_private_key(ec.SECP256R1())
    signature = signer.sign(b"octets", ec.ECDSA(hashes.SHA256()))
    peer_384 = public_value(20, bytes([2]) * 48)
    peer_25519 = x25519.X25519PrivateKey.generate().public_key()

    def signatures() -> None:
        signer.sign(b"octets", ec.ECDSA(hashes.SHA256()))
        signer.public_key().verify(signature, b"octets", ec.ECDSA(hashes.SHA256()))

    def ecp_384() -> None:
        private = bytes([3]) * 48
        public_value(20, private)
        diffie_hellman(20, private, peer_384)
        signatures()

    def curve25519() -> None:
        x25519.X25519PrivateKey.generate().exchange(peer_25519)
        signatures()

    report.compare(
        "asymmetric",
        {
            "SK_* from shared secret": lambda: ike_key_generations(ike.keying, ike.proposal, ike.spis),
            "ECP-384, ECDSA": ecp_384,
            "Curve25519, ECDSA": curve25519,
        },
        floor="SK_* from shared secret",
        seconds=seconds,
    )
    return report
