"""Contexts as octets: one door for all context types, and the context that is not understood.

What each octet means is docs/context-formats.md's matter; :mod:`contexts.encoding` declares it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Union

from cxtp.config import ContextTypes
from cxtp.constants import FeatureProfileType
from cxtp.errors import InvalidContext, LocalError
from cxtp.messages import EncodedContext

from .encoding.framing import Level
from .encoding.ike_sa import IKE_SA
from .encoding.ipsec_sa import IPSEC_SA
from .encoding.multicast_listener import decode_listener, encode_listener
from .ikev2 import IkeSaContext
from .ipsec import IpsecSaContext
from .multicast_listener import MulticastListenerContext

__all__ = ["Context", "GenericContext", "Level", "decode", "encode"]


@dataclass(frozen=True, kw_only=True)
class GenericContext:
    """A context of a type that is not known here: octets in, the same octets out, the padding included."""

    name = "generic"

    feature_profile_type: int
    data: bytes = field(repr=False)  # may hold keys
    presence_vector: int | None = None


DECODED_AT_ONCE = 8192
"""Contexts whose values are kept beside their octets, some forty megabytes: one move looks at the same ones a dozen
times, and so does whoever goes through all sessions of a gateway once a second."""

Context = Union[IkeSaContext, IpsecSaContext, MulticastListenerContext, GenericContext]


def encode(context: Context, context_types: ContextTypes = ContextTypes()) -> EncodedContext:
    """The context as Context Data Blocks carry it, without padding.

    The octets of one value are always the same ones (docs/context-formats.md, 2.4).

    :raises InvalidContext: a value that its field can't hold; ``path`` names the field.
    """
    if isinstance(context, IkeSaContext):
        return IKE_SA.encode(context, context_types.ike_sa)
    if isinstance(context, IpsecSaContext):
        return IPSEC_SA.encode(context, context_types.ipsec_sa)
    if isinstance(context, MulticastListenerContext):
        return encode_listener(context)
    try:
        return EncodedContext(context.feature_profile_type, context.data, context.presence_vector)
    except LocalError:
        raise InvalidContext("feature_profile_type or presence_vector", "out of the field's range") from None


def decode(encoded: EncodedContext, context_types: ContextTypes = ContextTypes()) -> Context:
    """The context that ``encoded`` carries; up to 7 octets of zero may follow it (RFC 4067, 2.4).

    :raises MissingParameter: a mandatory parameter is not there.
    :raises MalformedContext: octets that are no context of their type; ``status`` is what a CTDR carries back.
    """
    return _decode(encoded, context_types)


@lru_cache(maxsize=DECODED_AT_ONCE)
def _decode(encoded: EncodedContext, context_types: ContextTypes) -> Context:
    number = encoded.feature_profile_type
    if number == context_types.ike_sa:
        return IKE_SA.decode(encoded)
    if number == context_types.ipsec_sa:
        return IPSEC_SA.decode(encoded)
    if number == FeatureProfileType.IPV6_MULTICAST_LISTENER:
        return decode_listener(encoded)
    return GenericContext(
        feature_profile_type=number, data=encoded.data, presence_vector=encoded.presence_vector
    )
