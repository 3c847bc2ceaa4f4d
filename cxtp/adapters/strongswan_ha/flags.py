"""strongSwan's own bit sets in CONDITIONS and EXTENSIONS, and what an IKE_SA context says of them.

The bits are those of ``ike_condition_t`` and ``ike_extension_t`` in strongSwan's src/libcharon/sa/ike_sa.h (read at
commit 00c889f4ec70, which has extensions up to bit 15 and conditions up to bit 13).  They agree with the recorded
values: extensions 0x3929 are NAT traversal, several authentications, EAP only, liveness, fragmentation, signature
authentication and redirection, 0x392b has MOBIKE too; conditions 0x4005 are NAT somewhere, the peer behind it, and
bit 14, "authenticated", which is younger than that header.  Bits that are not listed here are never lost: the raw
sets travel as vendor parameters.
"""

from __future__ import annotations

from enum import IntFlag

from contexts.values import IkeExtension


class Condition(IntFlag):
    """Conditions of an IKE_SA; they change during its life."""

    NAT_ANY = 1 << 0
    NAT_HERE = 1 << 1
    NAT_THERE = 1 << 2
    NAT_FAKE = 1 << 3
    EAP_AUTHENTICATED = 1 << 4
    CERTREQ_SEEN = 1 << 5
    PPK = 1 << 13
    AUTHENTICATED = 1 << 14


class Extension(IntFlag):
    """Extensions that the peer supports."""

    NATT = 1 << 0
    MOBIKE = 1 << 1
    IKE_FRAGMENTATION = 1 << 11
    SIGNATURE_AUTH = 1 << 12
    IKE_REDIRECTION = 1 << 13
    IKE_MESSAGE_ID_SYNC = 1 << 14
    PPK = 1 << 15


_CONDITIONS: tuple[tuple[Condition, IkeExtension], ...] = (
    (Condition.NAT_HERE, IkeExtension.NAT_LOCAL),
    (Condition.NAT_THERE, IkeExtension.NAT_REMOTE),
    (Condition.NAT_FAKE, IkeExtension.NAT_FORCED),
    (Condition.EAP_AUTHENTICATED, IkeExtension.EAP),
    (Condition.CERTREQ_SEEN, IkeExtension.CERTIFICATE_REQUEST_SEEN),
)
_EXTENSIONS: tuple[tuple[Extension, IkeExtension], ...] = (
    (Extension.MOBIKE, IkeExtension.MOBIKE),
    (Extension.IKE_FRAGMENTATION, IkeExtension.FRAGMENTATION),
    (Extension.SIGNATURE_AUTH, IkeExtension.HASH_ALGORITHMS),  # RFC 7427: SIGNATURE_HASH_ALGORITHMS was notified
    (Extension.IKE_REDIRECTION, IkeExtension.REDIRECT),
    (Extension.IKE_MESSAGE_ID_SYNC, IkeExtension.MESSAGE_ID_SYNC),
    (Extension.PPK, IkeExtension.PPK),
)


def ike_extensions(conditions: int, extensions: int) -> IkeExtension:
    """What an IKE_SA context's parameter 9 says of strongSwan's two bit sets."""
    result = IkeExtension.NONE
    for condition, meaning in _CONDITIONS:
        if conditions & condition:
            result |= meaning
    for extension, meaning in _EXTENSIONS:
        if extensions & extension:
            result |= meaning
    return result


def conditions_of(extensions: IkeExtension) -> Condition:
    """strongSwan's conditions of an IKE_SA that another daemon had; one that moves is authenticated."""
    result = Condition.AUTHENTICATED
    for condition, meaning in _CONDITIONS:
        if extensions & meaning:
            result |= condition
    if result & (Condition.NAT_HERE | Condition.NAT_THERE | Condition.NAT_FAKE):
        result |= Condition.NAT_ANY
    return result


def extensions_of(extensions: IkeExtension) -> Extension:
    """strongSwan's extensions of an IKE_SA that another daemon had."""
    result = Extension.NATT
    for extension, meaning in _EXTENSIONS:
        if extensions & meaning:
            result |= extension
    return result
