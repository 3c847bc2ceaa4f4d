"""The messages of strongSwan's ``ha`` plugin.

Witnesses: recorded datagrams of strongSwan 5.9.8, 6.0.1, 6.0.6 and 6.1.0; of 189 keys.json repeats types and octets
(written when they were recorded, by other code).  Other messages of version 4, and some with ML-KEM, are written by
hand from the table of attributes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.values import HostAddress, Identification, IkeSpis
from cxtp.adapters.capture import udp_datagrams
from cxtp.adapters.strongswan_ha import (
    Attribute,
    HaAttribute,
    HaMessage,
    HaMessageType,
    HaTracker,
    HaTrafficSelector,
    IkeSaId,
    MalformedHaMessage,
    NotRepresentable,
    UnknownAttribute,
    UnknownMessageType,
    UnknownVersion,
    build_message,
    parse_message,
    re_encode,
)
from cxtp.adapters.strongswan_ha.attributes import (
    DECLARATIONS,
    SECRETS,
    VERSIONS,
    Form,
    attribute_numbers,
    attribute_table,
)
from cxtp.errors import LocalError

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
RECORDED = [
    (f"{path.parent.name}/{path.name}", datagram.payload)
    for path in sorted(TRACES.glob("*/ha*.pcap"))
    for datagram in udp_datagrams(path, 4510)
]


def one_of_each() -> list[bytes]:
    """One recorded message for each version, type and sequence of attributes."""
    seen: dict[tuple[object, ...], bytes] = {}
    for _, octets in RECORDED:
        message = parse_message(octets)
        key = (message.version, message.type, *(attribute.attribute for attribute in message.attributes))
        seen.setdefault(key, octets)
    return list(seen.values())


def test_all_recorded_messages_come_back_octet_for_octet() -> None:
    assert len(RECORDED) == 436
    versions: Counter[int] = Counter()
    for name, octets in RECORDED:
        message = parse_message(octets)
        versions[message.version] += 1
        assert build_message(message) == octets, name
    assert versions == {3: 342, 4: 39, 5: 55}  # as tshark counts their first octets


@pytest.mark.parametrize("path", sorted(TRACES.glob("*/keys.json")), ids=lambda p: p.parent.name)
def test_types_agree_with_what_was_noted_at_recording(path: Path) -> None:
    noted = json.loads(path.read_text())["ha_messages"]
    captured = [datagram.payload.hex() for datagram in udp_datagrams(path.parent / "ha.pcap", 4510)]
    assert captured == [entry["hex"] for entry in noted]
    assert [parse_message(bytes.fromhex(entry["hex"])).type.name for entry in noted] == [e["type"] for e in noted]


def test_one_recorded_message_by_hand() -> None:
    """rekey-ike-child's first CHILD_ADD, read with the table of attributes beside it."""
    octets = bytes.fromhex(
        "03 06"  # version, CHILD_ADD
        "01 02 84c26db3f16aa7d1 fd82714abcbcd252 00"  # IKE_ID: IKEv2, SPIs, the sender is the responder
        "0e 00"  # INITIATOR
        "1b 446b7623 1c 4df3123c"  # INBOUND_SPI, OUTBOUND_SPI, swapped
        "1d 0000 1e 0000"  # CPIs
        "19 02 1a 00"  # tunnel, no IPComp
        "08 6e657431 00"  # CONFIG_NAME
        "15 0014 16 0100 23 0000"  # AES-GCM-16, 256 bits, no ESN
        "0f 0004 aabbccdd 10 0004 01020304"  # nonces (cut to four octets here)
        "1f 07 00 0000 ffff 00 0a010000 0a0100ff"  # LOCAL_TS
        "20 07 11 0035 0035 01 0a030001 0a030001"  # REMOTE_TS, made UDP port 53 and dynamic here
    )
    ike_id = IkeSaId(2, IkeSpis(0x84C26DB3F16AA7D1, 0xFD82714ABCBCD252), False)
    local = HaTrafficSelector(0, 0, 65535, False, IPv4Address("10.1.0.0"), IPv4Address("10.1.0.255"))
    remote = HaTrafficSelector(17, 53, 53, True, IPv4Address("10.3.0.1"), IPv4Address("10.3.0.1"))
    expected = [
        (Attribute.IKE_ID, ike_id),
        (Attribute.INITIATOR, 0),
        (Attribute.INBOUND_SPI, 0x23766B44),
        (Attribute.OUTBOUND_SPI, 0x3C12F34D),
        (Attribute.INBOUND_CPI, 0),
        (Attribute.OUTBOUND_CPI, 0),
        (Attribute.IPSEC_MODE, 2),
        (Attribute.IPCOMP, 0),
        (Attribute.CONFIG_NAME, "net1"),
        (Attribute.ALG_ENCR, 20),
        (Attribute.ALG_ENCR_LEN, 256),
        (Attribute.ESN, 0),
        (Attribute.NONCE_I, bytes.fromhex("aabbccdd")),
        (Attribute.NONCE_R, bytes.fromhex("01020304")),
        (Attribute.LOCAL_TS, local),
        (Attribute.REMOTE_TS, remote),
    ]
    message = HaMessage(3, HaMessageType.CHILD_ADD, tuple(HaAttribute(*pair) for pair in expected))
    assert parse_message(octets) == message
    assert build_message(message) == octets


