"""Contexts to octets and back: every variant, every cut, every flipped bit, and each rule of the document."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import context_by_hand
import pytest
from context_examples import GATEWAY, IKE_SA, IPSEC_SA, NI, NR, VALUES, pattern
from context_strategies import contexts, ike_sa_contexts, ipsec_sa_contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.base import Context, GenericContext, Level, decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import (
    AntiReplayWindow,
    Certificates,
    ConfiguredCredentials,
    HostAddress,
    IkeVersion,
    IpsecKeys,
    MessageIds,
    MessageWindow,
    Nonces,
    PresharedKey,
    SharedSecret,
    Skeyseed,
    TrafficSelector,
    UnknownParameter,
    VendorParameter,
)
from cxtp.config import ContextTypes
from cxtp.constants import StatusCode
from cxtp.errors import InvalidContext, LocalError, MalformedContext, MissingParameter
from cxtp.messages import EncodedContext

FRAMED = [IKE_SA, IPSEC_SA]
slow_but_sure = settings(derandomize=True, deadline=None, max_examples=150)


# --- a small frame editor, by the document's boxes ----------------------------------------------------------------

Parts = list[tuple[int, int, bytes]]  # level, number, value


def take_apart(data: bytes) -> Parts:
    parts, offset = [], 8
    while offset < len(data):
        head = int.from_bytes(data[offset : offset + 2], "big")
        end = offset + 4 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        parts.append((head >> 14, head & 0x3FFF, data[offset + 4 : end]))
        offset = end
    return parts


def bit(level: int, number: int) -> int:
    return 1 << 31 - {0: number - 1, 1: min(29, 15 + number), 2: 30 + number}[level]


def put_together(
    parts: Parts, number: int, presence: int | None = None, count: int | None = None, total: int | None = None
) -> EncodedContext:
    body = b"".join((lvl << 14 | num).to_bytes(2, "big") + len(val).to_bytes(2, "big") + val for lvl, num, val in parts)
    if presence is None:
        presence = 0
        for lvl, num, _ in parts:
            presence |= bit(lvl, num)
    head = b"\1\0" + (len(parts) if count is None else count).to_bytes(2, "big")
    octets = len(body) + 8 if total is None else total
    return EncodedContext(number, head + octets.to_bytes(4, "big") + body, presence)


def edited(context: Context, edit: Callable[[Parts], Parts], **frame: Any) -> EncodedContext:
    encoded = encode(context)
    return put_together(edit(take_apart(encoded.data)), encoded.feature_profile_type, **frame)


def with_value(context: Context, level: int, number: int, value: bytes) -> EncodedContext:
    """The context with one parameter's value changed."""
    return edited(
        context, lambda parts: [(lvl, num, value if (lvl, num) == (level, number) else val) for lvl, num, val in parts]
    )


def value_of(context: Context, level: int, number: int) -> bytes:
    (value,) = [val for lvl, num, val in take_apart(encode(context).data) if (lvl, num) == (level, number)]
    return value


def refused(encoded: EncodedContext, status: int = StatusCode.MALFORMED) -> MalformedContext:
    with pytest.raises(MalformedContext) as caught:
        decode(encoded)
    assert caught.value.status == status
    assert 0 <= caught.value.offset <= len(encoded.data)
    assert caught.value.section
    return caught.value


# --- both ways ---------------------------------------------------------------------------------------------------


@slow_but_sure
@given(contexts)
def test_decode_inverts_encode(context: Context) -> None:
    encoded = encode(context)
    decoded = decode(encoded)
    assert decoded == context
    assert type(decoded) is type(context)
    assert encode(decoded) == encoded
    if not isinstance(context, GenericContext):
        assert decode(replace(encoded, data=encoded.data + bytes(7))) == context


@slow_but_sure
@given(ike_sa_contexts)
def test_ike_sa_is_what_the_independent_assembler_builds(context: IkeSaContext) -> None:
    presence, data = context_by_hand.ike_sa(context)
    assert encode(context) == EncodedContext(0xFF01, data, presence)
    assert decode(EncodedContext(0xFF01, data, presence)) == context


