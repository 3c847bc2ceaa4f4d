"""The worked examples of docs/context-formats.md: each as the value it stands for, and put together by hand.

``VALUES`` are contexts, ``ASSEMBLED`` their octets by the independent assembler, under the examples' ids.
Examples whose id starts with ``m`` are one parameter; ``PARAMETERS`` tells which field of which context it is.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import independent_context_assembler as by_hand

from contexts.base import Context, GenericContext
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext
from contexts.values import (
    AntiReplayWindow,
    ConfiguredCredentials,
    CounterKnowledge,
    DerivedKeys,
    DiffieHellmanPrivate,
    HostAddress,
    Identification,
    IkeExtension,
    IkeKeys,
    IkeLifetime,
    IkeProposal,
    IkeSpis,
    IpsecKeys,
    IpsecLifetime,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    LifetimeLimits,
    MessageIds,
    Nonces,
    ProcessingUnit,
    RekeyedFrom,
    SequenceNumbers,
    SharedSecret,
    Skeyseed,
    TrafficSelector,
    UnknownParameter,
    VendorParameter,
)

GATEWAY, CLIENT = IPv4Address("192.0.2.1"), IPv4Address("198.51.100.7")
SPI_I, SPI_R = 0x8F3C2A1B00112233, 0xD0E1F20344556677


def pattern(first: int, octets: int) -> bytes:
    """Recognizable octets, counting up: an example's keys and nonces."""
    return bytes((first + index) & 0xFF for index in range(octets))


NI, NR = pattern(0xA0, 16), pattern(0xB0, 16)
SK_D, SK_EI, SK_ER = pattern(0x00, 32), pattern(0x20, 36), pattern(0x60, 36)

IKE_SA = IkeSaContext(
    initiator=False,
    local_host=HostAddress(GATEWAY, 4500),
    remote_host=HostAddress(CLIENT, 4500),
    spis=IkeSpis(SPI_I, SPI_R),
    message_ids=MessageIds(next_request_to_send=0, next_request_expected=2),
    keying=DerivedKeys(IkeKeys(sk_d=SK_D, sk_ai=b"", sk_ar=b"", sk_ei=SK_EI, sk_er=SK_ER)),
    proposal=IkeProposal(
        encryption=20, encryption_key_length=256, integrity=0, integrity_key_length=0, prf=5, key_exchange=31
    ),
    extensions=IkeExtension.NAT_REMOTE | IkeExtension.MOBIKE | IkeExtension.FRAGMENTATION,
    local_identity=Identification(2, b"gw.example"),
    remote_identity=Identification(2, b"client.example"),
    credentials=ConfiguredCredentials("roadwarrior"),
    lifetime=IkeLifetime(soft_remaining=3000, hard_remaining=None),
    vendor_ids=(pattern(0xE0, 16),),
    vendor_parameters=(VendorParameter(0, 1, b"roadwarrior"), VendorParameter(36906, 1, b"\0\0\x40\x05")),
    unknown_parameters=(UnknownParameter(77, b"kept"),),
)

IPSEC_SA = IpsecSaContext(
    ike_spis=IkeSpis(SPI_I, SPI_R),
    local_host=HostAddress(GATEWAY, 4500),
    remote_host=HostAddress(CLIENT, 4500),
    inbound_spi=0xC1000001,
    outbound_spi=0xC2000002,
    sequence_numbers=SequenceNumbers(outbound=0x1_0000_0005, inbound=7, knowledge=CounterKnowledge.EXACT),
    window=AntiReplayWindow(size=64, bitmap=0b1011111),
    mode=IpsecMode.TUNNEL,
    lifetime=IpsecLifetime(
        seconds=LifetimeLimits(soft=3000, hard=3600, used=120),
        octets=LifetimeLimits(hard=1 << 40, used=9000),
        packets=LifetimeLimits(used=12),
    ),
    path_mtu=1400,
    local_selectors=(TrafficSelector(IPv4Address("10.1.0.0"), IPv4Address("10.1.255.255")),),
    remote_selectors=(
        TrafficSelector(IPv4Address("10.3.0.1"), IPv4Address("10.3.0.1"), 1024, 2048, 17),
        TrafficSelector(IPv6Address("2001:db8::"), IPv6Address("2001:db8::ffff")),
    ),
    proposal=IpsecProposal(
        protocol=3,
        encryption=20,
        encryption_key_length=256,
        integrity=0,
        integrity_key_length=0,
        extended_sequence_numbers=True,
    ),
    keying=IpsecKeys(pattern(0x00, 36), b"", pattern(0x40, 36), b""),
    processing_unit=ProcessingUnit(reqid=3, if_id=0),
)

