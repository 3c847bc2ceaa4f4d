"""Any IKE_SA or IPsec_SA context put together by the independent assembler: the codec's second witness."""

from __future__ import annotations

import independent_context_assembler as by_hand
from independent_context_assembler import Lines, parameter, u8, u32

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import (
    Certificates,
    DerivedKeys,
    DiffieHellmanPrivate,
    HostAddress,
    IkeKeying,
    IkeKeys,
    IpsecKeys,
    LifetimeLimits,
    Nonces,
    PresharedKey,
    RekeyedFrom,
    SharedSecret,
    Skeyseed,
    TrafficSelector,
    UnknownParameter,
    VendorParameter,
)

Parameters = list[tuple[str, Lines]]


def octets_of(presence_and_lines: tuple[int, Lines]) -> tuple[int, bytes]:
    presence, lines = presence_and_lines
    return presence, by_hand.joined(lines)


def hosts(local: HostAddress, remote: HostAddress) -> Lines:
    return by_hand.host(local.address, local.port, "") + by_hand.host(remote.address, remote.port, "")


def extras(unknown: tuple[UnknownParameter, ...], vendor: tuple[VendorParameter, ...]) -> tuple[Parameters, Parameters]:
    return (
        [parameter(f"O{item.number}", [(item.value, "")], "") for item in unknown],
        [parameter("V0", by_hand.vendor(item.enterprise, item.number, item.value, ""), "") for item in vendor],
    )


def old(rekeyed: RekeyedFrom | None) -> tuple[int, bytes] | None:
    return None if rekeyed is None else (rekeyed.prf, rekeyed.sk_d)


def both(nonces: Nonces) -> tuple[bytes, bytes]:
    return nonces.initiator, nonces.responder


def key_set(keys: IkeKeys) -> list[bytes]:
    return [keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr]


def keying_lines(keying: IkeKeying) -> Lines:
    if isinstance(keying, DerivedKeys):
        return by_hand.case_3(key_set(keying.keys), [key_set(keys) for keys in keying.earlier])
    if isinstance(keying, Skeyseed):
        return by_hand.case_2(keying.skeyseed, *both(keying.nonces), list(keying.earlier))
    tail = (*both(keying.nonces), old(keying.rekeyed_from), list(keying.additional_secrets))
    if isinstance(keying, SharedSecret):
        return by_hand.case_4(keying.shared_secret, *tail)
    assert isinstance(keying, DiffieHellmanPrivate)
    return by_hand.case_1(keying.private_key, keying.peer_key_exchange, *tail)


def ike_sa(context: IkeSaContext) -> tuple[int, bytes]:
    """Presence vector and data."""
    proposal, credentials = context.proposal, context.credentials
    if isinstance(credentials, PresharedKey):
        credential_lines = by_hand.preshared_key(credentials.key)
    elif isinstance(credentials, Certificates):
        credential_lines = by_hand.certificates(list(credentials.chain))
    else:
        credential_lines = by_hand.configured(credentials.name)
    identities = [(item.type, item.data, "") for item in (context.local_identity, context.remote_identity)]
    ids = context.message_ids
    parameters: Parameters = [
        parameter("M1", [(u8(context.version.major << 4 | context.version.minor), "")], ""),
        parameter("M2", [(u8(0x80 if context.initiator else 0), "")], ""),
        parameter("M3", hosts(context.local_host, context.remote_host), ""),
        parameter("M4", by_hand.spis(context.spis.initiator, context.spis.responder), ""),
        parameter("M5", [(u32(ids.next_request_to_send) + u32(ids.next_request_expected), "")], ""),
        parameter("M7", keying_lines(context.keying), ""),
        parameter(
            "M8",
            by_hand.ike_proposal(
                proposal.encryption,
                proposal.encryption_key_length,
                proposal.integrity,
                proposal.integrity_key_length,
                proposal.prf,
                proposal.key_exchange,
                list(proposal.additional_key_exchanges),
            ),
            "",
        ),
        parameter("M9", [(u32(int(context.extensions)), "")], ""),
        parameter("M10", by_hand.identification(*identities[0]) + by_hand.identification(*identities[1]), ""),
        parameter("M11", credential_lines, ""),
        parameter("M12", by_hand.window(context.window.size, context.window.bitmap), ""),
    ]
    if context.lifetime is not None:
        life = context.lifetime
        parameters.append(parameter("O1", by_hand.ike_lifetime(life.soft_remaining, life.hard_remaining), ""))
    if context.vendor_ids:
        lines: Lines = [(u8(len(context.vendor_ids)) + b"\0", "")]
        for vendor_id in context.vendor_ids:
            lines += by_hand.octets(vendor_id, "")
        parameters.append(parameter("O2", lines, ""))
    unknown, vendor = extras(context.unknown_parameters, context.vendor_parameters)
    return octets_of(by_hand.context(parameters + unknown + vendor))