@slow_but_sure
@given(ipsec_sa_contexts)
def test_ipsec_sa_is_what_the_independent_assembler_builds(context: IpsecSaContext) -> None:
    presence, data = context_by_hand.ipsec_sa(context)
    assert encode(context) == EncodedContext(0xFF02, data, presence)
    assert decode(EncodedContext(0xFF02, data, presence)) == context


def test_values_keep_their_classes() -> None:
    decoded = decode(encode(IPSEC_SA))
    assert isinstance(decoded, IpsecSaContext)
    assert (decoded.mode.name, decoded.sequence_numbers.knowledge.name) == ("TUNNEL", "EXACT")
    assert decoded.proposal.extended_sequence_numbers is True
    ike = decode(encode(IKE_SA))
    assert isinstance(ike, IkeSaContext)
    assert ike.initiator is False
    assert type(ike.extensions) is type(IKE_SA.extensions)
    assert isinstance(ike.vendor_ids, tuple)


def test_context_types_can_be_moved() -> None:
    moved = ContextTypes(ike_sa=0x8001, ipsec_sa=0x8002)
    encoded = encode(IKE_SA, moved)
    assert encoded.feature_profile_type == 0x8001
    assert decode(encoded, moved) == IKE_SA
    generic = decode(encoded)
    assert isinstance(generic, GenericContext)
    assert encode(generic) == encoded


def test_a_generic_context_keeps_its_padding_and_hides_its_data() -> None:
    context = decode(EncodedContext(0x4321, b"secret\0\0", 5))
    assert context == GenericContext(feature_profile_type=0x4321, data=b"secret\0\0", presence_vector=5)
    assert "secret" not in repr(context)
    assert encode(context) == EncodedContext(0x4321, b"secret\0\0", 5)


def test_keys_are_in_no_repr() -> None:
    for context in FRAMED:
        text = repr(context) + repr(encode(context))
        assert "\\x00\\x01\\x02\\x03" not in text
        assert "roadwarrior'" not in text.replace("ConfiguredCredentials(name='roadwarrior')", "")


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ike-sa-case-3", "ipsec-sa-aes-gcm", "multicast-listener"])
def test_cut_at_every_length(name: str) -> None:
    encoded = encode(VALUES[name])
    for length in range(len(encoded.data)):
        error = refused(replace(encoded, data=encoded.data[:length]))
        assert error.context == VALUES[name].name


@pytest.mark.parametrize("name", ["ike-sa-case-3", "ipsec-sa-aes-gcm", "multicast-listener"])
def test_trailing_octets(name: str) -> None:
    encoded = encode(VALUES[name])
    for padding in range(8):
        assert decode(replace(encoded, data=encoded.data + bytes(padding))) == VALUES[name]
    for junk in (bytes(8), b"\1", b"\0\0\0\1", bytes(6) + b"\1", bytes(4096)):
        refused(replace(encoded, data=encoded.data + junk))


def flipped(data: bytes) -> Iterator[bytes]:
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 0x80 >> position % 8
        yield bytes(changed)


@pytest.mark.parametrize("name", ["ike-sa-case-3", "ipsec-sa-aes-gcm", "multicast-listener"])
def test_each_bit_flipped_gives_a_value_or_the_typed_error(name: str) -> None:
    encoded = encode(VALUES[name])
    outcomes = set()
    for data in flipped(encoded.data):
        try:
            context = decode(replace(encoded, data=data))
        except MalformedContext as error:
            outcomes.add("refused" if 0 <= error.offset <= len(data) else "refused at no octet")
        else:
            # what was taken can be passed on, and means the same there
            assert decode(encode(context)) == context
            outcomes.add("taken")
    assert outcomes == {"refused", "taken"}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.sampled_from(FRAMED), st.data())
