"""One normal form of a message: dicts and lists, field names by the words of RFC 4067 and docs/context-formats.md.

Octets are hexadecimal, addresses text, numbers ``int``.  What is absent, or declared absent by a flag, is left out,
and so are empty lists; Reserved of contexts is left out (a receiver ignores it).  A message that is refused is
``None``; a context that is refused says which status.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from contexts import values as v
from contexts.base import GenericContext, decode
from contexts.encoding.vendor import vendor_value
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext
from cxtp.constants import FeatureProfileType
from cxtp.continuation import from_blocks
from cxtp.errors import RemoteError
from cxtp.manifest import TransferManifest
from cxtp.messages import ContextBlock, ContextRequest, ContextStatus, EncodedContext, Message
from cxtp.replica import find_replica
from cxtp.wire import parse

Normal = dict[str, Any]

# Where our dataclasses say a thing in other words than the documents.
WORDS = {
    "mn_previous_address": "mn_address",
    "authorization_token": "token",
    "statuses": "record",
    "blocks": "cdb",
    "feature_profile_type": "fpt",
    "encryption": "encr",
    "encryption_key_length": "encr_key_length",
    "integrity": "integ",
    "integrity_key_length": "integ_key_length",
    "key_exchange": "ke",
    "additional_key_exchanges": "additional_ke",
}


def pruned(value: Normal) -> Normal:
    """Without what is absent."""
    for key in [key for key in value if key.startswith("has_")]:
        if not value.pop(key):
            value.pop(key.removeprefix("has_"), None)
    return {key: item for key, item in value.items() if item is not None and item != []}


def plain(value: Any) -> Any:
    """A value of ours."""
    if isinstance(value, v.Nonces):
        return {"ni": value.initiator.hex(), "nr": value.responder.hex()}
    if isinstance(value, v.IkeSpis):
        return {"spi_i": value.initiator, "spi_r": value.responder}
    if is_dataclass(value):
        return record(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (IPv4Address, IPv6Address)):
        return str(type(value)(value.packed))
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, int) else value


def record(value: Any) -> Normal:
    """A dataclass's fields; nonces and SPIs have no box of their own."""
    found: Normal = {}
    for field in fields(value):
        item = plain(getattr(value, field.name))
        if isinstance(item, dict) and field.name in ("nonces", "ike_spis", "spis"):
            found |= item
        else:
            found[WORDS.get(field.name, field.name)] = item
    return pruned(found)


CASES = {v.DiffieHellmanPrivate: 1, v.Skeyseed: 2, v.DerivedKeys: 3, v.SharedSecret: 4}
CREDENTIALS = {v.PresharedKey: 1, v.Certificates: 2, v.ConfiguredCredentials: 3}
KINDS = {v.IpsecKeys: 1, v.KeymatDerivation: 2}


def _identity(identity: v.Identification) -> Normal:
    return {"type": identity.type, "data": identity.data.hex()}


def _keying(keying: Any) -> Normal:
    found = record(keying)
    if isinstance(keying, v.DerivedKeys) and "earlier" in found:
        found["earlier_keys"] = found.pop("earlier")
    return {"case": CASES[type(keying)], **found}


def _credentials(credentials: Any) -> Normal:
    found = record(credentials)
    if "name" in found:
        found["name"] = found["name"].encode().hex()
    return {"kind": CREDENTIALS[type(credentials)], **found}


def _ike(c: IkeSaContext) -> dict[str, Normal | None]:
    return {
        "M1": record(c.version),
        "M2": {"initiator": int(c.initiator)},
        "M3": {"local_host": record(c.local_host), "remote_host": record(c.remote_host)},
        "M4": plain(c.spis),
        "M5": record(c.message_ids),
        "M7": _keying(c.keying),
        "M8": record(c.proposal),
        "M9": {"extensions": int(c.extensions)},
        "M10": {"local_identity": _identity(c.local_identity), "remote_identity": _identity(c.remote_identity)},
        "M11": _credentials(c.credentials),
        "M12": record(c.window),
        "O1": None if c.lifetime is None else record(c.lifetime),
        "O2": {"vendor_ids": plain(c.vendor_ids)} if c.vendor_ids else None,
    }