VALUES: dict[str, Context] = {
    "ike-sa-case-3": IKE_SA,
    "ipsec-sa-aes-gcm": IPSEC_SA,
    "multicast-listener": MulticastListenerContext(
        subnet_prefix=IPv6Address("2001:db8:1:2::").packed[:8], group=IPv6Address("ff0e::101")
    ),
    "generic": GenericContext(feature_profile_type=0x1234, data=bytes.fromhex("0102030405060708")),
}

# One parameter each: example id -> the context, its field, and the value there.
PARAMETERS: dict[str, tuple[Context, str, str, Any]] = {
    "m7-case-1": (
        IKE_SA, "keying", "M7", DiffieHellmanPrivate(pattern(0x10, 32), pattern(0x50, 32), Nonces(NI, NR))
    ),
    "m7-case-2": (IKE_SA, "keying", "M7", Skeyseed(pattern(0x30, 32), Nonces(NI, NR))),
    "m7-case-4-rekeyed": (
        IKE_SA, "keying", "M7",
        SharedSecret(pattern(0x70, 32), Nonces(NI, NR), RekeyedFrom(5, pattern(0x90, 32)), (pattern(0xC0, 32),)),
    ),
    "m12-derivation": (
        IPSEC_SA, "keying", "M12",
        KeymatDerivation(IkeSpis(SPI_I, SPI_R), False, Nonces(NI, NR)),
    ),
}  # fmt: skip

_ANY = (0, 65535)