def test_any_octets_in_a_value_give_a_value_or_the_typed_error(context: Context, data: st.DataObject) -> None:
    level, number, value = data.draw(st.sampled_from(take_apart(encode(context).data)))
    head = data.draw(st.integers(0, len(value)))
    junk = value[:head] + data.draw(st.binary(max_size=64)) + value[data.draw(st.integers(head, len(value))) :]
    try:
        decoded = decode(with_value(context, level, number, junk))
    except MalformedContext as error:
        named = error.parameter
        assert named.startswith(f"{'MOV'[level]}{number}")
    else:
        assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize("context", FRAMED)
def test_the_presence_vector_must_agree(context: Context) -> None:
    encoded = encode(context)
    assert encoded.presence_vector is not None
    for position in range(32):
        error = refused(replace(encoded, presence_vector=encoded.presence_vector ^ 1 << position))
        assert error.parameter == "presence vector"
    assert refused(replace(encoded, presence_vector=None)).parameter == "presence vector"


# --- the frame's rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_format_version(version: int) -> None:
    encoded = encode(IKE_SA)
    error = refused(replace(encoded, data=bytes([version]) + encoded.data[1:]), StatusCode.UNSUPPORTED_PARAMETER)
    assert error.parameter == "Format Version"
    assert str(version) in error.reason


def test_the_reserved_octet_is_ignored() -> None:
    encoded = encode(IKE_SA)
    assert decode(replace(encoded, data=b"\1\xff" + encoded.data[2:])) == IKE_SA


@pytest.mark.parametrize("count", [0, 15, 17, 1024, 1025, 65535])
def test_a_wrong_parameter_count(count: int) -> None:
    refused(edited(IKE_SA, lambda parts: parts, count=count))


@pytest.mark.parametrize("total", [0, 7, 8, 371, 373, 1 << 20, (1 << 20) + 1, 0xFFFFFFFF])
def test_a_wrong_total_length(total: int) -> None:
    refused(edited(IKE_SA, lambda parts: parts, total=total))


MANDATORY = [
    *[(IKE_SA, number) for number in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12)],
    *[(IPSEC_SA, number) for number in range(1, 13)],
]


@pytest.mark.parametrize(("context", "number"), MANDATORY, ids=lambda item: getattr(item, "name", item))
def test_a_missing_mandatory_parameter_is_named(context: Context, number: int) -> None:
    encoded = edited(context, lambda parts: [part for part in parts if part[:2] != (Level.MANDATORY, number)])
    with pytest.raises(MissingParameter) as caught:
        decode(encoded)
    assert caught.value.context == context.name
    assert caught.value.parameter.split(" ", 1)[0] == f"M{number}"
    assert caught.value.status == StatusCode.MANDATORY_PARAMETER_MISSING


def test_optional_parameters_may_be_missing() -> None:
    bare = decode(edited(IKE_SA, lambda parts: [part for part in parts if part[0] == Level.MANDATORY]))
    plain = {"lifetime": None, "vendor_ids": (), "vendor_parameters": (), "unknown_parameters": ()}
    assert bare == replace(IKE_SA, **plain)
    bare = decode(edited(IPSEC_SA, lambda parts: [part for part in parts if part[0] == Level.MANDATORY]))
    assert bare == replace(IPSEC_SA, ike_spis=None, processing_unit=None)


@pytest.mark.parametrize("number", [3, 13, 14, 15, 4096, 16383])
def test_unknown_optional_parameters_survive(number: int) -> None:
    encoded = edited(replace(IKE_SA, unknown_parameters=()), lambda parts: sorted([*parts, (1, number, b"later")]))
    decoded = decode(encoded)
    assert isinstance(decoded, IkeSaContext)
    assert decoded.unknown_parameters == (UnknownParameter(number, b"later"),)
    assert encode(decoded) == encoded


