"""A second witness for contexts: the boxes of docs/context-formats.md put together by hand with ``struct``.

It imports nothing of ``contexts``.  Every function gives lines, (octets, what they are), so that the worked
examples of the document can be written with it and be checked against it line by line.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Union

Line = tuple[bytes, str]
Lines = list[Line]
Address = Union[IPv4Address, IPv6Address]

LEVELS = {"M": 0, "O": 1, "V": 2}


def u8(number: int) -> bytes:
    return struct.pack(">B", number)


def u16(number: int) -> bytes:
    return struct.pack(">H", number)


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def joined(lines: Lines) -> bytes:
    return b"".join(octets for octets, _ in lines)


def octets(value: bytes, what: str) -> Lines:
    """Length (16 bits), Octets."""
    return [(u16(len(value)), f"Length of {what}: {len(value)}"), *([(value, what)] if value else [])]


def reserved(count: int) -> Line:
    return bytes(count), "Reserved"


# --- 2. the frame -----------------------------------------------------------------------------------------------


def parameter(name: str, lines: Lines, title: str) -> tuple[str, Lines]:
    """A parameter: Level (2 bits), Number (14 bits), Length (16 bits), Value."""
    head = LEVELS[name[0]] << 14 | int(name[1:])
    value = joined(lines)
    return name, [(u16(head), f"{name} {title}"), (u16(len(value)), f"Length: {len(value)}"), *lines]


def context(parameters: list[tuple[str, Lines]]) -> tuple[int, Lines]:
    """The presence vector, and the header with all parameters behind it."""
    body = [line for _, lines in parameters for line in lines]
    total = 8 + len(joined(body))
    head = [
        (u8(1), "Format Version: 1"),
        reserved(1),
        (u16(len(parameters)), f"Parameter Count: {len(parameters)}"),
        (u32(total), f"Total Length: {total}"),
    ]
    return presence_vector([name for name, _ in parameters]), head + body


def presence_vector(names: list[str]) -> int:
    """M1 is bit 0, the most significant one; O1 is bit 16, O14 and above share bit 29; V0 is bit 30, V1 bit 31."""
    bits = ["0"] * 32
    for name in names:
        number = int(name[1:])
        place = {"M": number - 1, "O": 29 if number > 13 else 15 + number, "V": 30 + number}[name[0]]
        bits[place] = "1"
    return int("".join(bits), 2)


# --- 3. elements ------------------------------------------------------------------------------------------------


def host(address: Address, port: int, whose: str) -> Lines:
    return [
        (u8(address.version), f"{whose}: Family: IPv{address.version}"),
        reserved(1),
        (u16(port), f"Port: {port}"),
        (address.packed, f"Address: {address}"),
    ]


def spis(initiator: int, responder: int) -> Lines:
    return [(u64(initiator), "SPI of the initiator"), (u64(responder), "SPI of the responder")]


def nonces(initiator: bytes, responder: bytes) -> Lines:
    return octets(initiator, "Ni") + octets(responder, "Nr")


def window(size: int, bitmap: int) -> Lines:
    digits = f"{bitmap:x}" if bitmap else ""
    even = "0" * (len(digits) % 2) + digits
    return [(u32(size), f"Size: {size}"), *octets(bytes.fromhex(even), "Bitmap")]


def flags(width: int, *names: str, bits: int) -> Line:
    """Flags, the first name the most significant bit; ``bits`` are their values, left to right."""
    total = bits << (width - len(names))
    told = ", ".join(f"{name}={bits >> (len(names) - 1 - place) & 1}" for place, name in enumerate(names))
    return total.to_bytes(width // 8, "big"), told


def selector(start: Address, end: Address, ports: tuple[int, int], protocol: int) -> Lines:
    """As IKEv2's: TS Type, IP Protocol ID, Selector Length, ports, addresses."""
    ts_type, length = (7, 16) if start.version == 4 else (8, 40)
    return [
        (u8(ts_type), f"TS Type: IPv{start.version} range"),
        (u8(protocol), f"IP Protocol: {protocol}"),
        (u16(length), f"Selector Length: {length}"),
        (u16(ports[0]), f"Start Port: {ports[0]}"),
        (u16(ports[1]), f"End Port: {ports[1]}"),
        (start.packed, f"Start Address: {start}"),
        (end.packed, f"End Address: {end}"),
    ]