ASSEMBLED: dict[str, tuple[int, int | None, by_hand.Lines]] = {
    "ike-sa-case-3": (
        0xFF01,
        *by_hand.context(
            [
                by_hand.parameter("M1", [(b"\x20", "Major: 2, Minor: 0")], "IKE version"),
                by_hand.parameter("M2", [by_hand.flags(8, "I", bits=0)], "initiator flag"),
                by_hand.parameter(
                    "M3",
                    by_hand.host(GATEWAY, 4500, "Local") + by_hand.host(CLIENT, 4500, "Remote"),
                    "host addresses",
                ),
                by_hand.parameter("M4", by_hand.spis(SPI_I, SPI_R), "SPIs"),
                by_hand.parameter(
                    "M5",
                    [(by_hand.u32(0), "Next Request to Send: 0"), (by_hand.u32(2), "Next Request Expected: 2")],
                    "Message IDs",
                ),
                by_hand.parameter(
                    "M7", by_hand.case_3([SK_D, b"", b"", SK_EI, SK_ER, b"", b""]), "cryptographic material"
                ),
                by_hand.parameter("M8", by_hand.ike_proposal(20, 256, 0, 0, 5, 31, []), "SA proposal"),
                by_hand.parameter(
                    "M9", [(by_hand.u32(0x1A), "NAT_REMOTE, MOBIKE, FRAGMENTATION")], "extensions"
                ),
                by_hand.parameter(
                    "M10",
                    by_hand.identification(2, b"gw.example", "Local")
                    + by_hand.identification(2, b"client.example", "Remote"),
                    "identities",
                ),
                by_hand.parameter("M11", by_hand.configured("roadwarrior"), "credentials"),
                by_hand.parameter("M12", by_hand.window(1, 0), "window"),
                by_hand.parameter("O1", by_hand.ike_lifetime(3000, None), "IKE lifetime"),
                by_hand.parameter(
                    "O2",
                    [(b"\1", "Count: 1"), by_hand.reserved(1), *by_hand.octets(pattern(0xE0, 16), "Vendor ID")],
                    "vendor IDs",
                ),
                by_hand.parameter("O77", [(b"kept", "a value that we do not know")], "of a later edition"),
                by_hand.parameter(
                    "V0", by_hand.vendor(0, 1, b"roadwarrior", "Connection Name"), "vendor parameter"
                ),
                by_hand.parameter(
                    "V0", by_hand.vendor(36906, 1, by_hand.u32(0x4005), "strongSwan's conditions"), "vendor parameter"
                ),
            ]
        ),
    ),
    "ipsec-sa-aes-gcm": (
        0xFF02,
        *by_hand.context(
            [
                by_hand.parameter(
                    "M1",
                    by_hand.host(GATEWAY, 4500, "Local") + by_hand.host(CLIENT, 4500, "Remote"),
                    "host addresses",
                ),
                by_hand.parameter(
                    "M2",
                    [(by_hand.u32(0xC1000001), "Inbound SPI"), (by_hand.u32(0xC2000002), "Outbound SPI")],
                    "SPIs",
                ),
                by_hand.parameter("M3", by_hand.ipcomp(None), "IPComp"),
                by_hand.parameter(
                    "M4", by_hand.sequence_numbers(False, 0, 0x1_0000_0005, 7), "sequence numbers"
                ),
                by_hand.parameter("M5", by_hand.window(64, 0x5F), "anti-replay window"),
                by_hand.parameter("M6", [(by_hand.u8(2), "Mode: tunnel")], "mode"),
                by_hand.parameter(
                    "M7",
                    by_hand.limits("Seconds", 3000, 3600, 120)
                    + by_hand.limits("Octets", None, 1 << 40, 9000)
                    + by_hand.limits("Packets", None, None, 12),
                    "lifetime",
                ),
                by_hand.parameter("M8", [(by_hand.u32(1400), "Path MTU: 1400")], "path MTU"),
                by_hand.parameter("M9", [(by_hand.u8(0), "Protocol: any")], "upper-layer protocol"),
                by_hand.parameter(
                    "M10",
                    [
                        (b"\1", "Local: Count: 1"),
                        by_hand.reserved(3),
                        *by_hand.selector(IPv4Address("10.1.0.0"), IPv4Address("10.1.255.255"), _ANY, 0),
                        (b"\2", "Remote: Count: 2"),
                        by_hand.reserved(3),
                        *by_hand.selector(IPv4Address("10.3.0.1"), IPv4Address("10.3.0.1"), (1024, 2048), 17),
                        *by_hand.selector(IPv6Address("2001:db8::"), IPv6Address("2001:db8::ffff"), _ANY, 0),
                    ],
                    "traffic selectors",
                ),
                by_hand.parameter(
                    "M11", by_hand.ipsec_proposal(3, True, 20, 256, 0, 0, 0), "protocol and algorithms"
                ),
                by_hand.parameter(
                    "M12", by_hand.keymat_keys((pattern(0x00, 36), b""), (pattern(0x40, 36), b"")), "KEYMAT"
                ),
                by_hand.parameter("O1", by_hand.spis(SPI_I, SPI_R), "IKE_SA"),
                by_hand.parameter("V1", by_hand.processing_unit(None, None, 3, None, None, 0), "processing unit"),
            ]
        ),
    ),
    "multicast-listener": (
        0x0001,
        None,
        [
            (IPv6Address("2001:db8:1:2::").packed[:8], "Subnet Prefix"),
            (IPv6Address("ff0e::101").packed, "Subscribed IPv6 Multicast Address: ff0e::101"),
        ],
    ),
    "generic": (0x1234, None, [(bytes.fromhex("0102030405060708"), "not understood, kept")]),
}

ASSEMBLED_PARAMETERS: dict[str, by_hand.Lines] = {
    example: by_hand.parameter(name, lines, title)[1]
    for example, name, lines, title in (
        ("m7-case-1", "M7", by_hand.case_1(pattern(0x10, 32), pattern(0x50, 32), NI, NR), "cryptographic material"),
        ("m7-case-2", "M7", by_hand.case_2(pattern(0x30, 32), NI, NR), "cryptographic material"),
        (
            "m7-case-4-rekeyed",
            "M7",
            by_hand.case_4(pattern(0x70, 32), NI, NR, (5, pattern(0x90, 32)), [pattern(0xC0, 32)]),
            "cryptographic material",
        ),
        ("m12-derivation", "M12", by_hand.keymat_derivation(False, (SPI_I, SPI_R), NI, NR, b"", []), "KEYMAT"),
    )
}
