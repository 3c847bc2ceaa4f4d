"""The authorization token (RFC 4067, 2.5.1): proof that the mobile node itself asked for the transfer.

Token = the first 32 bits of HMAC_SHA1(Key, MN's previous IP address | Sequence Number | CDBs of the CTAR).
The key is shared by the mobile node and its previous router; a PCTD takes it to the new router, which discards
it once the token is checked.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

from .constants import NULL_TOKEN, TOKEN_LENGTH, TokenAlgorithm
from .errors import LocalError, TokenRejected, UnsupportedAlgorithm
from .messages import (
    ContextRequest,
    ContextTransferActivateRequest,
    ContextTransferRequest,
    IPAddress,
)


def compute_token(
    key: bytes,
    mn_previous_address: IPAddress,
    sequence_number: int,
    requested: Sequence[ContextRequest] = (),
    algorithm: int = TokenAlgorithm.HMAC_SHA1,
) -> bytes:
    """The 4 octets of the token.

    ``requested`` enters in its wire form, as the CTAR carries it.  Raises LocalError for an empty key,
    UnsupportedAlgorithm for any algorithm but HMAC_SHA1, the only one that RFC 4067 defines.
    """
    if algorithm != TokenAlgorithm.HMAC_SHA1:
        raise UnsupportedAlgorithm("token algorithm", algorithm)
    if not key:
        raise LocalError("a token needs a key; it is empty")
    signed = mn_previous_address.packed + struct.pack(">I", sequence_number)
    for item in requested:
        # RFC 4067, 2.4: FPT 16, Length 8, flags 8; then the padding of the 8-octet form (our decision 1).
        signed += struct.pack(">HBB", item.feature_profile_type, item.length, item.flags) + bytes(4 * item.length)
    return hmac.digest(key, signed, "sha1")[:TOKEN_LENGTH]


def is_null_token(request: ContextTransferActivateRequest | ContextTransferRequest) -> bool:
    """A CT-Req with a null token asks for the material to check the mobile node's token with (2.5.6)."""
    return request.authorization_token == NULL_TOKEN


def verify_token(
    key: bytes,
    request: ContextTransferActivateRequest | ContextTransferRequest,
    algorithm: int = TokenAlgorithm.HMAC_SHA1,
) -> None:
    """Check a CTAR's or CT-Req's token, in constant time.

    Raises TokenRejected where it does not match; a null token never does, nor does any under the empty key that
    a PCTD may carry.  Then neither transfer nor install may happen (RFC 4067, 6.3).
    """
    if not key:
        raise TokenRejected(f"the key to check the {request.short_name}'s token with is empty")
    expected = compute_token(
        key, request.mn_previous_address, request.sequence_number, request.requested, algorithm
    )
    matches = hmac.compare_digest(expected, request.authorization_token)
    if is_null_token(request) or not matches:
        raise TokenRejected(f"the {request.short_name}'s token for {request.mn_previous_address} does not match")