def _ipsec(c: IpsecSaContext) -> dict[str, Normal | None]:
    comp = c.ipcomp
    compressed = {} if comp is None else {
        "ipcomp_algorithm": comp.algorithm, "inbound_cpi": comp.inbound_cpi, "outbound_cpi": comp.outbound_cpi
    }
    selectors = {"local_selectors": plain(c.local_selectors), "remote_selectors": plain(c.remote_selectors)}
    return {
        "M1": {"local_host": record(c.local_host), "remote_host": record(c.remote_host)},
        "M2": {"inbound_spi": c.inbound_spi, "outbound_spi": c.outbound_spi},
        "M3": {"compressed": int(comp is not None), **compressed},
        "M4": record(c.sequence_numbers),
        "M5": record(c.window),
        "M6": {"mode": int(c.mode)},
        "M7": record(c.lifetime),
        "M8": {"path_mtu": c.path_mtu},
        "M9": {"upper_layer_protocol": c.upper_layer_protocol},
        "M10": selectors,
        "M11": record(c.proposal),
        "M12": {"kind": KINDS[type(c.keying)], **record(c.keying)},
        "O1": None if c.ike_spis is None else plain(c.ike_spis),
    }


def _vendor(parameter: v.VendorParameter) -> Normal:
    found = {"parameter": "V0", **record(parameter)}
    try:
        value: Any = vendor_value(parameter)
    except RemoteError:
        return {**found, "unreadable": 1}
    if isinstance(value, v.Identification):
        found |= _identity(value)
    elif isinstance(value, str):
        found["text"] = value.encode().hex()
    elif isinstance(value, int):
        found["bits"] = value
    elif value:
        found["address"] = plain(value)
    return found


def _parameters(context: IkeSaContext | IpsecSaContext) -> list[Normal]:
    table = _ike(context) if isinstance(context, IkeSaContext) else _ipsec(context)
    found = [{"parameter": name, **value} for name, value in table.items() if value is not None]
    found += [{"parameter": f"O{u.number}", "value": u.value.hex()} for u in context.unknown_parameters]
    found += [_vendor(parameter) for parameter in context.vendor_parameters]
    unit = getattr(context, "processing_unit", None)
    return found if unit is None else [*found, {"parameter": "V1", **record(unit)}]


def of_context(encoded: EncodedContext) -> Normal:
    """A context, decoded by us."""
    try:
        if encoded.feature_profile_type == FeatureProfileType.TRANSFER_MANIFEST:
            return record(TransferManifest.decode(encoded))
        if encoded.feature_profile_type == FeatureProfileType.REPLICA:
            found = find_replica([encoded])
            assert found is not None
            return {"kind": int(found[0])}
        context = decode(encoded)
    except RemoteError as error:
        return {"status": int(error.status)}
    if isinstance(context, GenericContext):
        return {}
    if isinstance(context, MulticastListenerContext):
        return record(context)
    return {"parameters": _parameters(context)}


def _block(block: ContextBlock) -> Normal:
    return {**record(block), "length": block.length, "presence": int(block.presence_vector is not None)}


def of_message(message: Message, octets: int) -> Normal:
    """A message of ours, whose wire form has so many octets."""
    found = {**record(message), "type": int(message.type), "length": octets, "ipv4": int(message.is_ipv4)}
    blocks = getattr(message, "blocks", ())
    if blocks:
        found["cdb"] = [_block(block) for block in blocks]
        try:
            found["contexts"] = [of_context(item) for item in from_blocks(blocks)]
        except RemoteError:
            found["contexts"] = "refused"
    return found


def ours(octets: bytes) -> Normal | None:
    """What cxtp.wire and contexts say of a message's octets; None: it is none."""
    try:
        return of_message(parse(octets), len(octets))
    except RemoteError:
        return None


__all__ = ["Normal", "ContextRequest", "ContextStatus", "of_context", "of_message", "ours", "pruned"]