# --- the table --------------------------------------------------------------------------------------------------


def test_numbers_of_version_3_and_what_5_moves() -> None:
    numbers = attribute_numbers(3)
    assert {attribute.name: number for attribute, (number, _) in numbers.items()} == {
        "IKE_ID": 1, "IKE_REKEY_ID": 2, "LOCAL_ID": 3, "REMOTE_ID": 4, "REMOTE_EAP_ID": 5, "LOCAL_ADDR": 6,
        "REMOTE_ADDR": 7, "CONFIG_NAME": 8, "CONDITIONS": 9, "EXTENSIONS": 10, "LOCAL_VIP": 11, "REMOTE_VIP": 12,
        "PEER_ADDR": 13, "INITIATOR": 14, "NONCE_I": 15, "NONCE_R": 16, "SECRET": 17, "OLD_SKD": 18, "ALG_PRF": 19,
        "ALG_OLD_PRF": 20, "ALG_ENCR": 21, "ALG_ENCR_LEN": 22, "ALG_INTEG": 23, "ALG_KE": 24, "IPSEC_MODE": 25,
        "IPCOMP": 26, "INBOUND_SPI": 27, "OUTBOUND_SPI": 28, "INBOUND_CPI": 29, "OUTBOUND_CPI": 30, "LOCAL_TS": 31,
        "REMOTE_TS": 32, "MID": 33, "SEGMENT": 34, "ESN": 35, "IKE_VERSION": 36, "LOCAL_DH": 37, "REMOTE_DH": 38,
        "PSK": 39, "IV": 40, "AUTH_METHOD": 41,
    }  # fmt: skip
    for version in (4, 5):
        moved = attribute_numbers(version)
        assert (moved[Attribute.ADD_SECRET][0], moved[Attribute.ALG_ADD_KES][0]) == (18, 26)
        for attribute, (number, form) in numbers.items():
            shift = 0 if number < 18 else 1 if number < 25 else 2
            assert moved[attribute] == (number + shift, form)


def test_each_version_has_one_table_for_both_directions() -> None:
    for version in VERSIONS:
        table = attribute_table(version)
        assert list(table) == list(range(1, len(table) + 1))
        assert {declared.attribute: (number, declared.form) for number, declared in table.items()} == dict(
            attribute_numbers(version)
        )
    assert {declared.attribute for declared in DECLARATIONS} == set(Attribute)


# --- messages made by hand --------------------------------------------------------------------------------------

SPI_I, SPI_R = "0102030405060708", "1112131415161718"
IKE_ID_BODY = f"02 {SPI_I} {SPI_R} 00"
IKE_ID = IkeSaId(2, IkeSpis(0x0102030405060708, 0x1112131415161718), False)

ML_KEM_IKE_ADD = (
    "01 26 02"  # IKE_ADD; IKE_VERSION 2
    f"01 {IKE_ID_BODY}"
    "16 0014 17 0100 14 0005 19 001f"  # ALG_ENCR, ALG_ENCR_LEN, ALG_PRF, ALG_KE Curve25519
    "1a 0002 0024"  # ALG_ADD_KES: ML-KEM-768
    "0f 0002 a1a2 10 0002 b1b2 11 0003 c1c2c3"  # nonces, SECRET
    "07 01f4 02 c0000264"  # REMOTE_ADDR
)
ADDITIONAL_IKE_ADD = f"01 26 02 01 {IKE_ID_BODY} 0f 0002 a1a2 10 0002 b1b2 11 0003 d1d2d3 07 01f4 02 c0000264"
REKEYING_CHILD_ADD = (
    f"06 01 {IKE_ID_BODY} 0e 01 1d 78563412 1e 04030201 1f 3412 20 7856 1b 02 1c 02"
    "08 6e657431 00 16 0014 17 0100 25 0001 0f 0002 a1a2 10 0002 b1b2 11 0001 c1"
    "12 0002 e1e2"  # ADD_SECRET
    "21 08 00 0000 ffff 00" + "00" * 15 + "01" + "ff" * 16 + "22 07 00 0000 ffff 00 0a030001 0a030001"
)


