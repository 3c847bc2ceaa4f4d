"""IKE_SA and IPsec_SA contexts with ``struct`` by hand: the floor for contexts.base.

It gives the same values and octets as the product for whole contexts as they are in use.  It trusts what it reads:
no presence vector is checked, no reserved bit looked at, no error names a parameter.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Any

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import (
    AntiReplayWindow,
    Certificates,
    ConfiguredCredentials,
    CounterKnowledge,
    DerivedKeys,
    DiffieHellmanPrivate,
    HostAddress,
    Identification,
    IkeExtension,
    IkeKeys,
    IkeProposal,
    IkeSpis,
    IkeVersion,
    IpComp,
    IpsecKeys,
    IpsecLifetime,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    LifetimeLimits,
    MessageIds,
    MessageWindow,
    Nonces,
    PresharedKey,
    RekeyedFrom,
    SequenceNumbers,
    SharedSecret,
    Skeyseed,
    TrafficSelector,
    VendorParameter,
)
from cxtp.messages import EncodedContext

HEADER, PARAMETER, HOST = Struct(">BxHI"), Struct(">HH"), Struct(">BxH")
U8, U16, U32, SPIS, IDS = Struct(">B"), Struct(">H"), Struct(">I"), Struct(">QQ"), Struct(">II")
CASE, IKE_TRANSFORMS, IPSEC_TRANSFORMS = Struct(">BBBx"), Struct(">6HBx"), Struct(">BB5H")
COMPRESSION, COUNTERS, LIMITS, SELECTOR = Struct(">BBHH"), Struct(">BBxxQQ"), Struct(">IQQQ"), Struct(">BBHHH")
VENDOR = Struct(">IH")
_MANDATORY, _OPTIONAL, _VENDOR = 0, 1 << 14, 2 << 14


def _octets(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = U16.unpack_from(data, at)
    end = at + 2 + length
    return data[at + 2 : end], end


def _many(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    found = []
    for _ in range(count):
        item, at = _octets(data, at)
        found.append(item)
    return found, at


def _host(data: bytes, at: int) -> tuple[HostAddress, int]:
    family, port = HOST.unpack_from(data, at)
    if family == 4:
        return HostAddress(IPv4Address(data[at + 4 : at + 8]), port), at + 8
    return HostAddress(IPv6Address(data[at + 4 : at + 20]), port), at + 20


def _cut(data: bytes) -> tuple[dict[int, bytes], tuple[VendorParameter, ...]]:
    _, count, _ = HEADER.unpack_from(data)
    values, vendors, at = {}, [], 8
    for _ in range(count):
        head, length = PARAMETER.unpack_from(data, at)
        value = data[at + 4 : at + 4 + length]
        if head == _VENDOR:
            enterprise, number = VENDOR.unpack_from(value)
            vendors.append(VendorParameter(enterprise, number, value[6:]))
        else:
            values[head] = value
        at += 4 + length
    return values, tuple(vendors)


# --- decode -----------------------------------------------------------------------------------------------------


def _rekeyed(flags: int, count: int, data: bytes, at: int) -> dict[str, Any]:
    (initiator, responder), at = _many(data, at, 2)
    old = None
    if flags & 0x80:
        (prf,) = U16.unpack_from(data, at)
        sk_d, at = _octets(data, at + 2)
        old = RekeyedFrom(prf, sk_d)
    secrets, _ = _many(data, at, count)
    return {"nonces": Nonces(initiator, responder), "rekeyed_from": old, "additional_secrets": tuple(secrets)}


def _ike_keying(data: bytes) -> DiffieHellmanPrivate | SharedSecret | Skeyseed | DerivedKeys:
    case, flags, count = CASE.unpack_from(data)
    if case == 4:
        secret, at = _octets(data, 4)
        return SharedSecret(secret, **_rekeyed(flags, count, data, at))
    if case == 1:
        (private, peer), at = _many(data, 4, 2)
        return DiffieHellmanPrivate(private, peer, **_rekeyed(flags, count, data, at))
    if case == 2:
        (seed, initiator, responder), at = _many(data, 4, 3)
        return Skeyseed(seed, Nonces(initiator, responder), tuple(_many(data, at, count)[0]))
    keys, at = _many(data, 4, 7)
    earlier = []
    for _ in range(count):
        old, at = _many(data, at, 7)
        earlier.append(IkeKeys(*old))
    return DerivedKeys(IkeKeys(*keys), tuple(earlier))


def _credentials(data: bytes) -> PresharedKey | Certificates | ConfiguredCredentials:
    if data[0] == 1:
        return PresharedKey(_octets(data, 4)[0])
    if data[0] == 2:
        return Certificates(tuple(_many(data, 4, data[1])[0]))
    return ConfiguredCredentials(_octets(data, 4)[0].decode())


def _bitmap(data: bytes) -> tuple[int, int]:
    return U32.unpack_from(data)[0], int.from_bytes(data[6:], "big")


def decode_ike_sa(encoded: EncodedContext) -> IkeSaContext:
    """An IKE_SA without its optional parameters O1 and O2, which no export has."""
    values, vendors = _cut(encoded.data)
    hosts, identities, transforms = values[3], values[10], values[8]
    local, at = _host(hosts, 0)
    ours, at_theirs = _octets(identities, 2)
    encryption, bits, integrity, integrity_bits, prf, method, count = IKE_TRANSFORMS.unpack_from(transforms)
    additional = tuple(U16.unpack_from(transforms, 14 + 2 * index)[0] for index in range(count))
    return IkeSaContext(
        version=IkeVersion(values[1][0] >> 4, values[1][0] & 15),
        initiator=bool(values[2][0] & 0x80),
        local_host=local,
        remote_host=_host(hosts, at)[0],
        spis=IkeSpis(*SPIS.unpack(values[4])),
        message_ids=MessageIds(*IDS.unpack(values[5])),
        keying=_ike_keying(values[7]),
        proposal=IkeProposal(encryption, bits, integrity, integrity_bits, prf, method, additional),
        extensions=IkeExtension(U32.unpack(values[9])[0]),
        local_identity=Identification(identities[0], ours),
        remote_identity=Identification(identities[at_theirs], _octets(identities, at_theirs + 2)[0]),
        credentials=_credentials(values[11]),
        window=MessageWindow(*_bitmap(values[12])),
        vendor_parameters=vendors,
    )


def _selectors(data: bytes, at: int) -> tuple[tuple[TrafficSelector, ...], int]:
    found = []
    count, at = data[at], at + 4
    for _ in range(count):
        kind, protocol, length, start, end = SELECTOR.unpack_from(data, at)
        family, half = (IPv4Address, 4) if kind == 7 else (IPv6Address, 16)
        low, high = family(data[at + 8 : at + 8 + half]), family(data[at + 8 + half : at + length])
        found.append(TrafficSelector(low, high, start, end, protocol))
        at += length
    return tuple(found), at


def _lifetime(data: bytes) -> IpsecLifetime:
    return IpsecLifetime(
        *(
            LifetimeLimits(soft if flags & 1 << 31 else None, hard if flags & 1 << 30 else None, used)
            for flags, soft, hard, used in LIMITS.iter_unpack(data)
        )
    )


def _ipsec_keying(data: bytes) -> IpsecKeys | KeymatDerivation:
    kind, flags, count = CASE.unpack_from(data)
    if kind == 1:
        return IpsecKeys(*_many(data, 4, 4)[0])
    (initiator, responder, shared), at = _many(data, 20, 3)
    spis = IkeSpis(*SPIS.unpack_from(data, 4))
    secrets = tuple(_many(data, at, count)[0])
    return KeymatDerivation(spis, bool(flags & 0x80), Nonces(initiator, responder), shared, secrets)


def decode_ipsec_sa(encoded: EncodedContext) -> IpsecSaContext:
    """An IPsec_SA without V1 (processing unit), which no export has."""
    values, vendors = _cut(encoded.data)
    local, at = _host(values[1], 0)
    inbound, outbound = IDS.unpack(values[2])
    compressed, algorithm, cpi_in, cpi_out = COMPRESSION.unpack(values[3])
    overflow, knowledge, sent, received = COUNTERS.unpack(values[4])
    ours, at_theirs = _selectors(values[10], 0)
    protocol, flags, encryption, bits, integrity, integrity_bits, method = IPSEC_TRANSFORMS.unpack(values[11])
    spis = values.get(_OPTIONAL | 1)
    return IpsecSaContext(
        ike_spis=None if spis is None else IkeSpis(*SPIS.unpack(spis)),
        local_host=local,
        remote_host=_host(values[1], at)[0],
        inbound_spi=inbound,
        outbound_spi=outbound,
        ipcomp=IpComp(cpi_in, cpi_out, algorithm) if compressed & 0x80 else None,
        sequence_numbers=SequenceNumbers(sent, received, bool(overflow & 0x80), CounterKnowledge(knowledge)),
        window=AntiReplayWindow(*_bitmap(values[5])),
        mode=IpsecMode(values[6][0]),
        lifetime=_lifetime(values[7]),
        path_mtu=U32.unpack(values[8])[0],
        upper_layer_protocol=values[9][0],
        local_selectors=ours,
        remote_selectors=_selectors(values[10], at_theirs)[0],
        proposal=IpsecProposal(
            protocol=protocol,
            encryption=encryption if flags & 0x40 else None,
            encryption_key_length=bits,
            integrity=integrity,
            integrity_key_length=integrity_bits,
            extended_sequence_numbers=bool(flags & 0x80),
            key_exchange=method,
        ),
        keying=_ipsec_keying(values[12]),
        vendor_parameters=vendors,
    )


# --- encode -----------------------------------------------------------------------------------------------------


def _put(*items: bytes) -> bytes:
    return b"".join(U16.pack(len(item)) + item for item in items)


def _put_host(host: HostAddress) -> bytes:
    return HOST.pack(host.address.version, host.port) + host.address.packed


def _put_window(window: MessageWindow | AntiReplayWindow) -> bytes:
    return U32.pack(window.size) + _put(window.bitmap.to_bytes((window.bitmap.bit_length() + 7) // 8, "big"))


def _put_rekeyed(keying: DiffieHellmanPrivate | SharedSecret) -> bytes:
    old, nonces = keying.rekeyed_from, keying.nonces
    middle = b"" if old is None else U16.pack(old.prf) + _put(old.sk_d)
    return _put(nonces.initiator, nonces.responder) + middle + _put(*keying.additional_secrets)


def _put_ike_keying(keying: Any) -> bytes:
    if isinstance(keying, DerivedKeys):
        every = [vars(keys).values() for keys in (keying.keys, *keying.earlier)]
        return CASE.pack(3, 0, len(keying.earlier)) + b"".join(_put(*keys) for keys in every)
    if isinstance(keying, Skeyseed):
        nonces = keying.nonces
        seeds = _put(keying.skeyseed, nonces.initiator, nonces.responder, *keying.earlier)
        return CASE.pack(2, 0, len(keying.earlier)) + seeds
    flags, count = 0x80 * (keying.rekeyed_from is not None), len(keying.additional_secrets)
    if isinstance(keying, DiffieHellmanPrivate):
        secret = _put(keying.private_key, keying.peer_key_exchange)
        return CASE.pack(1, flags, count) + secret + _put_rekeyed(keying)
    return CASE.pack(4, flags, count) + _put(keying.shared_secret) + _put_rekeyed(keying)


def _put_credentials(credentials: Any) -> bytes:
    if isinstance(credentials, PresharedKey):
        return b"\1\0\0\0" + _put(credentials.key)
    if isinstance(credentials, Certificates):
        return bytes((2, len(credentials.chain), 0, 0)) + _put(*credentials.chain)
    return b"\3\0\0\0" + _put(credentials.name.encode())


def _joined(
    values: dict[int, bytes], presence: int, vendors: tuple[VendorParameter, ...], number: int
) -> EncodedContext:
    parts = [PARAMETER.pack(head, len(value)) + value for head, value in values.items()]
    for vendor in vendors:
        parts.append(PARAMETER.pack(_VENDOR, 6 + len(vendor.value)) + VENDOR.pack(vendor.enterprise, vendor.number))
        parts.append(vendor.value)
    body = b"".join(parts)
    data = HEADER.pack(1, len(values) + len(vendors), 8 + len(body)) + body
    return EncodedContext(number, data, presence | (2 if vendors else 0))


def encode_ike_sa(context: IkeSaContext) -> EncodedContext:
    """As :func:`decode_ike_sa`, the other way."""
    proposal, ours, theirs = context.proposal, context.local_identity, context.remote_identity
    additional = proposal.additional_key_exchanges
    values = {
        1: U8.pack(context.version.major << 4 | context.version.minor),
        2: U8.pack(0x80 * context.initiator),
        3: _put_host(context.local_host) + _put_host(context.remote_host),
        4: SPIS.pack(context.spis.initiator, context.spis.responder),
        5: IDS.pack(context.message_ids.next_request_to_send, context.message_ids.next_request_expected),
        7: _put_ike_keying(context.keying),
        8: IKE_TRANSFORMS.pack(
            proposal.encryption, proposal.encryption_key_length, proposal.integrity, proposal.integrity_key_length,
            proposal.prf, proposal.key_exchange, len(additional),
        ) + b"".join(map(U16.pack, additional)),
        9: U32.pack(context.extensions),
        10: bytes((ours.type, 0)) + _put(ours.data) + bytes((theirs.type, 0)) + _put(theirs.data),
        11: _put_credentials(context.credentials),
        12: _put_window(context.window),
    }  # fmt: skip
    return _joined(values, 0xFBF00000, context.vendor_parameters, 0xFF01)


def _put_selectors(selectors: tuple[TrafficSelector, ...]) -> bytes:
    parts = [bytes((len(selectors), 0, 0, 0))]
    for one in selectors:
        kind, length = (7, 16) if one.start_address.version == 4 else (8, 40)
        parts.append(SELECTOR.pack(kind, one.protocol, length, one.start_port, one.end_port))
        parts += (one.start_address.packed, one.end_address.packed)
    return b"".join(parts)


def _put_limits(limits: LifetimeLimits) -> bytes:
    flags = (limits.soft is not None) << 31 | (limits.hard is not None) << 30
    return LIMITS.pack(flags, limits.soft or 0, limits.hard or 0, limits.used)


def _put_ipsec_keying(keying: IpsecKeys | KeymatDerivation) -> bytes:
    if isinstance(keying, IpsecKeys):
        return b"\1\0\0\0" + _put(*vars(keying).values())
    head = CASE.pack(2, 0x80 * keying.initiator, len(keying.additional_secrets))
    spis, nonces = keying.ike_spis, keying.nonces
    octets = _put(nonces.initiator, nonces.responder, keying.shared_secret, *keying.additional_secrets)
    return head + SPIS.pack(spis.initiator, spis.responder) + octets


def encode_ipsec_sa(context: IpsecSaContext) -> EncodedContext:
    """As :func:`decode_ipsec_sa`, the other way."""
    comp, counters, proposal, life = context.ipcomp, context.sequence_numbers, context.proposal, context.lifetime
    values = {
        1: _put_host(context.local_host) + _put_host(context.remote_host),
        2: IDS.pack(context.inbound_spi, context.outbound_spi),
        3: bytes(6) if comp is None else COMPRESSION.pack(0x80, comp.algorithm, comp.inbound_cpi, comp.outbound_cpi),
        4: COUNTERS.pack(
            0x80 * counters.overflow_allowed, counters.knowledge, counters.outbound, counters.inbound
        ),
        5: _put_window(context.window),
        6: U8.pack(context.mode),
        7: _put_limits(life.seconds) + _put_limits(life.octets) + _put_limits(life.packets),
        8: U32.pack(context.path_mtu),
        9: U8.pack(context.upper_layer_protocol),
        10: _put_selectors(context.local_selectors) + _put_selectors(context.remote_selectors),
        11: IPSEC_TRANSFORMS.pack(
            proposal.protocol,
            0x80 * proposal.extended_sequence_numbers | 0x40 * (proposal.encryption is not None),
            proposal.encryption or 0, proposal.encryption_key_length, proposal.integrity,
            proposal.integrity_key_length, proposal.key_exchange,
        ),
        12: _put_ipsec_keying(context.keying),
    }  # fmt: skip
    presence = 0xFFF00000
    if context.ike_spis is not None:
        values[_OPTIONAL | 1] = SPIS.pack(context.ike_spis.initiator, context.ike_spis.responder)
        presence |= 0x8000
    return _joined(values, presence, context.vendor_parameters, 0xFF02)