def selector_list(selectors: tuple[TrafficSelector, ...]) -> Lines:
    lines: Lines = [(u8(len(selectors)) + bytes(3), "")]
    for item in selectors:
        ends = (item.start_port, item.end_port)
        lines += by_hand.selector(item.start_address, item.end_address, ends, item.protocol)
    return lines


def limits(value: LifetimeLimits) -> Lines:
    return by_hand.limits("", value.soft, value.hard, value.used)


def ipsec_sa(context: IpsecSaContext) -> tuple[int, bytes]:
    """Presence vector and data."""
    numbers, life, proposal, keying = context.sequence_numbers, context.lifetime, context.proposal, context.keying
    compression = context.ipcomp and (context.ipcomp.inbound_cpi, context.ipcomp.outbound_cpi, context.ipcomp.algorithm)
    if isinstance(keying, IpsecKeys):
        keymat = by_hand.keymat_keys(
            (keying.inbound_encryption, keying.inbound_integrity),
            (keying.outbound_encryption, keying.outbound_integrity),
        )
    else:
        keymat = by_hand.keymat_derivation(
            keying.initiator,
            (keying.ike_spis.initiator, keying.ike_spis.responder),
            *both(keying.nonces),
            keying.shared_secret,
            list(keying.additional_secrets),
        )
    parameters: Parameters = [
        parameter("M1", hosts(context.local_host, context.remote_host), ""),
        parameter("M2", [(u32(context.inbound_spi) + u32(context.outbound_spi), "")], ""),
        parameter("M3", by_hand.ipcomp(compression), ""),
        parameter(
            "M4",
            by_hand.sequence_numbers(
                numbers.overflow_allowed, int(numbers.knowledge), numbers.outbound, numbers.inbound
            ),
            "",
        ),
        parameter("M5", by_hand.window(context.window.size, context.window.bitmap), ""),
        parameter("M6", [(u8(int(context.mode)), "")], ""),
        parameter("M7", limits(life.seconds) + limits(life.octets) + limits(life.packets), ""),
        parameter("M8", [(u32(context.path_mtu), "")], ""),
        parameter("M9", [(u8(context.upper_layer_protocol), "")], ""),
        parameter("M10", selector_list(context.local_selectors) + selector_list(context.remote_selectors), ""),
        parameter(
            "M11",
            by_hand.ipsec_proposal(
                proposal.protocol,
                proposal.extended_sequence_numbers,
                proposal.encryption,
                proposal.encryption_key_length,
                proposal.integrity,
                proposal.integrity_key_length,
                proposal.key_exchange,
            ),
            "",
        ),
        parameter("M12", keymat, ""),
    ]
    if context.ike_spis is not None:
        parameters.append(parameter("O1", by_hand.spis(context.ike_spis.initiator, context.ike_spis.responder), ""))
    unknown, vendor = extras(context.unknown_parameters, context.vendor_parameters)
    parameters += unknown + vendor
    if context.processing_unit is not None:
        unit = context.processing_unit
        told = (unit.instance_id, unit.flow_id, unit.reqid, unit.mark, unit.mark_mask, unit.if_id)
        parameters.append(parameter("V1", by_hand.processing_unit(*told), ""))
    return octets_of(by_hand.context(parameters))