def test_vendor_parameters_survive_in_their_order() -> None:
    keys = [(9, 1, b"b"), (1, 9, b""), (9, 1, b"a"), (0xFFFFFFFF, 0xFFFF, b"z")]
    vendor = tuple(VendorParameter(*key) for key in keys)
    for context in FRAMED:
        changed = replace(context, vendor_parameters=vendor)
        assert decode(encode(changed)) == changed


@pytest.mark.parametrize("number", [0, 6, 13, 16])
def test_an_unknown_mandatory_parameter_is_refused(number: int) -> None:
    presence = (encode(IKE_SA).presence_vector or 0) | (bit(0, number) if number else 0)
    encoded = edited(IKE_SA, lambda parts: sorted([*parts, (0, number, b"x")]), presence=presence)
    error = refused(encoded, StatusCode.UNSUPPORTED_PARAMETER)
    assert error.parameter == f"M{number}"


def test_an_unknown_mandatory_parameter_without_a_presence_bit() -> None:
    encoded = edited(IKE_SA, lambda parts: [*parts[:11], (0, 17, b"x"), *parts[11:]], presence=0)
    assert refused(encoded, StatusCode.UNSUPPORTED_PARAMETER).parameter == "M17"


def test_an_unknown_vendor_number_is_refused() -> None:
    encoded = edited(IKE_SA, lambda parts: [*parts, (2, 1, bytes(28))])  # V1 is the IPsec_SA's alone
    assert refused(encoded, StatusCode.UNSUPPORTED_PARAMETER).parameter == "V1"
    encoded = edited(IPSEC_SA, lambda parts: [*parts, (2, 2, b"")], presence=0)
    assert refused(encoded, StatusCode.UNSUPPORTED_PARAMETER).parameter == "V2"


def test_the_fourth_level_and_optional_number_0_are_malformed() -> None:
    assert refused(edited(IKE_SA, lambda parts: [*parts, (3, 1, b"")], presence=0)).parameter == "Level"
    assert refused(edited(IKE_SA, lambda parts: [*parts[:11], (1, 0, b""), *parts[11:]], presence=0)).parameter == "O0"


@pytest.mark.parametrize("context", FRAMED)
def test_duplicates_and_disorder_are_refused(context: Context) -> None:
    parts = take_apart(encode(context).data)
    number = encode(context).feature_profile_type
    for index, part in enumerate(parts):
        doubled = put_together([*parts[: index + 1], part, *parts[index + 1 :]], number)
        if part[:2] == (2, 0):
            assert isinstance(decode(doubled), IkeSaContext)  # V0 may repeat
        else:
            assert "twice" in refused(doubled).reason
    for index in range(len(parts) - 1):
        swapped = [*parts[:index], parts[index + 1], parts[index], *parts[index + 2 :]]
        if parts[index][:2] != parts[index + 1][:2]:
            assert "order" in refused(put_together(swapped, number)).reason


# --- the parameters' rules ---------------------------------------------------------------------------------------

UNSUPPORTED = StatusCode.UNSUPPORTED_PARAMETER
MALFORMED = StatusCode.MALFORMED
HOST = bytes.fromhex("0400 1194 c0000201")
SELECTOR = bytes.fromhex("07 00 0010 0000 ffff 0a000000 0a0000ff")
NONCES = b"\0\x10" + NI + b"\0\x10" + NR
ONE_KEY = b"\0\x01k"

