"""From ``ha`` messages to sessions that can be moved.

Witnesses: keys.json beside each recording (made at recording time by other code, its keys checked against the
daemon's own log), the daemon's own list of SAs in the READMEs, and the ESP packets of outer.pcap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contexts.encoding.vendor import vendor_value
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import derive_ike_keys, derive_ipsec_keys
from contexts.values import (
    CommonVendorNumber,
    ConfiguredCredentials,
    CounterKnowledge,
    HostAddress,
    Identification,
    IkeExtension,
    IkeSpis,
    IpComp,
    IpsecKeys,
    IpsecMode,
    KeymatDerivation,
    MessageIds,
    PresharedKey,
    SharedSecret,
    StrongswanVendorNumber,
    TrafficSelector,
)
from cxtp.adapters.capture import udp_datagrams
from cxtp.adapters.strongswan_ha import (
    Attribute,
    ExportedSession,
    HaAttribute,
    HaLimits,
    HaMessage,
    HaMessageType,
    HaReportKind,
    HaTracker,
    HaTrafficSelector,
    IkeSaId,
    parse_message,
    re_encode,
    read_ha_capture,
)
from cxtp.adapters.strongswan_ha.flags import ike_extensions
from cxtp.constants import SecurityProtocol

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
WITH_KEYS = sorted(path.parent for path in TRACES.glob("*/keys.json"))


def recorded(trace: str, name: str = "ha.pcap") -> list[HaMessage]:
    return [parse_message(datagram.payload) for datagram in udp_datagrams(TRACES / trace / name, 4510)]


def tracked(messages: Iterable[HaMessage], **options: Any) -> HaTracker:
    tracker = HaTracker(**options)
    for number, message in enumerate(messages):
        tracker.apply(message, float(number))
    return tracker


def ike_sas(session: ExportedSession) -> list[IkeSaContext]:
    return [context for context in session.contexts if isinstance(context, IkeSaContext)]


def ipsec_sas(session: ExportedSession) -> list[IpsecSaContext]:
    return [context for context in session.contexts if isinstance(context, IpsecSaContext)]


def vendor(context: IkeSaContext | IpsecSaContext) -> dict[tuple[int, int], object]:
    return {(p.enterprise, p.number): vendor_value(p) for p in context.vendor_parameters}


def keys_of(session: ExportedSession, child: IpsecSaContext) -> IpsecKeys:
    """The keys that the exported contexts, and nothing else, give."""
    if isinstance(child.keying, IpsecKeys):
        return child.keying
    (source,) = (ike for ike in ike_sas(session) if ike.spis == child.keying.ike_spis)
    sk_d = derive_ike_keys(source.keying, source.proposal, source.spis).sk_d
    return derive_ipsec_keys(child.keying, child.proposal, sk_d, source.proposal.prf)


# --- recordings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", WITH_KEYS, ids=lambda p: p.name)
def test_recorded_ike_sas_equal_keys_json(trace: Path) -> None:
    noted = json.loads((trace / "keys.json").read_text())["ike_sas"]
    (session,) = read_ha_capture(trace / "ha.pcap", keep_deleted=True).sessions()
    contexts = ike_sas(session)
    assert len(contexts) == len(noted)
    for context, entry in zip(contexts, noted, strict=True):
        assert context.spis == IkeSpis(int(entry["spi_i"], 16), int(entry["spi_r"], 16))
        assert context.initiator == bool(entry["gateway_is_initiator"])
        proposal = context.proposal
        assert (proposal.encryption, proposal.encryption_key_length) == (entry["encr"], entry["encr_len"])
        assert (proposal.integrity, proposal.integrity_key_length) == (entry["integ"] or 0, 0)
        assert (proposal.prf, proposal.key_exchange) == (entry["prf"], entry["dh"])
        keying = context.keying
        assert isinstance(keying, SharedSecret)
        assert keying.shared_secret.hex() == entry["dh_shared_secret"]
        assert (keying.nonces.initiator.hex(), keying.nonces.responder.hex()) == (entry["nonce_i"], entry["nonce_r"])
        assert keying.additional_secrets == ()
        if entry["rekey_of"] is None:
            assert keying.rekeyed_from is None
        else:
            old = next(e for e in noted if e["spi_i"] == entry["rekey_of"]["spi_i"])
            assert keying.rekeyed_from is not None
            assert (keying.rekeyed_from.prf, keying.rekeyed_from.sk_d.hex()) == (old["prf"], old["sk_d"])
        assert str(context.remote_host.address) == entry["remote_addr"]["addr"] == str(session.mn_address)
        assert context.local_identity.data == b"gw.example.org"
        assert context.remote_identity.data == b"client.example.org"
        keys = derive_ike_keys(context.keying, context.proposal, context.spis)
        for name in ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er"):
            assert getattr(keys, name).hex() == entry[name]


@pytest.mark.parametrize("trace", WITH_KEYS, ids=lambda p: p.name)
def test_recorded_child_sas_equal_keys_json(trace: Path) -> None:
    noted = json.loads((trace / "keys.json").read_text())["child_sas"]
    (session,) = read_ha_capture(trace / "ha.pcap", keep_deleted=True).sessions()
    contexts = ipsec_sas(session)
    assert len(contexts) == len(noted)
    for context, entry in zip(contexts, noted, strict=True):
        assert (f"{context.inbound_spi:08x}", f"{context.outbound_spi:08x}") == (entry["spi_in"], entry["spi_out"])
        keying = context.keying
        assert isinstance(keying, KeymatDerivation)
        assert keying.ike_spis == IkeSpis(int(entry["ike_spi_i"], 16), int(entry["ike_spi_r"], 16))
        assert keying.initiator == bool(entry["gateway_is_initiator"])
        assert (keying.nonces.initiator.hex(), keying.nonces.responder.hex()) == (entry["nonce_i"], entry["nonce_r"])
        assert keying.shared_secret.hex() == entry["dh_shared_secret"]
        assert context.mode == IpsecMode(entry["mode"])
        proposal = context.proposal
        assert (proposal.protocol, proposal.encryption) == (SecurityProtocol.ESP, entry["encr"])
        assert (proposal.encryption_key_length, proposal.integrity) == (entry["encr_len"], entry["integ"] or 0)
        assert proposal.key_exchange == (entry["dh"] or 0)
        assert proposal.extended_sequence_numbers == bool(entry["esn"])
        for ours, theirs in (
            (context.local_selectors, entry["local_ts"]),
            (context.remote_selectors, entry["remote_ts"]),
        ):
            assert ours == tuple(
                TrafficSelector(ip_address(t["start"]), ip_address(t["end"]), t["fport"], t["tport"], t["proto"])
                for t in theirs
            )
        assert vendor(context) == {(0, CommonVendorNumber.CHILD_NAME): entry["config"]}
        assert context.sequence_numbers.knowledge is CounterKnowledge.UNKNOWN
        keys = keys_of(session, context)
        assert keys.inbound_encryption.hex() == entry["key_in"]
        assert keys.outbound_encryption.hex() == entry["key_out"]
        assert keys.inbound_integrity.hex() == entry["integ_key_in"]
        assert keys.outbound_integrity.hex() == entry["integ_key_out"]


# UDP encapsulation as outer.pcap shows it (README.txt of each: "wire: ..."): libipsec's traces all have it
@pytest.mark.parametrize(
    ("trace", "ports", "ike_port"),
    [
        ("k-raw-gcm", 0, 500),
        ("k-esn-w128", 0, 500),
        ("k-transport-cbc", 0, 500),
        ("v5-plain", 0, 500),
        ("k-natt-encap", 4500, 4500),
        ("natt-encap", 4500, 4500),
        ("cert-auth", 4500, 4500),
        ("ipv6-outer", 4500, 4500),
    ],
)
def test_udp_encapsulation_is_that_of_the_recorded_packets(trace: str, ports: int, ike_port: int) -> None:
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    (child,) = ipsec_sas(session)
    (ike,) = ike_sas(session)
    assert (child.local_host.port, child.remote_host.port) == (ports, ports)
    assert (child.local_host.address, child.remote_host.address) == (ike.local_host.address, session.mn_address)
    assert ike.remote_host.port == ike_port
    on_wire = {d.payload[:4] for d in udp_datagrams(TRACES / trace / "outer.pcap", 4500)}
    spi = child.inbound_spi.to_bytes(4, "big")
    assert (spi in on_wire) == bool(ports)


def test_suites_as_strongswan_writes_them() -> None:
    suites = {trace.name: read_ha_capture(trace / "ha.pcap", keep_deleted=True).sessions()[0].suite
              for trace in WITH_KEYS}  # fmt: skip
    # README.txt of takeover-resync, from the daemon: AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384, ESP:AES_GCM_16-256
    assert suites["rekey-ike-child"] == "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384 ESP:AES_GCM_16-256"
    assert suites["transport-mode"] == "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384"
    assert suites["k-esn-w128"].endswith(" ESP:AES_GCM_16-256/ESN")
    assert suites["ipv6-outer"] == (
        "AES_CBC-256/HMAC_SHA2_512_256/PRF_HMAC_SHA2_512/CURVE25519 ESP:AES_CBC-256/HMAC_SHA2_512_256"
    )


def test_what_else_an_ike_sa_carries() -> None:
    (session,) = read_ha_capture(TRACES / "ipv6-outer" / "ha.pcap", keep_deleted=True).sessions()
    (ike,) = ike_sas(session)
    assert session.mn_address == ip_address("2001:db8::100")
    assert ike.credentials == ConfiguredCredentials("rw")
    assert ike.extensions == (
        IkeExtension.NAT_REMOTE | IkeExtension.FRAGMENTATION | IkeExtension.HASH_ALGORITHMS | IkeExtension.REDIRECT
    )
    assert vendor(ike) == {
        (0, CommonVendorNumber.CONNECTION_NAME): "rw",
        (0, CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES): (ip_address("10.3.0.1"), ip_address("fd00:3::1")),
        (0, CommonVendorNumber.PEER_ADDRESSES): (ip_address("2001:db8::100"),),
        (36906, StrongswanVendorNumber.CONDITIONS): 0x4005,
        (36906, StrongswanVendorNumber.EXTENSIONS): 0x3929,
    }
    assert ike.message_ids == MessageIds(0, 4)  # IKE_MID_RESPONDER 2, 3, 4: the last message in ha.pcap before delete


def test_private_bits_of_version_5() -> None:
    (session,) = read_ha_capture(TRACES / "v5-plain" / "ha.pcap", keep_deleted=True).sessions()
    (ike,) = ike_sas(session)
    values = vendor(ike)
    assert values[36906, StrongswanVendorNumber.CONDITIONS] == 0x4000
    assert values[36906, StrongswanVendorNumber.PRIVATE_CONDITIONS] == 0x80000000
    assert values[36906, StrongswanVendorNumber.PRIVATE_EXTENSIONS] == 0x80000000
    assert ike.extensions & IkeExtension.FRAGMENTATION
    assert not ike.extensions & (IkeExtension.NAT_REMOTE | IkeExtension.NAT_LOCAL)
    # the same messages in version 3 give the same session but for the private bits
    older = tracked((re_encode(m, 3) for m in recorded("v5-plain")), keep_deleted=True).sessions()
    plain = tuple(p for p in ike.vendor_parameters if (p.enterprise, p.number) not in ((36906, 3), (36906, 4)))
    expected = replace(session, contexts=(replace(ike, vendor_parameters=plain), *ipsec_sas(session)))
    assert older == (expected,)


@pytest.mark.parametrize(
    ("conditions", "extensions", "expected"),
    [
        (0x4005, 0x3929, "NAT_REMOTE FRAGMENTATION HASH_ALGORITHMS REDIRECT"),
        (0x4005, 0x392B, "NAT_REMOTE MOBIKE FRAGMENTATION HASH_ALGORITHMS REDIRECT"),
        (0x4020, 0, "CERTIFICATE_REQUEST_SEEN"),
        (0x400B, 0, "NAT_LOCAL NAT_FORCED"),
        (0x4010, 1 << 14, "EAP MESSAGE_ID_SYNC"),
        (0x4000, 0, ""),
    ],
)
def test_bit_sets(conditions: int, extensions: int, expected: str) -> None:
    combined = IkeExtension.NONE
    for name in expected.split():
        combined |= IkeExtension[name]
    assert ike_extensions(conditions, extensions) == combined


def test_esp_of_gateway_initiated_rekeys_opens() -> None:
    """takeover-resync: the second gateway rekeys CHILD_SAs itself (INITIATOR 1); no keys.json, so the packets that
    both ends really sent are opened with the exported keys."""
    trace = TRACES / "takeover-resync"
    (session,) = read_ha_capture(trace / "ha-gwa.pcap", trace / "ha-gwb.pcap", keep_deleted=True).sessions()
    children = ipsec_sas(session)
    spis = [(f"{c.inbound_spi:08x}", f"{c.outbound_spi:08x}") for c in children]
    assert spis == [  # README.txt, the daemon's own list of SAs
        ("b8c6ade7", "2a5b8c7d"), ("b7c168ed", "c9f5c00d"), ("6198c98d", "66c5a1b6"), ("1ff6b3b9", "123a1595"),
    ]  # fmt: skip
    initiators = [c.keying.initiator for c in children if isinstance(c.keying, KeymatDerivation)]
    assert initiators == [False, True, False, True]
    keys: dict[int, bytes] = {}
    for child in children:
        derived = keys_of(session, child)
        keys[child.inbound_spi], keys[child.outbound_spi] = derived.inbound_encryption, derived.outbound_encryption
    opened: dict[int, int] = {}
    for datagram in udp_datagrams(trace / "outer.pcap", 4500):
        spi = int.from_bytes(datagram.payload[:4], "big")
        if len(datagram.payload) > 8 and spi:
            key, esp = keys[spi], datagram.payload
            plain = AESGCM(key[:32]).decrypt(key[32:] + esp[8:16], esp[16:], esp[:8])
            assert plain[-1] == 4  # next header: IPv4
            opened[spi] = opened.get(spi, 0) + 1
    assert opened[0xB7C168ED] == opened[0xC9F5C00D] == 13  # README.txt: 13 of 13 pings
    assert opened[0x1FF6B3B9] == opened[0x123A1595] == 3
    assert len(opened) >= 7


# --- repeated, rekeyed, deleted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", WITH_KEYS, ids=lambda p: p.name)
def test_repeated_messages_change_nothing(trace: Path) -> None:
    messages = recorded(trace.name)
    once = tracked(messages, keep_deleted=True)
    twice = tracked(messages + messages, keep_deleted=True)
    doubled = tracked([m for message in messages for m in (message, message)], keep_deleted=True)
    assert twice.sessions() == doubled.sessions() == once.sessions()
    living = messages[: -1 if messages[-1].type is HaMessageType.IKE_DELETE else None]
    again = tracked(living + living)
    assert again.sessions() == tracked(living).sessions() != ()
    assert {r.kind for r in again.reports} <= {HaReportKind.STALE, HaReportKind.UNKNOWN_CHILD_SA}


def test_deletes_are_applied_unless_asked_otherwise() -> None:
    messages = recorded("two-children")
    counts = []
    tracker = HaTracker()
    for number, message in enumerate(messages):
        tracker.apply(message, number)
        counts.append(sum(len(session.contexts) for session in tracker.sessions()))
    assert counts[-1] == 0
    assert max(counts) == 3
    (kept,) = tracked(messages, keep_deleted=True).sessions()
    assert len(kept.contexts) == 3


def test_child_sas_follow_the_rekeyed_ike_sa_and_keep_their_keys() -> None:
    messages = recorded("rekey-ike-child")
    noted = json.loads((TRACES / "rekey-ike-child" / "keys.json").read_text())
    old, new = (IkeSpis(int(e["spi_i"], 16), int(e["spi_r"], 16)) for e in noted["ike_sas"])
    (kept,) = tracked(messages, keep_deleted=True).sessions()
    assert [child.ike_spis for child in ipsec_sas(kept)] == [new, new]
    assert [c.keying.ike_spis for c in ipsec_sas(kept) if isinstance(c.keying, KeymatDerivation)] == [old, old]

    # while it lived: the old IKE_SA is gone, so what it derived travels as keys
    (session,) = tracked(messages[:-1]).sessions()
    (ike,), (child,) = ike_sas(session), ipsec_sas(session)
    assert (ike.spis, child.ike_spis) == (new, new)
    assert ike.message_ids == MessageIds(0, 2)
    assert isinstance(child.keying, IpsecKeys)
    entry = noted["child_sas"][1]
    assert child.keying.inbound_encryption.hex() == entry["key_in"]
    assert child.keying.outbound_encryption.hex() == entry["key_out"]
    # the virtual address was told of the old one alone
    assert vendor(ike)[0, CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES] == (ip_address("10.3.0.1"),)

    # between the two: both are there, under one session
    ike_delete = next(i for i, m in enumerate(messages) if m.type is HaMessageType.IKE_DELETE)
    (between,) = tracked(messages[:ike_delete]).sessions()
    assert [ike.spis for ike in ike_sas(between)] == [old, new]
    assert all(isinstance(child.keying, KeymatDerivation) for child in ipsec_sas(between))


@pytest.mark.parametrize("trace", ["rekey-ike-child", "ipv6-outer", "two-children"])
def test_each_message_lost_is_reported_never_raised(trace: str) -> None:
    """What one lost message does (strongSwan drops what depends on it)."""
    messages = recorded(trace)
    for lost, message in enumerate(messages):
        rest = messages[:lost] + messages[lost + 1 :]
        tracker = tracked(rest, keep_deleted=True)
        kinds = {report.kind for report in tracker.reports} | {report.kind for report in tracker.withheld()}
        tracker.sessions()
        if message.type is HaMessageType.IKE_ADD:
            assert HaReportKind.UNKNOWN_IKE_SA in kinds
        if message.type is HaMessageType.IKE_UPDATE and message.first(Attribute.LOCAL_ID) is not None:
            rekeyed = any(
                m.first(Attribute.IKE_REKEY_ID) is not None
                and m.first(Attribute.IKE_ID) == message.first(Attribute.IKE_ID)
                for m in messages
            )
            if not rekeyed:  # a rekeyed IKE_SA inherits what an IKE_UPDATE would tell
                (first, *_) = tracker.withheld()
                assert first.kind is HaReportKind.NOT_ESTABLISHED
                assert "local host" in first.detail
                assert "remote identity" in str(first)


# --- messages by hand -------------------------------------------------------------------------------------------


def spis_of(number: int) -> IkeSpis:
    return IkeSpis(0x1111111111110000 + number, 0x2222222222220000 + number)


CLIENT = IPv4Address("203.0.113.7")


class Daemon:
    """Says what a gateway's daemon would."""

    def __init__(self, version: int = 5) -> None:
        self.version = version

    def say(self, kind: HaMessageType, number: int, *attributes: tuple[Attribute, object]) -> HaMessage:
        first = HaAttribute(Attribute.IKE_ID, IkeSaId(2, spis_of(number), False))
        rest = (HaAttribute(attribute, value) for attribute, value in attributes)  # type: ignore[arg-type]
        return HaMessage(self.version, kind, (first, *rest))

    def ike_add(self, number: int, *more: tuple[Attribute, object], rekeys: int | None = None) -> HaMessage:
        rekey: tuple[tuple[Attribute, object], ...] = ()
        if rekeys is not None:
            rekey = (
                (Attribute.IKE_REKEY_ID, IkeSaId(2, spis_of(rekeys), False)),
                (Attribute.ALG_OLD_PRF, 5),
                (Attribute.OLD_SKD, b"old sk_d" * 4),
            )
        return self.say(
            HaMessageType.IKE_ADD,
            number,
            *rekey,
            (Attribute.ALG_ENCR, 20),
            (Attribute.ALG_ENCR_LEN, 128),
            (Attribute.ALG_PRF, 5),
            (Attribute.ALG_KE, 31),
            (Attribute.NONCE_I, b"nonce of the initiator" + bytes([number])),
            (Attribute.NONCE_R, b"nonce of the responder" + bytes([number])),
            (Attribute.SECRET, b"secret" + bytes([number])),
            (Attribute.REMOTE_ADDR, HostAddress(CLIENT, 500)),
            *more,
        )

    def ike_update(self, number: int, *more: tuple[Attribute, object], address: IPv4Address = CLIENT) -> HaMessage:
        return self.say(
            HaMessageType.IKE_UPDATE,
            number,
            (Attribute.LOCAL_ID, Identification(2, b"gw")),
            (Attribute.REMOTE_ID, Identification(2, b"client" + bytes([48 + number]))),
            (Attribute.LOCAL_ADDR, HostAddress(IPv4Address("192.0.2.1"), 4500)),
            (Attribute.REMOTE_ADDR, HostAddress(address, 61000)),
            (Attribute.CONDITIONS, 0x4005),
            (Attribute.EXTENSIONS, 0x392B),
            (Attribute.CONFIG_NAME, "rw"),
            *more,
        )

    def child_add(
        self, number: int, spi: int, *more: tuple[Attribute, object], without: frozenset[Attribute] = frozenset()
    ) -> HaMessage:
        anything = HaTrafficSelector(0, 0, 65535, False, IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"))
        attributes: dict[Attribute, object] = {
            Attribute.INITIATOR: 0,
            Attribute.INBOUND_SPI: spi,
            Attribute.OUTBOUND_SPI: spi + 1,
            Attribute.INBOUND_CPI: 0,
            Attribute.OUTBOUND_CPI: 0,
            Attribute.IPSEC_MODE: 2,
            Attribute.IPCOMP: 0,
            Attribute.CONFIG_NAME: "net",
            Attribute.ALG_ENCR: 20,
            Attribute.ALG_ENCR_LEN: 128,
            Attribute.ESN: 0,
            Attribute.NONCE_I: b"nonce of the initiator" + bytes([number]),
            Attribute.NONCE_R: b"nonce of the responder" + bytes([number]),
            Attribute.LOCAL_TS: anything,
            Attribute.REMOTE_TS: anything,
        }
        attributes.update(dict(more))
        return self.say(
            HaMessageType.CHILD_ADD, number, *((a, v) for a, v in attributes.items() if a not in without)
        )

    def child_delete(self, number: int, spi: int) -> HaMessage:
        return self.say(HaMessageType.CHILD_DELETE, number, (Attribute.INBOUND_SPI, spi))

    def message_id(self, number: int, value: int, *, sent: bool = False) -> HaMessage:
        kind = HaMessageType.IKE_MID_INITIATOR if sent else HaMessageType.IKE_MID_RESPONDER
        return self.say(kind, number, (Attribute.MID, value))


daemon = Daemon()


def test_additional_key_exchanges_come_one_ike_add_each() -> None:
    def another(secret: bytes) -> HaMessage:
        whole = daemon.ike_add(1)
        kept = (Attribute.IKE_ID, Attribute.NONCE_I, Attribute.NONCE_R)
        attributes = tuple(a for a in whole.attributes if a.attribute in kept)
        return replace(whole, attributes=(*attributes, HaAttribute(Attribute.SECRET, secret)))

    set_up = [
        daemon.ike_add(1, (Attribute.ALG_ADD_KES, (36, 37))),
        daemon.message_id(1, 2),
        another(b"ml-kem-768"),
        daemon.message_id(1, 3),
        another(b"ml-kem-1024"),
        another(b"ml-kem-768"),  # repeated
        daemon.ike_update(1),
    ]
    (session,) = tracked(set_up).sessions()
    (ike,) = ike_sas(session)
    assert isinstance(ike.keying, SharedSecret)
    assert ike.keying.additional_secrets == (b"ml-kem-768", b"ml-kem-1024")
    assert ike.proposal.additional_key_exchanges == (36, 37)
    assert ike.extensions & IkeExtension.INTERMEDIATE
    assert session.suite == "AES_GCM_16-128/PRF_HMAC_SHA2_256/CURVE25519/ML_KEM_768/ML_KEM_1024"

    rekey = [
        daemon.ike_add(2, (Attribute.ADD_SECRET, b"ml-kem-768ml-kem-1024"), rekeys=1),
        daemon.child_add(2, 0x500, (Attribute.SECRET, b"pfs"), (Attribute.ADD_SECRET, b"more"), (Attribute.ALG_KE, 31)),
    ]
    (session,) = tracked([*set_up, *rekey]).sessions()
    _, ike = ike_sas(session)
    assert isinstance(ike.keying, SharedSecret)
    assert ike.keying.additional_secrets == (b"ml-kem-768ml-kem-1024",)
    assert not ike.extensions & IkeExtension.INTERMEDIATE  # none of its own; the old one's were
    (child,) = ipsec_sas(session)
    assert isinstance(child.keying, KeymatDerivation)
    assert (child.keying.shared_secret, child.keying.additional_secrets) == (b"pfs", (b"more",))
    assert child.proposal.key_exchange == 31

    too_many = tracked([*set_up, *(another(bytes([n])) for n in range(20))])
    assert too_many.counters[HaReportKind.LIMIT] == 15  # seven at most
    assert tracked([another(b"alone")]).counters == {HaReportKind.UNKNOWN_IKE_SA: 1}


def test_several_clients_behind_one_address_move_together_others_apart() -> None:
    elsewhere = IPv4Address("198.51.100.9")
    tracker = tracked(
        [
            daemon.ike_add(1), daemon.ike_update(1), daemon.child_add(1, 0x100),
            daemon.ike_add(2), daemon.ike_update(2, address=elsewhere), daemon.child_add(2, 0x200),
            daemon.ike_add(3), daemon.ike_update(3), daemon.child_add(3, 0x300),
        ]
    )  # fmt: skip
    behind_nat, alone = tracker.sessions()
    assert (behind_nat.mn_address, alone.mn_address) == (CLIENT, elsewhere)
    assert [ike.spis for ike in ike_sas(behind_nat)] == [spis_of(1), spis_of(3)]
    assert [child.inbound_spi for child in ipsec_sas(behind_nat)] == [0x100, 0x300]
    assert [child.inbound_spi for child in ipsec_sas(alone)] == [0x200]
    assert {child.remote_host for child in ipsec_sas(behind_nat)} == {HostAddress(CLIENT, 61000)}

    # IKE_SA 1 moved before it was rekeyed: all of its chain goes by the latest address
    tracker.apply(daemon.ike_add(4, rekeys=1), 10.0)
    tracker.apply(daemon.ike_update(4, address=elsewhere), 11.0)
    sessions = {session.mn_address: session for session in tracker.sessions()}
    assert [ike.spis for ike in ike_sas(sessions[elsewhere])] == [spis_of(1), spis_of(2), spis_of(4)]
    assert [ike.spis for ike in ike_sas(sessions[CLIENT])] == [spis_of(3)]
    assert {child.ike_spis for child in ipsec_sas(sessions[elsewhere])} == {spis_of(4), spis_of(2)}


def test_a_rekey_without_its_update_inherits_what_is_known() -> None:
    tracker = tracked(
        [
            daemon.ike_add(1),
            daemon.ike_update(1, (Attribute.REMOTE_EAP_ID, Identification(2, b"eap user"))),
            daemon.message_id(1, 7),
            daemon.ike_add(2, rekeys=1),
            daemon.say(HaMessageType.IKE_DELETE, 1),
        ]
    )
    (session,) = tracker.sessions()
    (ike,) = ike_sas(session)
    assert (ike.spis, ike.remote_identity.data) == (spis_of(2), b"client1")
    assert ike.message_ids == MessageIds(0, 0)
    assert vendor(ike)[0, CommonVendorNumber.REMOTE_EAP_IDENTITY] == Identification(2, b"eap user")
    assert tracker.withheld() == ()


def test_a_child_sa_added_under_the_old_ike_sa_belongs_to_the_new() -> None:
    messages = [daemon.ike_add(1), daemon.ike_update(1), daemon.ike_add(2, rekeys=1), daemon.child_add(1, 0x100)]
    (session,) = tracked(messages).sessions()
    (child,) = ipsec_sas(session)
    assert child.ike_spis == spis_of(2)
    assert isinstance(child.keying, KeymatDerivation)
    assert child.keying.ike_spis == spis_of(1)


@pytest.mark.parametrize("loser", [2, 3])
def test_when_both_sides_rekey_at_once_the_child_sas_stay_with_the_one_that_lives(loser: int) -> None:
    winner = 5 - loser
    tracker = tracked(
        [
            daemon.ike_add(1),
            daemon.ike_update(1),
            daemon.child_add(1, 0x100),
            daemon.ike_add(2, rekeys=1),
            daemon.ike_add(3, rekeys=1),
            daemon.say(HaMessageType.IKE_DELETE, loser),
            daemon.say(HaMessageType.IKE_DELETE, 1),
        ]
    )
    (session,) = tracker.sessions()
    assert [ike.spis for ike in ike_sas(session)] == [spis_of(winner)]
    (child,) = ipsec_sas(session)
    assert child.ike_spis == spis_of(winner)
    tracker.apply(daemon.child_delete(winner, 0x100), 9.0)
    assert ipsec_sas(tracker.sessions()[0]) == []
    assert tracker.reports == ()


def test_message_ids_rise_and_zero_says_nothing() -> None:
    def ids(*messages: HaMessage) -> MessageIds:
        (session,) = tracked([daemon.ike_add(1), daemon.ike_update(1), *messages]).sessions()
        return ike_sas(session)[0].message_ids

    assert ids() == MessageIds(0, 1)  # IKE_SA_INIT was the peer's request 0
    assert ids(daemon.message_id(1, 2), daemon.message_id(1, 0)) == MessageIds(0, 2)
    assert ids(daemon.message_id(1, 5), daemon.message_id(1, 3, sent=True)) == MessageIds(3, 5)
    assert ids(daemon.message_id(1, 5), daemon.message_id(1, 2)) == MessageIds(0, 5)  # repeated
    ours = daemon.ike_add(1)
    ours = replace(ours, attributes=(HaAttribute(Attribute.IKE_ID, IkeSaId(2, spis_of(1), True)), *ours.attributes[1:]))
    (session,) = tracked([ours, daemon.ike_update(1)]).sessions()
    assert (ike_sas(session)[0].initiator, ike_sas(session)[0].message_ids) == (True, MessageIds(1, 0))


def test_ah_is_known_by_what_it_lacks() -> None:
    ah = daemon.child_add(1, 0x100, (Attribute.ALG_INTEG, 12), without=frozenset({Attribute.ALG_ENCR}))
    (session,) = tracked([daemon.ike_add(1), daemon.ike_update(1), ah]).sessions()
    (child,) = ipsec_sas(session)
    proposal = child.proposal
    assert (proposal.protocol, proposal.encryption, proposal.integrity) == (SecurityProtocol.AH, None, 12)
    assert (proposal.encryption_key_length, proposal.name) == (0, "AH:HMAC_SHA2_256_128")
    assert (child.local_host.port, child.remote_host.port) == (0, 0)  # AH is never put into UDP


def test_ipcomp_ports_of_a_nat_modes_and_protocols() -> None:
    icmp = HaTrafficSelector(1, 0, 65535, False, IPv4Address("10.0.0.0"), IPv4Address("10.0.0.255"))
    (session,) = tracked(
        [
            daemon.ike_add(1),
            daemon.ike_update(1),
            daemon.child_add(
                1, 0x100, (Attribute.IPCOMP, 2), (Attribute.INBOUND_CPI, 0x1234), (Attribute.OUTBOUND_CPI, 0x5678)
            ),
            daemon.child_add(
                1, 0x200, (Attribute.IPSEC_MODE, 1), (Attribute.LOCAL_TS, icmp), (Attribute.REMOTE_TS, icmp)
            ),
            daemon.child_add(1, 0x300, (Attribute.IPSEC_MODE, 3), (Attribute.ESN, 1), (Attribute.LOCAL_TS, icmp)),
        ],
        window=64,
    ).sessions()  # fmt: skip
    compressed, transport, beet = ipsec_sas(session)
    assert compressed.ipcomp == IpComp(0x1234, 0x5678, 2)
    assert (transport.ipcomp, transport.mode, beet.mode) == (None, IpsecMode.TRANSPORT, IpsecMode.BEET)
    assert (compressed.upper_layer_protocol, transport.upper_layer_protocol, beet.upper_layer_protocol) == (0, 1, 0)
    assert (compressed.local_host, compressed.remote_host) == (
        HostAddress(IPv4Address("192.0.2.1"), 4500),
        HostAddress(CLIENT, 61000),
    )
    assert beet.proposal.extended_sequence_numbers
    assert {child.window.size for child in ipsec_sas(session)} == {64}


def test_what_is_not_exported_and_why() -> None:
    version_1 = daemon.ike_add(3)
    version_1 = replace(
        version_1,
        attributes=(
            HaAttribute(Attribute.IKE_ID, IkeSaId(1, spis_of(3), False)),
            *version_1.attributes[1:],
            HaAttribute(Attribute.PSK, b"pre-shared"),
        ),
    )
    tracker = tracked(
        [
            daemon.ike_add(1), daemon.child_add(1, 0x100),  # never authenticated
            daemon.ike_add(2), daemon.ike_update(2, (Attribute.CONDITIONS, 0x6000)),  # a PPK was used
            version_1, daemon.ike_update(3),
            daemon.ike_add(4), daemon.ike_update(4),
        ]
    )  # fmt: skip
    (session,) = tracker.sessions()
    assert [ike.spis for ike in ike_sas(session)] == [spis_of(4)]
    assert ipsec_sas(session) == []
    unknown, ppk, ikev1 = tracker.withheld()
    assert (unknown.kind, unknown.ike_spis) == (HaReportKind.NOT_ESTABLISHED, spis_of(1))
    assert "nor its 1 CHILD_SAs" in unknown.detail
    assert (ppk.kind, "RFC 8784" in ppk.detail) == (HaReportKind.UNSUPPORTED, True)
    assert (ikev1.kind, ikev1.detail) == (HaReportKind.UNSUPPORTED, "IKE version 1")
    # once rekeyed, SK_d is known whole again: the old one came as OLD_SKD
    tracker.apply(daemon.ike_add(5, rekeys=2), 20.0)
    assert [ike.spis for ike in ike_sas(tracker.sessions()[0])] == [spis_of(4), spis_of(5)]


def test_a_preshared_key_travels_as_credentials() -> None:
    (session,) = tracked([daemon.ike_add(1, (Attribute.PSK, b"key")), daemon.ike_update(1)]).sessions()
    assert ike_sas(session)[0].credentials == PresharedKey(b"key")


def test_a_child_whose_keys_nobody_can_make_is_withheld() -> None:
    unknown = (Attribute.ALG_ENCR, 1099)
    messages = [
        daemon.ike_add(1),
        daemon.ike_update(1),
        daemon.child_add(1, 0x100, unknown),
        daemon.child_add(1, 0x200),
        daemon.ike_add(2, rekeys=1),
    ]
    (session,) = tracked(messages).sessions()
    assert [child.inbound_spi for child in ipsec_sas(session)] == [0x100, 0x200]  # passed through untouched
    tracker = tracked([*messages, daemon.say(HaMessageType.IKE_DELETE, 1)])
    (session,) = tracker.sessions()
    assert [child.inbound_spi for child in ipsec_sas(session)] == [0x200]
    (report,) = tracker.withheld()
    assert (report.kind, report.inbound_spi) == (HaReportKind.UNSUPPORTED, 0x100)


def test_a_child_whose_keys_depend_on_a_ppk_is_withheld() -> None:
    """RFC 8784: the SECRET of the first IKE_SA does not give its SK_d; what it made would be wrong keys.  The
    IKE_SA that it was rekeyed into moves, for OLD_SKD is the true one, and so do the CHILD_SAs made under it."""
    messages = [
        daemon.ike_add(1),
        daemon.ike_update(1, (Attribute.CONDITIONS, 0x6000)),
        daemon.child_add(1, 0x100),
        daemon.ike_add(2, rekeys=1),
        daemon.child_add(2, 0x200),
    ]
    for more in ([], [daemon.say(HaMessageType.IKE_DELETE, 1)]):
        tracker = tracked([*messages, *more], keep_deleted=not more)
        (session,) = tracker.sessions()
        assert [ike.spis for ike in ike_sas(session)] == [spis_of(2)]
        assert [child.inbound_spi for child in ipsec_sas(session)] == [0x200]
        report = tracker.withheld()[-1]
        assert (report.kind, report.ike_spis, report.inbound_spi) == (HaReportKind.UNSUPPORTED, spis_of(2), 0x100)
        assert "PPK" in report.detail


def test_a_mobike_move_shows_with_the_next_rekey() -> None:
    """k-mobike: README.txt tells the addresses; no message tells of the move itself."""
    messages = recorded("k-mobike")
    adds = [n for n, message in enumerate(messages) if message.type is HaMessageType.IKE_ADD]
    (before,) = tracked(messages[: adds[1]], keep_deleted=True).sessions()
    assert before.mn_address == ip_address("192.0.2.100")
    (after,) = tracked(messages, keep_deleted=True).sessions()
    assert after.mn_address == ip_address("192.0.2.150")
    assert [str(ike.remote_host.address) for ike in ike_sas(after)] == ["192.0.2.100", "192.0.2.150"]


def test_oddities_are_reported_with_their_sa() -> None:
    other_keys = (*daemon.ike_add(1).attributes[:7], *daemon.ike_add(8).attributes[7:])
    tracker = tracked(
        [
            daemon.ike_update(9),
            daemon.ike_add(1),
            daemon.ike_update(1),
            daemon.child_add(1, 0x100),
            daemon.child_add(1, 0x100, (Attribute.NONCE_I, b"another nonce, of another CHILD_SA")),
            daemon.child_delete(1, 0x999),
            daemon.ike_add(2),
            daemon.child_delete(2, 0x100),
            daemon.child_add(1, 0x200, (Attribute.IPSEC_MODE, 9)),
            daemon.child_add(1, 0x300, without=frozenset({Attribute.ALG_ENCR})),
            daemon.child_add(1, 0x300, without=frozenset({Attribute.REMOTE_TS})),
            daemon.child_add(1, 0x300, without=frozenset({Attribute.INBOUND_SPI})),
            HaMessage(3, HaMessageType.IKE_DELETE),
            daemon.say(HaMessageType.IKE_ADD, 4, (Attribute.ALG_PRF, 5)),
            replace(daemon.ike_add(1), attributes=other_keys),
            daemon.ike_add(6, rekeys=77),
            daemon.say(HaMessageType.IKE_MID_INITIATOR, 1),
        ]
    )  # fmt: skip
    kinds = [report.kind.name for report in tracker.reports]
    assert kinds == [
        "UNKNOWN_IKE_SA",
        "CONFLICT",  # the inbound SPI is used anew
        "UNKNOWN_CHILD_SA",
        "CONFLICT",  # under another IKE_SA
        "UNSUPPORTED",
        "MISSING_ATTRIBUTE",
        "MISSING_ATTRIBUTE",
        "MISSING_ATTRIBUTE",
        "MISSING_ATTRIBUTE",
        "MISSING_ATTRIBUTE",
        "CONFLICT",  # other keys for the same SPIs
        "UNKNOWN_IKE_SA",  # its predecessor
        "MISSING_ATTRIBUTE",
    ]
    assert str(tracker.reports[2]) == (
        "IKE_SA 1111111111110001_i 2222222222220001_r CHILD_SA 00000999: UNKNOWN_CHILD_SA: its CHILD_ADD was not seen"
    )
    assert sum(tracker.counters.values()) == len(kinds)
    (session,) = tracker.sessions()
    (child,) = ipsec_sas(session)
    assert isinstance(child.keying, KeymatDerivation)
    assert child.keying.nonces.initiator == b"another nonce, of another CHILD_SA"
    keying = ike_sas(session)[0].keying
    assert isinstance(keying, SharedSecret)
    assert keying.shared_secret == b"secret\x01"  # the first stays


def test_messages_about_segments_are_counted_alone() -> None:
    segment = (HaAttribute(Attribute.SEGMENT, 1),)
    kinds = (HaMessageType.SEGMENT_TAKE, HaMessageType.STATUS, HaMessageType.RESYNC, HaMessageType.IKE_IV)
    tracker = tracked([HaMessage(3, kind, segment) for kind in kinds])
    assert dict(tracker.messages) == dict.fromkeys(kinds, 1)
    assert tracker.reports == ()
    assert tracker.sessions() == ()


def test_what_is_held_is_limited() -> None:
    limits = HaLimits(ike_sas=2, child_sas=3, reports=4, forgotten=1, addresses=2)
    tracker = tracked([daemon.ike_add(n) for n in range(1, 9)], limits=limits)
    assert tracker.counters == {HaReportKind.LIMIT: 6}
    assert len(tracker.reports) == 4
    vips = [(Attribute.REMOTE_VIP, HostAddress(IPv4Address(n))) for n in range(5)]
    tracker.apply(daemon.ike_update(1, *vips), 1.0)
    for spi in range(0x100, 0x110):
        tracker.apply(daemon.child_add(1, spi), 2.0)
    (session,) = tracker.sessions()
    assert len(ipsec_sas(session)) == 3
    addresses = vendor(ike_sas(session)[0])[0, CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES]
    assert addresses == (IPv4Address(0), IPv4Address(1))
    for number in (1, 2):
        tracker.apply(daemon.say(HaMessageType.IKE_DELETE, number), 3.0)
    tracker.apply(daemon.message_id(2, 9), 4.0)
    tracker.apply(daemon.message_id(1, 9), 5.0)  # forgotten by now
    assert [report.kind for report in tracker.reports[-2:]] == [HaReportKind.STALE, HaReportKind.UNKNOWN_IKE_SA]


def test_names_that_are_no_utf_8() -> None:
    name = b"b\xfcro".decode("utf-8", "surrogateescape")
    update = daemon.ike_update(1)
    attributes = tuple(replace(a, value=name) if a.attribute is Attribute.CONFIG_NAME else a for a in update.attributes)
    (session,) = tracked([daemon.ike_add(1), replace(update, attributes=attributes)]).sessions()
    (ike,) = ike_sas(session)
    assert ike.credentials == ConfiguredCredentials("b\\xfcro")
    assert vendor(ike)[0, CommonVendorNumber.CONNECTION_NAME] == "b\\xfcro"


def test_no_key_is_in_any_repr() -> None:
    messages = [daemon.ike_add(1, (Attribute.PSK, b"Ossifrage")), daemon.ike_update(1)]
    messages.append(daemon.child_add(1, 0x100, (Attribute.SECRET, b"Ossifrage"), (Attribute.ADD_SECRET, b"Ossifrage")))
    tracker = tracked(messages)
    shown = f"{messages} {tracker.sessions()} {vars(tracker)}"
    for secret in ("Ossifrage", "secret\\x01"):
        assert secret not in shown


def test_a_capture_with_other_datagrams_on_the_port(tmp_path: Path) -> None:
    from cxtp.adapters.capture import PcapWriter
    from cxtp.adapters.strongswan_ha import build_message

    path = tmp_path / "ha.pcap"
    gateway = IPv4Address("10.9.9.1")
    with PcapWriter(path) as writer:
        for payload in (b"junk", build_message(daemon.ike_add(1)), b"\5\1\xff", build_message(daemon.ike_update(1))):
            writer.write_udp(1.0, gateway, 4510, IPv4Address("10.9.9.2"), 4510, payload)
    tracker = read_ha_capture(path)
    assert len(tracker.sessions()) == 1
    first, second = tracker.reports
    assert (first.kind, first.detail) == (
        HaReportKind.MALFORMED,
        "packet 1: version 106 at octet 0: not spoken here",
    )
    assert "packet 3: attribute 255 at octet 2" in second.detail
