"""Contexts as plain data (JSON) and as rows for people.

Plain data is read off the dataclasses themselves, so that a new field needs no new code: an object per
dataclass with its field names, ``null`` for None, a list per tuple, text for addresses, hex for octets.  A value
that can be of several classes has a ``kind``; an IANA number stands with its name; a field that a ``repr`` hides
is a key, and stays hidden unless it is asked for.  Integers that 53 bits can't hold are text, since many JSON
readers would round them (RFC 7493, 2.2): SPIs, CPIs and bitmaps in hex, counters in decimal.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import IntEnum, IntFlag
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from cxtp.constants import (
    EncryptionAlgorithm,
    IdentificationType,
    IntegrityAlgorithm,
    IpCompTransform,
    KeyExchangeMethod,
    PseudorandomFunction,
    SecurityProtocol,
)
from cxtp.errors import InvalidContext

from . import values
from .base import Context, GenericContext, encode
from .encoding.vendor import describe_vendor_parameter
from .ikev2 import IkeSaContext
from .ipsec import IpsecSaContext
from .multicast_listener import MulticastListenerContext

# The names that tell a value's class where there are several.
KINDS: dict[str, type[Any]] = {
    "ike_sa": IkeSaContext,
    "ipsec_sa": IpsecSaContext,
    "ipv6_multicast_listener": MulticastListenerContext,
    "generic": GenericContext,
    "diffie_hellman_private": values.DiffieHellmanPrivate,
    "shared_secret": values.SharedSecret,
    "skeyseed": values.Skeyseed,
    "derived_keys": values.DerivedKeys,
    "preshared_key": values.PresharedKey,
    "certificates": values.Certificates,
    "configured_credentials": values.ConfiguredCredentials,
    "ipsec_keys": values.IpsecKeys,
    "keymat_derivation": values.KeymatDerivation,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}

# Integers that number something in a registry of IANA's.
REGISTRIES: dict[tuple[type[Any], str], type[IntEnum]] = {
    (values.Identification, "type"): IdentificationType,
    (values.RekeyedFrom, "prf"): PseudorandomFunction,
    (values.IkeProposal, "encryption"): EncryptionAlgorithm,
    (values.IkeProposal, "integrity"): IntegrityAlgorithm,
    (values.IkeProposal, "prf"): PseudorandomFunction,
    (values.IkeProposal, "key_exchange"): KeyExchangeMethod,
    (values.IkeProposal, "additional_key_exchanges"): KeyExchangeMethod,
    (values.IpComp, "algorithm"): IpCompTransform,
    (values.IpsecProposal, "protocol"): SecurityProtocol,
    (values.IpsecProposal, "encryption"): EncryptionAlgorithm,
    (values.IpsecProposal, "integrity"): IntegrityAlgorithm,
    (values.IpsecProposal, "key_exchange"): KeyExchangeMethod,
}

# Integers written as hex text, with their digits (0: as many as it takes).
HEX_DIGITS: dict[tuple[type[Any], str], int] = {
    (values.IkeSpis, "initiator"): 16,
    (values.IkeSpis, "responder"): 16,
    (IpsecSaContext, "inbound_spi"): 8,
    (IpsecSaContext, "outbound_spi"): 8,
    (values.IpComp, "inbound_cpi"): 4,
    (values.IpComp, "outbound_cpi"): 4,
    (values.MessageWindow, "bitmap"): 0,
    (values.AntiReplayWindow, "bitmap"): 0,
}

# Integers of 64 bits written as decimal text.
DECIMAL_TEXT: frozenset[tuple[type[Any], str]] = frozenset(
    [
        (values.SequenceNumbers, "outbound"),
        (values.SequenceNumbers, "inbound"),
        (values.LifetimeLimits, "soft"),
        (values.LifetimeLimits, "hard"),
        (values.LifetimeLimits, "used"),
    ]
)

_MAXIMUM_TEXT_DIGITS = 1024
"""Digits of an integer in text: 4,096 bits in hex, the widest bitmap (docs/context-formats.md)."""


# --- to plain data ----------------------------------------------------------------------------------------------


def to_plain(context: Context, *, show_keys: bool) -> dict[str, Any]:
    """The context as JSON-ready data; keys are ``{"hidden": true, "octets": n}`` unless ``show_keys``."""
    return _plain_object(context, show_keys)


def _plain_object(value: Any, show_keys: bool) -> dict[str, Any]:
    cls = type(value)
    plain: dict[str, Any] = {"kind": _KIND_OF[cls]} if cls in _KIND_OF else {}
    for field in fields(cls):
        plain[field.name] = _plain_value(cls, field, getattr(value, field.name), show_keys)
    return plain


def _plain_value(cls: type[Any], field: Field[Any], value: Any, show_keys: bool) -> Any:
    """One field's value, or one item of it where it is a tuple."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, tuple):
        return [_plain_value(cls, field, item, show_keys) for item in value]
    if isinstance(value, bytes):
        return value.hex() if show_keys or field.repr else {"hidden": True, "octets": len(value)}
    if isinstance(value, int):
        return _plain_integer((cls, field.name), value)
    if is_dataclass(value):
        return _plain_object(value, show_keys)
    return str(value)  # an address