BAD_VALUES = [
    (IKE_SA, 0, 1, b"\x10", UNSUPPORTED, "version"),
    (IKE_SA, 0, 1, b"\x30", UNSUPPORTED, "version"),
    (IKE_SA, 0, 3, b"\5" + HOST[1:] + HOST, UNSUPPORTED, "local_host"),
    (IKE_SA, 0, 3, HOST + b"\6" + HOST[1:], MALFORMED, "remote_host"),
    (IKE_SA, 0, 7, b"\0\0\0\0" + ONE_KEY + NONCES, UNSUPPORTED, "keying"),
    (IKE_SA, 0, 7, b"\5\0\0\0" + ONE_KEY + NONCES, UNSUPPORTED, "keying"),
    (IKE_SA, 0, 7, b"\2\0\x08\0" + ONE_KEY + NONCES + ONE_KEY * 8, MALFORMED, "keying"),
    (IKE_SA, 0, 7, b"\2\0\0\0" + ONE_KEY + b"\0\x0f" + NI[1:] + b"\0\x10" + NR, MALFORMED, "keying.nonces.initiator"),
    (IKE_SA, 0, 7, b"\2\0\0\0" + ONE_KEY + b"\0\x10" + NI + b"\1\1" + bytes(257), MALFORMED, "keying.nonces.responder"),
    (IKE_SA, 0, 7, b"\4\0\x08\0" + ONE_KEY + NONCES + ONE_KEY * 8, MALFORMED, "keying"),
    (IKE_SA, 0, 8, bytes(12) + b"\x08\0" + bytes(16), MALFORMED, "proposal"),
    (IKE_SA, 0, 11, b"\0\0\0\0\0\0", UNSUPPORTED, "credentials"),
    (IKE_SA, 0, 11, b"\2\0\0\0", MALFORMED, "credentials"),
    (IKE_SA, 0, 11, b"\2\x21\0\0" + ONE_KEY * 33, MALFORMED, "credentials"),
    (IKE_SA, 0, 11, b"\3\0\0\0\0\2\xc3\x28", MALFORMED, "credentials.name"),
    (IKE_SA, 0, 12, bytes(4) + b"\0\0", MALFORMED, "window.size"),
    (IKE_SA, 0, 12, b"\0\0\0\1\0\1\2", MALFORMED, "window"),
    (IKE_SA, 0, 12, b"\xff\xff\xff\xff\2\1" + bytes(513), MALFORMED, "window.bitmap"),
    (IKE_SA, 1, 2, b"\0\0", MALFORMED, "vendor_ids"),
    (IKE_SA, 2, 0, b"\0\0\0\1\0", MALFORMED, ""),
    (IPSEC_SA, 0, 4, b"\0\3" + bytes(18), UNSUPPORTED, "sequence_numbers.knowledge"),
    (IPSEC_SA, 0, 5, b"\0\0\x10\1\0\0", MALFORMED, "window.size"),
    (IPSEC_SA, 0, 6, b"\0", UNSUPPORTED, "mode"),
    (IPSEC_SA, 0, 6, b"\4", UNSUPPORTED, "mode"),
    (IPSEC_SA, 0, 10, b"\0\0\0\0" + b"\1\0\0\0" + SELECTOR, MALFORMED, "local_selectors"),
    (IPSEC_SA, 0, 10, b"\1\0\0\0" + SELECTOR + b"\1\0\0\0\x09" + SELECTOR[1:], UNSUPPORTED, "remote_selectors"),
    (IPSEC_SA, 0, 10, b"\1\0\0\0" + SELECTOR[:3] + b"\x11" + SELECTOR[4:] + b"\1\0\0\0" + SELECTOR, MALFORMED, "local"),
    (IPSEC_SA, 0, 10, (b"\1\0\0\0" + SELECTOR[:12] + bytes(4)) * 2, MALFORMED, "local_selectors"),
    (IPSEC_SA, 0, 10, (b"\1\0\0\0" + SELECTOR[:4] + b"\0\2\0\1" + SELECTOR[8:]) * 2, MALFORMED, "local_selectors"),
    (IPSEC_SA, 0, 11, b"\2\x40\0\x0c" + bytes(8), MALFORMED, "proposal"),
    (IPSEC_SA, 0, 11, b"\3\0\0\x0c" + bytes(8), MALFORMED, "proposal"),
    (IPSEC_SA, 0, 11, b"\1\x40\0\x0c" + bytes(8), MALFORMED, "proposal"),
    (IPSEC_SA, 0, 12, b"\3\0\0\0" + bytes(8), UNSUPPORTED, "keying"),
    (IPSEC_SA, 0, 12, b"\2\0\x08\0" + bytes(16) + NONCES + b"\0\0" + ONE_KEY * 8, MALFORMED, "keying"),
]