@pytest.mark.parametrize("version", [4, 5])
def test_ml_kem_messages_of_versions_4_and_5(version: int) -> None:
    octets = bytes([version]) + bytes.fromhex(ML_KEM_IKE_ADD)
    message = parse_message(octets)
    assert (message.version, message.type) == (version, HaMessageType.IKE_ADD)
    assert message.first(Attribute.IKE_ID) == IKE_ID
    assert message.first(Attribute.IKE_VERSION) == 2
    assert message.first(Attribute.ALG_ADD_KES) == (36,)
    assert message.first(Attribute.ALG_KE) == 31
    assert message.first(Attribute.SECRET) == bytes.fromhex("c1c2c3")
    assert message.first(Attribute.REMOTE_ADDR) == HostAddress(IPv4Address("192.0.2.100"), 500)
    assert build_message(message) == octets

    octets = bytes([version]) + bytes.fromhex(REKEYING_CHILD_ADD)
    message = parse_message(octets)
    assert message.first(Attribute.ADD_SECRET) == bytes.fromhex("e1e2")
    assert (message.first(Attribute.INBOUND_SPI), message.first(Attribute.OUTBOUND_SPI)) == (0x12345678, 0x01020304)
    assert (message.first(Attribute.INBOUND_CPI), message.first(Attribute.OUTBOUND_CPI)) == (0x1234, 0x5678)
    assert (message.first(Attribute.IPCOMP), message.first(Attribute.ESN)) == (2, 1)
    local = message.first(Attribute.LOCAL_TS)
    assert isinstance(local, HaTrafficSelector)
    assert (local.start_address, local.end_address) == (IPv6Address("::1"), IPv6Address("f" * 4 + ":ffff" * 7))
    assert build_message(message) == octets


def test_host_order_decides_the_octets_of_spis_and_cpis() -> None:
    octets = bytes([5]) + bytes.fromhex(REKEYING_CHILD_ADD)
    message = parse_message(octets, byte_order="big")
    assert message.first(Attribute.INBOUND_SPI) == 0x78563412
    assert message.first(Attribute.INBOUND_CPI) == 0x3412
    assert build_message(message, byte_order="big") == octets
    assert build_message(message) != octets
    for call in (lambda: parse_message(octets, byte_order="middle"), lambda: build_message(message, byte_order="")):
        with pytest.raises(LocalError, match="byte order"):
            call()


def every_attribute(version: int) -> HaMessage:
    """One message that has each attribute of a version once."""
    samples: dict[Form, object] = {
        Form.IKE_SA_ID: IKE_ID,
        Form.IDENTIFICATION: Identification(2, b"gw.example.org"),
        Form.HOST: HostAddress(IPv6Address("2001:db8::1"), 4500),
        Form.NAME: "näme",
        Form.NUMBER_8: 2,
        Form.NUMBER_16: 0x1234,
        Form.NUMBER_32: 0x12345678,
        Form.SWAPPED_16: 0xABCD,
        Form.SWAPPED_32: 0xABCDEF01,
        Form.OCTETS: b"octets",
        Form.NUMBERS: (36, 37),
        Form.TRAFFIC_SELECTOR: HaTrafficSelector(6, 1, 2, True, IPv6Address("::"), IPv6Address("::5")),
    }
    table = attribute_table(version)
    values = tuple(HaAttribute(d.attribute, samples[d.form]) for d in table.values())  # type: ignore[arg-type]
    return HaMessage(version, HaMessageType.IKE_UPDATE, values)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_attribute_of_every_version_there_and_back(version: int) -> None:
    message = every_attribute(version)
    octets = build_message(message)
    assert parse_message(octets) == message
    assert build_message(parse_message(octets)) == octets