def _plain_integer(key: tuple[type[Any], str], value: int) -> Any:
    if isinstance(value, IntFlag):
        return {"number": int(value), "names": [str(flag.name) for flag in _known_flags(type(value), value)]}
    if isinstance(value, IntEnum) or key in REGISTRIES:
        return {"number": int(value), "name": _name(REGISTRIES.get(key, type(value)), value)}
    if key in HEX_DIGITS:
        return f"{value:0{HEX_DIGITS[key]}x}"
    return str(int(value)) if key in DECIMAL_TEXT else int(value)


def _name(registry: type[Any], number: int) -> str | None:
    """The name of a number in an IntEnum, None where it has none there."""
    member = registry._value2member_map_.get(int(number))
    return None if member is None else str(member.name)


def _known_flags(cls: type[IntFlag], value: int) -> list[IntFlag]:
    return [flag for flag in cls.__members__.values() if int(flag) and int(flag) & value]


# --- from plain data --------------------------------------------------------------------------------------------


def from_plain(plain: object) -> Context:
    """The context that :func:`to_plain` with ``show_keys`` made ``plain`` of.

    Fields with a default may be left out.  :raises InvalidContext: naming the JSON path of what is wrong.
    """
    context = cast(Context, _from_plain(Context, plain, "$", (GenericContext, "")))
    try:
        encode(context)  # the formats know each field's range
    except InvalidContext as error:
        raise InvalidContext(f"$.{error.path}", error.reason) from None
    return context


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _expect(cls: type[Any], plain: object, path: str, what: str) -> Any:
    # bool is an int to Python and none to JSON
    if not isinstance(plain, cls) or (cls is int and isinstance(plain, bool)):
        raise InvalidContext(path, f"expected {what}")
    return plain


def _from_plain(hint: Any, plain: object, path: str, key: tuple[type[Any], str]) -> Any:
    """A value of the type that ``hint`` describes; ``key`` is the class and field that it stands in."""
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _from_union(get_args(hint), plain, path, key)
    if origin is tuple:
        items = _expect(list, plain, path, "a list")
        return tuple(_from_plain(get_args(hint)[0], item, f"{path}[{i}]", key) for i, item in enumerate(items))
    if is_dataclass(hint):
        return _from_object(cast("type[Any]", hint), plain, path)
    if hint is bytes:
        return _from_hex(plain, path)
    if hint is bool:
        return _expect(bool, plain, path, "true or false")
    if hint is str:
        return _expect(str, plain, path, "text")
    if hint in (IPv4Address, IPv6Address):
        return _from_address((hint,), plain, path)
    return _from_integer(hint, plain, path, key)


def _from_union(options: tuple[Any, ...], plain: object, path: str, key: tuple[type[Any], str]) -> Any:
    if type(None) in options:
        if plain is None:
            return None
        options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _from_plain(options[0], plain, path, key)
    if options[0] in (IPv4Address, IPv6Address):
        return _from_address(options, plain, path)
    names = [_KIND_OF[option] for option in options]
    kind = _expect(dict, plain, path, "an object").get("kind")
    if kind not in names:
        raise InvalidContext(f"{path}.kind", f"expected one of {', '.join(names)}")
    return _from_object(KINDS[kind], plain, path)