@pytest.mark.parametrize(("context", "level", "number", "value", "status", "path"), BAD_VALUES)
def test_bad_values(context: Context, level: int, number: int, value: bytes, status: int, path: str) -> None:
    parts = take_apart(encode(context).data)
    assert any(part[:2] == (level, number) for part in parts)
    error = refused(with_value(context, level, number, value), status)
    assert error.parameter.split(" ", 1)[0] == f"{'MOV'[level]}{number}"
    assert error.reason.startswith(path)


@pytest.mark.parametrize("context", FRAMED)
def test_each_value_cut_and_lengthened(context: Context) -> None:
    for level, number, value in take_apart(encode(context).data):
        name = f"{'MOV'[level]}{number}"
        opaque = name in ("V0", "O77")
        for length in range(6 if name == "V0" else len(value)):
            if name != "O77":
                error = refused(with_value(context, level, number, value[:length]))
                assert error.parameter.startswith(name)
        for more in (b"\0", b"\1", bytes(300)):
            if not opaque:
                assert refused(with_value(context, level, number, value + more)).parameter.startswith(name)


# legal, if not canonical: reserved bits, values that a flag declares absent, leading zeros of a bitmap
TOLERATED = [
    (IKE_SA, 0, 2, b"\x7f", {"initiator": False}),
    (IKE_SA, 0, 12, b"\0\0\0\2\0\3\0\0\2", {"window": MessageWindow(2, 2)}),
    (IPSEC_SA, 0, 3, b"\x7f\1\2\3\4\5", {"ipcomp": None}),
    (IPSEC_SA, 0, 8, b"\0\0\0\0", {"path_mtu": 0}),
]


@pytest.mark.parametrize(("context", "level", "number", "value", "changes"), TOLERATED)
def test_tolerated_values(context: Any, level: int, number: int, value: bytes, changes: dict[str, Any]) -> None:
    assert decode(with_value(context, level, number, value)) == replace(context, **changes)


def test_absent_values_are_ignored() -> None:
    lifetime = value_of(IPSEC_SA, 0, 7)
    changed = lifetime[:60] + b"\xff" * 16 + lifetime[76:]  # soft and hard limit of packets, neither of them told
    assert decode(with_value(IPSEC_SA, 0, 7, changed)) == IPSEC_SA


def test_windows_up_to_their_limit() -> None:
    widest = replace(IPSEC_SA, window=AntiReplayWindow(4096, 1 << 4095 | 1))
    assert decode(encode(widest)) == widest
    assert len(value_of(widest, 0, 5)) == 4 + 2 + 512


def test_a_large_chain_of_certificates() -> None:
    chain = Certificates(tuple(pattern(index, 2000) for index in range(32)))
    large = replace(IKE_SA, credentials=chain)
    assert decode(encode(large)) == large
    assert len(encode(large).data) > 64_000


# --- what can't be encoded ---------------------------------------------------------------------------------------

KEYS = IpsecKeys(bytes(70_000), b"", b"", b"")
LONE_SURROGATE = "\udc80"
ADDRESS = ipaddress.ip_address("10.0.0.9")