def _in_order(selector: HaTrafficSelector) -> HaTrafficSelector:
    start, end = sorted((selector.start_address, selector.end_address), key=int)
    return replace(selector, start_address=start, end_address=end)


def test_a_traffic_selector_that_ends_before_it_starts_is_refused() -> None:
    selector = HaTrafficSelector(6, 1, 2, True, IPv4Address("10.0.0.9"), IPv4Address("10.0.0.8"))
    octets = build_message(HaMessage(5, HaMessageType.CHILD_ADD, (HaAttribute(Attribute.LOCAL_TS, selector),)))
    with pytest.raises(MalformedHaMessage, match="LOCAL_TS"):
        parse_message(octets)


names = st.binary(max_size=20).filter(lambda octets: 0 not in octets)
values = {
    Form.IKE_SA_ID: st.builds(
        IkeSaId,
        st.integers(0, 255),
        st.builds(IkeSpis, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        st.booleans(),
    ),
    Form.IDENTIFICATION: st.builds(Identification, st.integers(0, 255), st.binary(max_size=255)),
    Form.HOST: st.builds(HostAddress, st.ip_addresses(), st.integers(0, 65535)),
    Form.NAME: names.map(lambda octets: octets.decode("utf-8", "surrogateescape")),
    Form.NUMBER_8: st.integers(0, 255),
    Form.NUMBER_16: st.integers(0, 65535),
    Form.NUMBER_32: st.integers(0, 2**32 - 1),
    Form.SWAPPED_16: st.integers(0, 65535),
    Form.SWAPPED_32: st.integers(0, 2**32 - 1),
    Form.OCTETS: st.binary(max_size=300),
    Form.NUMBERS: st.lists(st.integers(0, 65535), max_size=7).map(tuple),
    Form.TRAFFIC_SELECTOR: st.sampled_from([4, 6]).flatmap(
        lambda v: st.builds(
            HaTrafficSelector,
            st.integers(0, 255),
            st.integers(0, 65535),
            st.integers(0, 65535),
            st.booleans(),
            st.ip_addresses(v=v),
            st.ip_addresses(v=v),
        )
    ).map(_in_order),
}


@st.composite
def messages(draw: st.DrawFn) -> HaMessage:
    version = draw(st.sampled_from(VERSIONS))
    declared = draw(st.lists(st.sampled_from(list(attribute_table(version).values())), max_size=12))
    attributes = tuple(HaAttribute(d.attribute, draw(values[d.form])) for d in declared)  # type: ignore[arg-type]
    return HaMessage(version, draw(st.sampled_from(HaMessageType)), attributes)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(messages(), st.sampled_from(["little", "big"]))
def test_built_messages_parse_to_themselves(message: HaMessage, byte_order: str) -> None:
    assert parse_message(build_message(message, byte_order=byte_order), byte_order=byte_order) == message


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.binary(max_size=80), st.sampled_from(VERSIONS), st.sampled_from(HaMessageType))
def test_what_parses_is_built_again(body: bytes, version: int, kind: HaMessageType) -> None:
    octets = bytes([version, kind]) + body
    try:
        message = parse_message(octets)
    except MalformedHaMessage:
        return
    assert build_message(message) == octets


# --- bad input --------------------------------------------------------------------------------------------------


def test_unknown_numbers_are_named_with_their_place() -> None:
    with pytest.raises(UnknownVersion, match="version 6 at octet 0") as version:
        parse_message(bytes.fromhex("0609220001"))
    assert (version.value.number, version.value.offset) == (6, 0)
    with pytest.raises(UnknownMessageType, match="message type 13 at octet 1") as kind:
        parse_message(bytes.fromhex("030d220001"))
    assert (kind.value.number, kind.value.offset) == (13, 1)
    with pytest.raises(UnknownAttribute, match="attribute 99 at octet 5") as attribute:
        parse_message(bytes.fromhex("0309220001 63 0000"))
    assert (attribute.value.number, attribute.value.offset) == (99, 5)
    with pytest.raises(UnknownAttribute, match=r"attribute 42 .* version 3"):
        parse_message(bytes.fromhex("0309 2a 0000"))
    assert parse_message(bytes.fromhex("0509 2a 0000")).attributes == (HaAttribute(Attribute.IV, b""),)
    for octets in (b"", b"\3"):
        with pytest.raises(MalformedHaMessage):
            parse_message(octets)


