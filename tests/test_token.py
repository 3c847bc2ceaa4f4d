"""The authorization token: RFC 2202's vector, HMAC put together by hand, openssl; then all that must be refused."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import MN4, MN6, REPRODUCIBLE, context_requests, unsigned

from cxtp.errors import LocalError, MalformedMessage, TokenRejected, UnsupportedAlgorithm
from cxtp.messages import ContextRequest, ContextTransferActivateRequest, ContextTransferRequest, IPAddress
from cxtp.token import compute_token, is_null_token, verify_token
from cxtp.wire import build, parse

KEY = bytes(range(20))


def hmac_sha1(key: bytes, text: bytes) -> bytes:
    """HMAC as RFC 2104, 2 writes it: H(K XOR opad, H(K XOR ipad, text)), B = 64."""
    if len(key) > 64:
        key = hashlib.sha1(key).digest()
    key = key.ljust(64, b"\0")
    inner = hashlib.sha1(bytes(octet ^ 0x36 for octet in key) + text).digest()
    return hashlib.sha1(bytes(octet ^ 0x5C for octet in key) + inner).digest()


def test_the_witness_is_right() -> None:
    # RFC 2202, 3: test cases 2 and 6 (a key longer than a block).
    assert hmac_sha1(b"Jefe", b"what do ya want for nothing?").hex() == "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
    assert (
        hmac_sha1(b"\xaa" * 80, b"Test Using Larger Than Block-Size Key - Hash Key First").hex()
        == "aa4ae5e15272d00e95705637ce8a3b55ed402112"
    )


def test_rfc_2202_case_1() -> None:
    # "Hi There" as an IPv4 address, "Hi T", and a sequence number, "here": digest b617318655057264e28b...
    token = compute_token(b"\x0b" * 20, IPv4Address(b"Hi T"), int.from_bytes(b"here", "big"))
    assert token.hex() == "b6173186"


# What is signed, octet for octet: address | sequence number | the CTAR's blocks as they stand in it.
SIGNED: dict[str, tuple[IPAddress, int, tuple[ContextRequest, ...], str]] = {
    "all contexts, IPv4": (MN4, 0x01020304, (), "c0000207 01020304"),
    "all contexts, IPv6": (MN6, 0xFFFFFFFF, (), "20010db8000000000000000000000007 ffffffff"),
    "one request of 4 octets": (MN4, 1, (ContextRequest(0xFF01),), "c0000207 00000001 ff010000"),
    "one request of 8 octets": (MN4, 1, (ContextRequest(0xFF01, 1),), "c0000207 00000001 ff010100 00000000"),
    "a request with flags": (MN4, 1, (ContextRequest(0xFF01, 0, 0x81),), "c0000207 00000001 ff010081"),
    "two requests": (
        MN6,
        0,
        (ContextRequest(1, 1, 2), ContextRequest(0xFF02)),
        "20010db8000000000000000000000007 00000000 00010102 00000000 ff020000",
    ),
}


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("key", [b"k", KEY, b"long" * 40], ids=["1", "20", "160"])
def test_token_by_hand(name: str, key: bytes) -> None:
    address, sequence_number, requested, signed = SIGNED[name]
    expected = hmac_sha1(key, bytes.fromhex(signed))[:4]
    assert compute_token(key, address, sequence_number, requested) == expected


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_token_by_openssl() -> None:
    address, sequence_number, requested, signed = SIGNED["two requests"]
    digest = subprocess.run(
        ["openssl", "dgst", "-sha1", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}", "-binary"],
        input=bytes.fromhex(signed),
        capture_output=True,
        check=True,
    ).stdout
    assert compute_token(KEY, address, sequence_number, requested) == digest[:4]


def request(**changed: Any) -> ContextTransferActivateRequest:
    fields: dict[str, Any] = {
        "mn_previous_address": MN4,
        "access_router_address": IPv4Address("198.51.100.1"),
        "sequence_number": 0x01020304,
        "requested": (ContextRequest(0xFF01), ContextRequest(1, 1)),
        **changed,
    }
    token = compute_token(KEY, fields["mn_previous_address"], fields["sequence_number"], fields["requested"])
    return ContextTransferActivateRequest(**{"authorization_token": token, **fields})


@REPRODUCIBLE
@given(st.ip_addresses(), unsigned(32), st.lists(context_requests(), max_size=4).map(tuple))
def test_a_ct_req_carries_the_ctars_proof_verbatim(
    address: IPAddress, sequence_number: int, requested: tuple[ContextRequest, ...]
) -> None:
    # MN --- CTAR ---> nAR --- CT-Req ---> pAR, both over the wire
    sent = request(
        mn_previous_address=address,
        access_router_address=address,
        sequence_number=sequence_number,
        requested=requested,
    )
    arrived = parse(build(sent))
    assert isinstance(arrived, ContextTransferActivateRequest)
    verify_token(KEY, arrived)
    forwarded = ContextTransferRequest(
        mn_previous_address=arrived.mn_previous_address,
        sequence_number=arrived.sequence_number,
        authorization_token=arrived.authorization_token,
        requested=arrived.requested,
    )
    at_previous_router = parse(build(forwarded))
    assert isinstance(at_previous_router, ContextTransferRequest)
    verify_token(KEY, at_previous_router)
    # The proof is what follows the address, and the list goes to the message's end.
    assert build(sent).endswith(build(forwarded)[4 + len(address.packed) :])


def test_the_two_request_forms_are_not_one() -> None:
    forms = [ContextRequest(0xFF01, length, flags) for length in (0, 1) for flags in (0, 1, 0x80)]
    assert len({compute_token(KEY, MN4, 1, (form,)) for form in forms}) == 6
    sent = request(requested=(ContextRequest(0xFF01, 0),))
    with pytest.raises(TokenRejected):
        verify_token(KEY, replace(sent, requested=(ContextRequest(0xFF01, 1),)))


def test_order_of_requests_is_signed() -> None:
    sent = request()
    with pytest.raises(TokenRejected):
        verify_token(KEY, replace(sent, requested=sent.requested[::-1]))


def test_every_bit_of_the_request() -> None:
    # 4 header | 4 MN's address | 4 router's address | 4 sequence number | 4 token | 4 + 8 requests.
    # The token covers the address, the number and the requests (RFC 4067, 2.5.1), so not the header's A and
    # reserved bits, nor the router's address, which differs between the CTARs to both routers.
    octets = build(request())
    unsigned_bits = {*range(9, 16), *range(64, 96)}
    verified = set()
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            arrived = parse(bytes(flipped))
            if isinstance(arrived, ContextTransferActivateRequest):  # a bit of Type makes another message of it
                verify_token(KEY, arrived)
                verified.add(bit)
        except (MalformedMessage, TokenRejected):
            continue
    assert verified == unsigned_bits


def test_every_bit_of_the_key() -> None:
    for bit in range(len(KEY) * 8):
        wrong = bytearray(KEY)
        wrong[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(TokenRejected):
            verify_token(bytes(wrong), request())


def test_a_null_token_is_never_right() -> None:
    null = request(authorization_token=bytes(4))
    assert is_null_token(null)
    assert not is_null_token(request())
    with pytest.raises(TokenRejected):
        verify_token(KEY, null)


def test_a_null_token_is_refused_even_where_it_is_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxtp.token.compute_token", lambda *_: bytes(4))
    with pytest.raises(TokenRejected):
        verify_token(KEY, request(authorization_token=bytes(4)))


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    sent = request()
    with pytest.raises(TokenRejected):
        verify_token(KEY, sent)
    assert compared == [(sent.authorization_token, sent.authorization_token)]


def test_no_key_no_token() -> None:
    with pytest.raises(LocalError):
        compute_token(b"", MN4, 1)
    # A PCTD may carry an empty key: whoever knows that could make the token.
    signed = bytes.fromhex("c0000207 01020304 ff010000 00010100 00000000")
    forged = request(authorization_token=hmac_sha1(b"", signed)[:4])
    with pytest.raises(TokenRejected):
        verify_token(b"", forged)


@pytest.mark.parametrize("algorithm", [0, 2, 0xFFFF])
def test_another_algorithm_is_named(algorithm: int) -> None:
    with pytest.raises(UnsupportedAlgorithm, match=str(algorithm)) as caught:
        verify_token(KEY, request(), algorithm)
    assert caught.value.status == 0x05


def test_the_error_tells_nothing_that_helps_to_forge() -> None:
    sent = request()
    with pytest.raises(TokenRejected) as caught:
        verify_token(KEY, replace(sent, sequence_number=5))
    true_token = compute_token(KEY, MN4, 5, sent.requested)
    for secret in (KEY, true_token, sent.authorization_token):
        assert secret.hex() not in str(caught.value)
        assert repr(secret) not in str(caught.value)
    assert caught.value.status == 0x08