UNENCODABLE: list[tuple[Context, dict[str, Any], str]] = [
    (IKE_SA, {"version": IkeVersion(1, 0)}, "version"),
    (IKE_SA, {"version": IkeVersion(2, 16)}, "version.minor"),
    (IKE_SA, {"local_host": HostAddress(GATEWAY, 65536)}, "local_host.port"),
    (IKE_SA, {"local_host": HostAddress(ipaddress.ip_address("fe80::1%eth0"))}, "local_host.address"),
    (IKE_SA, {"message_ids": MessageIds(-1, 0)}, "message_ids.next_request_to_send"),
    (IKE_SA, {"keying": Skeyseed(b"s", Nonces(b"short", NR))}, "keying.nonces.initiator"),
    (IKE_SA, {"keying": SharedSecret(b"s", Nonces(NI, NR), None, (b"",) * 8)}, "keying"),
    (IKE_SA, {"keying": KEYS}, "keying"),
    (IKE_SA, {"credentials": Certificates(())}, "credentials"),
    (IKE_SA, {"credentials": PresharedKey(bytes(70_000))}, "credentials.key"),
    (IKE_SA, {"credentials": ConfiguredCredentials(LONE_SURROGATE)}, "credentials.name"),
    (IKE_SA, {"credentials": Certificates((bytes(40_000),) * 2)}, "M11 credentials"),
    (IKE_SA, {"window": MessageWindow(0)}, "window.size"),
    (IKE_SA, {"window": MessageWindow(1, 2)}, "window"),
    (IKE_SA, {"vendor_ids": (b"",) * 256}, "vendor_ids"),
    (IKE_SA, {"unknown_parameters": (UnknownParameter(1, b""),)}, "unknown_parameters"),
    (IKE_SA, {"unknown_parameters": (UnknownParameter(9, b""), UnknownParameter(9, b""))}, "unknown_parameters"),
    (IKE_SA, {"unknown_parameters": (UnknownParameter(1 << 14, b""),)}, "unknown_parameters"),
    (IKE_SA, {"unknown_parameters": (UnknownParameter(5, bytes(65_536)),)}, "O5"),
    (IKE_SA, {"vendor_parameters": (VendorParameter(1 << 32, 0, b""),)}, "enterprise"),
    (IKE_SA, {"vendor_parameters": (VendorParameter(1, 1, b""),) * 1024}, "IKE_SA"),
    (IKE_SA, {"vendor_parameters": (VendorParameter(1, 1, bytes(65_000)),) * 17}, "IKE_SA"),
    (IPSEC_SA, {"keying": KEYS}, "keying.inbound_encryption"),
    (IPSEC_SA, {"inbound_spi": 1 << 32}, "inbound_spi"),
    (IPSEC_SA, {"window": AntiReplayWindow(4097)}, "window.size"),
    (IPSEC_SA, {"local_selectors": ()}, "local_selectors"),
    (IPSEC_SA, {"local_selectors": (TrafficSelector(ADDRESS, ipaddress.ip_address("10.0.0.8")),)}, "local_selectors"),
    (IPSEC_SA, {"local_selectors": (TrafficSelector(ADDRESS, ipaddress.ip_address("::1")),)}, "local_selectors"),
    (IPSEC_SA, {"local_selectors": (TrafficSelector(ADDRESS, ADDRESS, 2, 1),)}, "local_selectors"),
    (IPSEC_SA, {"proposal": replace(IPSEC_SA.proposal, encryption=None)}, "proposal"),
    (VALUES["multicast-listener"], {"subnet_prefix": bytes(7)}, "subnet_prefix"),
    (VALUES["multicast-listener"], {"group": ipaddress.IPv6Address("2001:db8::1")}, "group"),
    (VALUES["generic"], {"feature_profile_type": 1 << 16}, "feature_profile_type"),
]


@pytest.mark.parametrize(("context", "changes", "path"), UNENCODABLE)
def test_what_can_not_be_encoded(context: Any, changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidContext) as caught:
        encode(replace(context, **changes))
    assert isinstance(caught.value, LocalError)
    assert caught.value.path.startswith(path)
    assert len(str(caught.value)) < 200  # no value is repeated


# --- the multicast listener --------------------------------------------------------------------------------------


def test_a_multicast_listener_has_no_presence_vector_and_a_multicast_group() -> None:
    encoded = encode(VALUES["multicast-listener"])
    assert encoded.presence_vector is None
    assert refused(replace(encoded, presence_vector=0xC0000000)).parameter == "presence vector"
    assert refused(replace(encoded, data=bytes(24))).reason == "no multicast address"