@pytest.mark.parametrize(
    ("octets", "attribute", "offset"),
    [
        ("0301 01 02 00", 1, 2),  # cut off
        ("0301 01 02" + "00" * 16 + "02", 1, 2),  # is-initiator 2
        ("0302 07 01f4 03 c0000264", 7, 2),  # address family 3
        ("0302 08 6e6574", 8, 2),  # no NUL
        ("0306 1f 09 00 0000 ffff 00 0a010000 0a0100ff", 31, 2),  # traffic selector type 9
        ("0306 1f 07 00 0000 ffff 07 0a010000 0a0100ff", 31, 2),  # dynamic 7
        ("0401 1a 0003 002400", 26, 2),  # half a number
        ("0309 220001 2200", 34, 5),
        ("0301 11 0005 01020304", 17, 2),  # a secret cut off
    ],
)
def test_malformed_bodies_are_named_with_their_place(octets: str, attribute: int, offset: int) -> None:
    with pytest.raises(MalformedHaMessage) as caught:
        parse_message(bytes.fromhex(octets))
    assert (caught.value.number, caught.value.offset) == (attribute, offset)
    assert type(caught.value) is MalformedHaMessage


def test_messages_longer_than_any_datagram() -> None:
    with pytest.raises(MalformedHaMessage, match="65535"):
        parse_message(bytes([3, 9]) + b"\x22\0\1" * 22_000)
    long = HaAttribute(Attribute.SECRET, bytes(65_535))
    with pytest.raises(NotRepresentable, match="do not fit"):
        build_message(HaMessage(3, HaMessageType.IKE_ADD, (long,)))


def handmade() -> list[bytes]:
    texts = (ML_KEM_IKE_ADD, ADDITIONAL_IKE_ADD, REKEYING_CHILD_ADD)
    return [bytes([4]) + bytes.fromhex(text) for text in texts]


def outcome(octets: bytes, tracker: HaTracker) -> str:
    """A message (applied to see that nothing is raised there either), or the typed error."""
    try:
        message = parse_message(octets)
    except MalformedHaMessage:
        return "refused"
    assert build_message(message) == octets
    tracker.apply(message, 0.0)
    return "parsed"


def test_cut_at_every_length_and_with_a_trailing_octet() -> None:
    outcomes: Counter[str] = Counter()
    tracker = HaTracker()
    for octets in (*one_of_each(), *handmade()):
        for length in range(len(octets)):
            outcomes[outcome(octets[:length], tracker)] += 1
        for trailing in (0, 1, 0x22, 0xFF):
            assert outcome(octets + bytes([trailing]), tracker) == "refused"
    assert outcomes["refused"] > 10 * outcomes["parsed"] > 0
    tracker.sessions()


