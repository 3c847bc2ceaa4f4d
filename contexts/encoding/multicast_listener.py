"""The IPv6 multicast listener context's octets (RFC 4067, Appendix B): no header, no presence vector."""

from __future__ import annotations

from ipaddress import IPv6Address

from construct import Bytes, Struct, Terminated

from cxtp.compiled import Compiled, NotParsed
from cxtp.errors import InvalidContext, MalformedContext
from cxtp.messages import EncodedContext

from ..multicast_listener import MulticastListenerContext
from .elements import IPV6_ADDRESS, Checked, Record
from .framing import MAXIMUM_PADDING, build, field_path, reason_of

SECTION = "RFC 4067, Appendix B"


def _is_multicast(address: IPv6Address) -> bool:
    return address.is_multicast


# Subnet Prefix on nAR's wireless interface, 8 octets; Subscribed IPv6 Multicast Address, 16 octets
LISTENER = Compiled(
    Struct(
        "listener"
        / Record(
            MulticastListenerContext,
            "subnet_prefix" / Bytes(8),
            "group" / Checked(IPV6_ADDRESS, _is_multicast, "no multicast address"),
        ),
        Terminated,
    )
)
LISTENER_OCTETS = 24


def encode_listener(context: MulticastListenerContext) -> EncodedContext:
    """The context's 24 octets.  :raises InvalidContext: a prefix of another length, a group that is none."""
    if len(context.subnet_prefix) != 8:
        raise InvalidContext("subnet_prefix", "not 8 octets")
    data = build(LISTENER, {"listener": context}, MulticastListenerContext.name)
    return EncodedContext(MulticastListenerContext.feature_profile_type, data)


def decode_listener(encoded: EncodedContext) -> MulticastListenerContext:
    """The context; the 4 octets of padding that its Context Data Block has are dropped."""
    if encoded.presence_vector is not None:
        raise _malformed("presence vector", 0, "there is none")
    padding = encoded.data[LISTENER_OCTETS:]
    if len(padding) > MAXIMUM_PADDING or any(padding):
        raise _malformed("padding", LISTENER_OCTETS, f"not at most {MAXIMUM_PADDING} octets of zero")
    try:
        listener = LISTENER.parse(encoded.data[:LISTENER_OCTETS])["listener"]
    except NotParsed as refused:
        raise _malformed(field_path(refused.error), refused.offset, reason_of(refused.error)) from None
    assert isinstance(listener, MulticastListenerContext)  # noqa: S101  for the type checker
    return listener


def _malformed(parameter: str, offset: int, reason: str) -> MalformedContext:
    return MalformedContext(MulticastListenerContext.name, parameter, offset, reason, section=SECTION)