# --- 4. the parameters with alternatives ------------------------------------------------------------------------


def secrets(lines: Lines, additional: list[bytes]) -> Lines:
    for index, secret in enumerate(additional, 1):
        lines = lines + octets(secret, f"SK({index})")
    return lines


def rekeyed_head(case: int, rekeyed: bool, additional: list[bytes]) -> Lines:
    return [
        (u8(case), f"Case: {case}"),
        flags(8, "R", bits=int(rekeyed)),
        (u8(len(additional)), f"Secret Count: {len(additional)}"),
        reserved(1),
    ]


def rekeyed_tail(ni: bytes, nr: bytes, old: tuple[int, bytes] | None, additional: list[bytes]) -> Lines:
    lines = nonces(ni, nr)
    if old is not None:
        lines = [*lines, (u16(old[0]), f"PRF of the old IKE_SA: {old[0]}"), *octets(old[1], "SK_d of the old IKE_SA")]
    return secrets(lines, additional)


def case_1(
    private: bytes,
    peer: bytes,
    ni: bytes,
    nr: bytes,
    old: tuple[int, bytes] | None = None,
    additional: list[bytes] = [],  # noqa: B006
) -> Lines:
    return [
        *rekeyed_head(1, old is not None, additional),
        *octets(private, "DH private key"),
        *octets(peer, "the peer's KE content"),
        *rekeyed_tail(ni, nr, old, additional),
    ]


def case_4(
    shared: bytes,
    ni: bytes,
    nr: bytes,
    old: tuple[int, bytes] | None = None,
    additional: list[bytes] = [],  # noqa: B006
) -> Lines:
    head = rekeyed_head(4, old is not None, additional)
    return [*head, *octets(shared, "g^ir"), *rekeyed_tail(ni, nr, old, additional)]


def case_2(skeyseed: bytes, ni: bytes, nr: bytes, earlier: list[bytes] = []) -> Lines:  # noqa: B006
    lines: Lines = [(u8(2), "Case: 2"), reserved(1), (u8(len(earlier)), f"Earlier Count: {len(earlier)}"), reserved(1)]
    lines += octets(skeyseed, "SKEYSEED") + nonces(ni, nr)
    for old in earlier:
        lines += octets(old, "earlier SKEYSEED")
    return lines


def case_3(keys: list[bytes], earlier: list[list[bytes]] = []) -> Lines:  # noqa: B006
    lines: Lines = [(u8(3), "Case: 3"), reserved(1), (u8(len(earlier)), f"Earlier Count: {len(earlier)}"), reserved(1)]
    for key_set in [keys, *earlier]:
        for name, key in zip(("SK_d", "SK_ai", "SK_ar", "SK_ei", "SK_er", "SK_pi", "SK_pr"), key_set, strict=True):
            lines += octets(key, name)
    return lines


def ike_proposal(encr: int, bits: int, integ: int, integ_bits: int, prf: int, ke: int, additional: list[int]) -> Lines:
    return [
        (u16(encr), f"ENCR: {encr}"),
        (u16(bits), f"ENCR Key Length: {bits}"),
        (u16(integ), f"INTEG: {integ}"),
        (u16(integ_bits), f"INTEG Key Length: {integ_bits}"),
        (u16(prf), f"PRF: {prf}"),
        (u16(ke), f"KE: {ke}"),
        (u8(len(additional)), f"Additional Count: {len(additional)}"),
        reserved(1),
        *[(u16(method), f"Additional KE: {method}") for method in additional],
    ]


def identification(type_: int, data: bytes, whose: str) -> Lines:
    return [(u8(type_), f"{whose}: ID Type: {type_}"), reserved(1), *octets(data, "Identification Data")]


def preshared_key(key: bytes) -> Lines:
    return [(u8(1), "Kind: pre-shared key"), reserved(3), *octets(key, "Key")]


def certificates(chain: list[bytes]) -> Lines:
    lines: Lines = [(u8(2), "Kind: certificates"), (u8(len(chain)), f"Count: {len(chain)}"), reserved(2)]
    for certificate in chain:
        lines += octets(certificate, "Certificate")
    return lines