def _from_object(cls: type[Any], plain: object, path: str) -> Any:
    given = dict(_expect(dict, plain, path, "an object"))
    if cls in _KIND_OF and given.pop("kind", None) != _KIND_OF[cls]:
        raise InvalidContext(f"{path}.kind", f"expected {_KIND_OF[cls]}")
    arguments = {}
    hints = get_type_hints(cls)
    for field in fields(cls):
        where = f"{path}.{field.name}"
        if field.name in given:
            arguments[field.name] = _from_plain(hints[field.name], given.pop(field.name), where, (cls, field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InvalidContext(where, "missing")
    if given:
        raise InvalidContext(f"{path}.{min(map(str, given))[:64]}", "not a field of this object")
    return cls(**arguments)


def _from_hex(plain: object, path: str) -> bytes:
    if isinstance(plain, dict) and plain.get("hidden") is True:
        raise InvalidContext(path, "this key was hidden when it was exported: export it with its keys")
    text = _expect(str, plain, path, "octets in hex")
    if not set(text) <= set("0123456789abcdefABCDEF") or len(text) % 2:
        raise InvalidContext(path, "expected octets in hex, two digits each")
    return bytes.fromhex(text)


def _from_address(options: tuple[Any, ...], plain: object, path: str) -> Any:
    text = _expect(str, plain, path, "an IP address")
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidContext(path, "expected an IP address") from None
    if type(address) not in options:
        raise InvalidContext(path, f"expected an address of {options[0].__name__}")
    return address


def _from_integer(hint: Any, plain: object, path: str, key: tuple[type[Any], str]) -> int:
    if isinstance(hint, type) and issubclass(hint, IntFlag):
        return _from_flags(hint, plain, path)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        number = _from_numbered(hint, plain, path)
        if number not in hint._value2member_map_:
            raise InvalidContext(path, f"expected one of {', '.join(hint.__members__)}")
        return hint(number)
    if key in REGISTRIES:
        return _from_numbered(REGISTRIES[key], plain, path)
    if key in HEX_DIGITS:
        return _from_digits(plain, path, "0123456789abcdefABCDEF", 16)
    if key in DECIMAL_TEXT:
        return _from_digits(plain, path, "0123456789", 10)
    return int(_expect(int, plain, path, "an integer"))


def _from_digits(plain: object, path: str, digits: str, base: int) -> int:
    text = _expect(str, plain, path, f"text of digits, base {base}")
    if not text or len(text) > _MAXIMUM_TEXT_DIGITS or not set(text) <= set(digits):
        raise InvalidContext(path, f"expected 1 to {_MAXIMUM_TEXT_DIGITS} digits, base {base}")
    return int(text, base)


def _from_numbered(registry: type[IntEnum], plain: object, path: str) -> int:
    given = _expect(dict, plain, path, "an object of number and name")
    if not set(given) <= {"number", "name"} or "number" not in given:
        raise InvalidContext(path, "expected an object of number and name")
    number = int(_expect(int, given["number"], f"{path}.number", "an integer"))
    name, known = given.get("name"), _name(registry, number)
    # a number that we have no name for may have one where the data was written
    if (name is not None and not isinstance(name, str)) or (None not in (name, known) and name != known):
        raise InvalidContext(f"{path}.name", f"expected {known}, the number's name")
    return number


def _from_flags(cls: type[IntFlag], plain: object, path: str) -> int:
    given = _expect(dict, plain, path, "an object of number and names")
    if not set(given) <= {"number", "names"} or "number" not in given:
        raise InvalidContext(path, "expected an object of number and names")
    number = int(_expect(int, given["number"], f"{path}.number", "an integer"))
    if not 0 <= number < 1 << 32:
        raise InvalidContext(f"{path}.number", "expected an integer of 32 bits")
    known = [str(flag.name) for flag in _known_flags(cls, number)]
    names = _expect(list, given.get("names", known), f"{path}.names", "a list")
    if not all(isinstance(name, str) for name in names) or [n for n in names if n in cls.__members__] != known:
        raise InvalidContext(f"{path}.names", "expected the names of the number's bits, lowest first")
    return cls(number)


# --- for people -------------------------------------------------------------------------------------------------


def describe(context: Context) -> list[tuple[str, str]]:
    """Rows of label and text for people; keys stay hidden.

    Text that came from a peer is escaped where a terminal would act on it.
    """
    return [(label, "".join(map(_printable, text))) for label, text in _rows("", context)]


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _rows(label: str, value: Any) -> Iterator[tuple[str, str]]:
    cls = type(value)
    if label and isinstance(value, values.VendorParameter):
        yield label, describe_vendor_parameter(value)
    elif label and "__str__" in vars(cls) and is_dataclass(value):
        yield label, str(value)
    else:
        if label and cls in _KIND_OF:
            yield label, _KIND_OF[cls].replace("_", " ")
        for field in fields(cls):
            here = f"{label}, {field.name}" if label else field.name
            yield from _field_rows(cls, field, here.replace("_", " "), getattr(value, field.name))


def _field_rows(cls: type[Any], field: Field[Any], label: str, value: Any) -> Iterator[tuple[str, str]]:
    if value is None or value in ((), b""):
        return
    if isinstance(value, values.HostAddress):
        yield label, f"{value.address}" + (f" port {value.port}" if value.port else "")
    elif isinstance(value, values.TrafficSelector):
        yield label, _selector(value)
    elif isinstance(value, tuple):
        for index, item in enumerate(value, 1):
            yield from _field_rows(cls, field, f"{label} {index}", item)
    elif is_dataclass(value):
        yield from _rows(label, value)
    else:
        yield label, _text(_plain_value(cls, field, value, show_keys=False))


def _selector(selector: values.TrafficSelector) -> str:
    text = f"{selector.start_address}-{selector.end_address}"
    if (selector.start_port, selector.end_port) != (0, 65535):
        text += f" port {selector.start_port}-{selector.end_port}"
    return text + (f" protocol {selector.protocol}" if selector.protocol else "")


def _text(plain: Any) -> str:
    """A single value of plain data as a person reads it."""
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    if not isinstance(plain, dict):
        return str(plain)
    if "hidden" in plain:
        return f"hidden, {plain['octets']} octets"
    if "names" in plain:
        return " ".join([f"{plain['number']:#x}", *plain["names"]])
    return f"{plain['name'] or 'unknown'} ({plain['number']})"