def test_every_single_bit_flipped() -> None:
    outcomes: Counter[str] = Counter()
    tracker = HaTracker(keep_deleted=True)
    samples = (*one_of_each(), *handmade())
    for octets in samples:
        tracker.apply(parse_message(octets), 0.0)
    for octets in samples:
        for bit in range(len(octets) * 8):
            changed = bytearray(octets)
            changed[bit // 8] ^= 1 << bit % 8
            outcomes[outcome(bytes(changed), tracker)] += 1
    assert outcomes["refused"] > 100
    assert outcomes["parsed"] > 100
    tracker.sessions()
    tracker.withheld()


@pytest.mark.parametrize(
    "attribute",
    [
        HaAttribute(Attribute.MID, 1 << 32),
        HaAttribute(Attribute.MID, "7"),
        HaAttribute(Attribute.MID, -1),
        HaAttribute(Attribute.IKE_ID, 7),
        HaAttribute(Attribute.LOCAL_ID, Identification(2, bytes(256))),
        HaAttribute(Attribute.LOCAL_ID, Identification(256, b"")),
        HaAttribute(Attribute.REMOTE_ADDR, HostAddress(IPv4Address("192.0.2.1"), 65_536)),
        HaAttribute(Attribute.CONFIG_NAME, "a\0b"),
        HaAttribute(Attribute.CONFIG_NAME, b"octets"),
        HaAttribute(Attribute.NONCE_I, bytes(65_536)),
        HaAttribute(Attribute.NONCE_I, 5),
        HaAttribute(Attribute.ALG_ADD_KES, (65_536,)),
        HaAttribute(Attribute.LOCAL_TS, HaTrafficSelector(0, 0, 0, False, IPv4Address("10.0.0.1"), IPv6Address("::"))),
    ],
    ids=lambda a: f"{a.attribute.name}-{type(a.value).__name__}",
)
def test_values_that_an_attribute_cannot_hold(attribute: HaAttribute) -> None:
    with pytest.raises(NotRepresentable, match=attribute.attribute.name):
        build_message(HaMessage(5, HaMessageType.IKE_UPDATE, (attribute,)))


def test_unknown_versions_are_not_built() -> None:
    with pytest.raises(NotRepresentable, match="version 6"):
        build_message(HaMessage(6, HaMessageType.IKE_DELETE))
    with pytest.raises(NotRepresentable, match="ADD_SECRET has no place in version 3"):
        build_message(HaMessage(3, HaMessageType.CHILD_ADD, (HaAttribute(Attribute.ADD_SECRET, b"key"),)))


# --- secrets ----------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_repr_and_no_error() -> None:
    secret = b"Squeamish Ossifrage"
    assert {Attribute.SECRET, Attribute.ADD_SECRET, Attribute.OLD_SKD, Attribute.PSK} == SECRETS
    for attribute in SECRETS:
        message = HaMessage(5, HaMessageType.IKE_ADD, (HaAttribute(attribute, secret),))
        assert "Ossifrage" not in repr(message)
        assert "<secret>" in repr(message)
        with pytest.raises(NotRepresentable) as caught:
            build_message(HaMessage(5, HaMessageType.IKE_ADD, (HaAttribute(attribute, secret.decode()),)))
        assert "Ossifrage" not in f"{caught.value} {caught.value.__cause__}"
    octets = bytes([5, 1, 17, 0, 40]) + secret
    with pytest.raises(MalformedHaMessage) as cut:
        parse_message(octets)
    assert "Ossifrage" not in f"{cut.value} {cut.value.__cause__}"


# --- from version to version ------------------------------------------------------------------------------------


def test_recorded_messages_of_5_into_3_and_back() -> None:
    """Only the private copies of CONDITIONS and EXTENSIONS are lost; the octets of version 3 are checked by hand."""
    refused: Counter[str] = Counter()
    for name, octets in RECORDED:
        message = parse_message(octets)
        if message.version != 5:
            continue
        try:
            older = re_encode(message, 3)
        except NotRepresentable:
            refused[f"{name} {message.type.name}"] += 1
            continue
        again = parse_message(build_message(older))
        assert again == older
        private = [a for a in message.attributes if a.value == 0x80000000]
        assert len(older.attributes) == len(message.attributes) - len(private)
        back = re_encode(older, 5)
        assert back.attributes == tuple(a for a in message.attributes if a not in private)
    # three additional key exchanges: every IKE_ADD (one and three, two rekeys) and the CHILD_ADDs of the three rekeys
    trace = "v5-mlkem-addke3/ha.pcap"
    assert refused == {f"{trace} IKE_ADD": 6, f"{trace} CHILD_ADD": 3}
    plain = (parse_message(octets) for name, octets in RECORDED if name == "v5-plain/ha.pcap")
    update = next(message for message in plain if message.type is HaMessageType.IKE_UPDATE)
    hexadecimal = build_message(re_encode(update, 3)).hex()
    assert re.search("0900004000" + "0a00003929" + "08727700", hexadecimal)
    assert "80000000" not in hexadecimal


def test_recorded_messages_of_3_into_4_and_5() -> None:
    for _, octets in RECORDED:
        message = parse_message(octets)
        if message.version != 3:
            continue
        for version in (4, 5):
            newer = re_encode(message, version)
            assert parse_message(build_message(newer)) == newer
            assert newer.attributes == message.attributes
            assert re_encode(newer, 3) == message
    assert re_encode(message, message.version) is message


def test_what_has_no_place_in_version_3() -> None:
    first, additional, rekeying = (parse_message(octets) for octets in handmade())
    with pytest.raises(NotRepresentable, match="ALG_ADD_KES"):
        re_encode(first, 3)
    with pytest.raises(NotRepresentable, match="ADD_SECRET"):
        re_encode(rekeying, 3)
    with pytest.raises(NotRepresentable, match="additional key exchange"):
        re_encode(additional, 3)
    for message in (first, additional, rekeying):
        assert build_message(re_encode(message, 5))[1:] == build_message(message)[1:]
        with pytest.raises(NotRepresentable, match="version 6"):
            re_encode(message, 6)