def configured(name: str) -> Lines:
    return [(u8(3), "Kind: configured"), reserved(3), *octets(name.encode(), "Name")]


def ipcomp(values: tuple[int, int, int] | None) -> Lines:
    """CPI inbound, CPI outbound, algorithm; None: off."""
    inbound, outbound, algorithm = values or (0, 0, 0)
    return [
        flags(8, "C", bits=int(values is not None)),
        (u8(algorithm), f"Algorithm: {algorithm}"),
        (u16(inbound), "Inbound CPI"),
        (u16(outbound), "Outbound CPI"),
    ]


def sequence_numbers(overflow: bool, knowledge: int, outbound: int, inbound: int) -> Lines:
    return [
        flags(8, "O", bits=int(overflow)),
        (u8(knowledge), f"Knowledge: {knowledge}"),
        reserved(2),
        (u64(outbound), f"Outbound: {outbound}"),
        (u64(inbound), f"Inbound: {inbound}"),
    ]


def limits(kind: str, soft: int | None, hard: int | None, used: int) -> Lines:
    octets_, told = flags(32, "S", "H", bits=(soft is not None) << 1 | (hard is not None))
    return [
        (octets_, f"{kind}: {told}"),
        (u64(soft or 0), f"Soft: {soft}"),
        (u64(hard or 0), f"Hard: {hard}"),
        (u64(used), f"Used: {used}"),
    ]


def ike_lifetime(soft: int | None, hard: int | None) -> Lines:
    return [
        flags(32, "S", "H", bits=(soft is not None) << 1 | (hard is not None)),
        (u32(soft or 0), f"Soft Remaining: {soft}"),
        (u32(hard or 0), f"Hard Remaining: {hard}"),
    ]


def ipsec_proposal(
    protocol: int, esn: bool, encr: int | None, bits: int, integ: int, integ_bits: int, ke: int
) -> Lines:
    return [
        (u8(protocol), f"Protocol: {protocol}"),
        flags(8, "E", "C", bits=esn << 1 | (encr is not None)),
        (u16(encr or 0), f"ENCR: {encr}"),
        (u16(bits), f"ENCR Key Length: {bits}"),
        (u16(integ), f"INTEG: {integ}"),
        (u16(integ_bits), f"INTEG Key Length: {integ_bits}"),
        (u16(ke), f"KE: {ke}"),
    ]


def keymat_keys(inbound: tuple[bytes, bytes], outbound: tuple[bytes, bytes]) -> Lines:
    lines: Lines = [(u8(1), "Kind: keys"), reserved(3)]
    for direction, (encryption, integrity) in (("Inbound", inbound), ("Outbound", outbound)):
        lines += octets(encryption, f"{direction} Encryption Key") + octets(integrity, f"{direction} Integrity Key")
    return lines


def keymat_derivation(
    initiator: bool, ike: tuple[int, int], ni: bytes, nr: bytes, shared: bytes, additional: list[bytes]
) -> Lines:
    lines: Lines = [
        (u8(2), "Kind: derivation"),
        flags(8, "I", bits=int(initiator)),
        (u8(len(additional)), f"Secret Count: {len(additional)}"),
        reserved(1),
        *spis(*ike),
        *nonces(ni, nr),
        *octets(shared, "g^ir (new)"),
    ]
    return secrets(lines, additional)


def processing_unit(*values: int | None) -> Lines:
    """Instance-id, flow-id, reqid, mark, mark mask, if_id; None: not told."""
    names = ("Instance ID", "Flow ID", "Reqid", "Mark", "Mark Mask", "If ID")
    bits = int("".join("0" if value is None else "1" for value in values), 2)
    return [
        flags(32, "N", "F", "R", "K", "M", "X", bits=bits),
        *[(u32(value or 0), f"{name}: {value}") for name, value in zip(names, values, strict=True)],
    ]


def vendor(enterprise: int, number: int, value: bytes, what: str) -> Lines:
    return [(u32(enterprise), f"Enterprise: {enterprise}"), (u16(number), f"Vendor Number: {number}"), (value, what)]
