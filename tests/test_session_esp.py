"""ESP: RFC vectors, scapy as second witness for every algorithm that it has, bad input, sequence numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw
from session_examples import (
    INBOUND_SPI,
    OUTBOUND_SPI,
    esp_proposals,
    ipsec_context,
    keys_for,
    octets,
)

from contexts.algorithms import CipherKind, encryption, integrity
from contexts.session.esp import MAXIMUM_PAYLOAD, IpsecSaSession
from contexts.session.protection import protection
from contexts.session.security_association import Direction
from contexts.values import AntiReplayWindow, CounterKnowledge, IpsecKeys, IpsecProposal, SequenceNumbers
from cxtp.constants import SecurityProtocol
from cxtp.errors import (
    IntegrityError,
    LocalError,
    MalformedContext,
    ProtectionError,
    ReplayError,
    UnsupportedAlgorithm,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "rfc_keys_and_packets.json").read_text(encoding="utf-8")
)
HIGH = 1 << 32
EXACT_HIGH = SequenceNumbers(outbound=5 * HIGH + 40, inbound=7 * HIGH + 40)
PROPOSALS = list(esp_proposals()) + list(esp_proposals(extended=True))
each_proposal = pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda proposal: proposal.name)
INNER = bytes(IP(src="10.3.0.1", dst="10.1.0.1") / ICMP(id=7, seq=3) / Raw(octets(37)))


def session_for(proposal: IpsecProposal, **changes: Any) -> IpsecSaSession:
    if proposal.extended_sequence_numbers and "sequence_numbers" not in changes:
        changes["sequence_numbers"] = EXACT_HIGH
    return IpsecSaSession(ipsec_context(proposal, keys_for(proposal), **changes), keys_for(proposal))


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# --- RFC vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["gcm_esp"]["cases"])
def test_gcm_test_cases(case: dict[str, str]) -> None:
    """draft-mcgrew-gcm-test-01: ESP packets with and without ESN, tags of 16 octets and cut to 8 and 12."""
    nonce, plaintext, icv = unhex(case["nonce"]), unhex(case["plaintext"]), unhex(case["icv"])
    associated = unhex(case["associated"])
    for number, icv_octets in ((20, 16), (19, 12), (18, 8)):
        guard = protection(encryption(number), unhex(case["key"]) + nonce[:4], None, b"")
        body = nonce[4:] + unhex(case["ciphertext"]) + icv[:icv_octets]
        assert guard.seal(b"", associated, plaintext, nonce[4:]) == body
        assert guard.open(b"", associated, body) == plaintext


@pytest.mark.parametrize("case", [case for case in VECTORS["gcm_esp"]["cases"] if case["plaintext"].startswith("45")])
def test_gcm_test_cases_are_esp_packets(case: dict[str, str]) -> None:
    """The same through a session: SPI, sequence number and inner packet are the draft's."""
    associated, nonce = unhex(case["associated"]), unhex(case["nonce"])
    extended = len(associated) == 12
    spi, number = int.from_bytes(associated[:4], "big"), int.from_bytes(associated[4:], "big")
    proposal = IpsecProposal(SecurityProtocol.ESP, 20, len(case["key"]) * 4, 0, 0, extended)
    keys = IpsecKeys(unhex(case["key"]) + nonce[:4], b"", unhex(case["key"]) + nonce[:4], b"")
    context = ipsec_context(proposal, keys, inbound_spi=spi, sequence_numbers=SequenceNumbers(inbound=number - 1))
    packet = associated[:4] + associated[-4:] + nonce[4:] + unhex(case["ciphertext"]) + unhex(case["icv"])
    opened = IpsecSaSession(context, keys).open_inbound(packet)
    plaintext = unhex(case["plaintext"])
    inner = plaintext[: len(plaintext) - 2 - plaintext[-2]]
    assert (opened.spi, opened.sequence_number, opened.next_header) == (spi, number, plaintext[-1])
    assert opened.payload + bytes(opened.tfc_octets) == inner


@pytest.mark.parametrize("case", VECTORS["ctr_esp"]["cases"])
def test_ctr_test_vectors(case: dict[str, str]) -> None:
    guard = protection(encryption(13), unhex(case["key"]) + unhex(case["nonce"]), integrity(2), bytes(20))
    iv, ciphertext = unhex(case["iv"]), unhex(case["ciphertext"])
    sealed = guard.seal(b"header", b"", unhex(case["plaintext"]), iv)
    assert sealed[:-12] == iv + ciphertext
    assert guard.open(b"header", b"", sealed) == unhex(case["plaintext"])


def test_chacha20_poly1305_example() -> None:
    """RFC 7634, appendix A."""
    vector = VECTORS["chacha20_poly1305"]
    keys = IpsecKeys(unhex(vector["key"]), b"", unhex(vector["key"]), b"")
    proposal = IpsecProposal(SecurityProtocol.ESP, 28, 0, 0, 0)
    packet = unhex(vector["esp_in_ip"])[20:]
    numbers = SequenceNumbers(outbound=4, inbound=4)
    context = ipsec_context(proposal, keys, inbound_spi=0x01020304, outbound_spi=0x01020304, sequence_numbers=numbers)
    session = IpsecSaSession(context, keys)
    assert session.seal_outbound(unhex(vector["inner"]), 4, unhex(vector["iv"])) == packet
    opened = session.open_inbound(packet)
    assert (opened.sequence_number, opened.next_header, opened.payload.hex()) == (5, 4, vector["inner"])


def reference_ccm(key: bytes, nonce: bytes, associated: bytes, plaintext: bytes, icv_octets: int) -> bytes:
    """CCM from RFC 3610's formulas and AES alone (L = 4 with ESP's nonce of 11 octets: RFC 4309, 4)."""

    def aes(block: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    def xor(a: bytes, b: bytes) -> bytes:
        return bytes(x ^ y for x, y in zip(a, b, strict=False))

    flags = 0x40 | (icv_octets - 2) // 2 << 3 | 3
    blocks = bytes([flags]) + nonce + len(plaintext).to_bytes(4, "big")
    header = len(associated).to_bytes(2, "big") + associated
    blocks += header + bytes(-len(header) % 16) + plaintext + bytes(-len(plaintext) % 16)
    state = bytes(16)
    for at in range(0, len(blocks), 16):
        state = aes(xor(state, blocks[at : at + 16]))
    stream = b"".join(aes(b"\3" + nonce + counter.to_bytes(4, "big")) for counter in range(len(plaintext) // 16 + 2))
    return xor(plaintext, stream[16:]) + xor(state[:icv_octets], stream)


@pytest.mark.parametrize(("number", "icv_octets"), [(14, 8), (15, 12), (16, 16)])
@pytest.mark.parametrize("key_octets", [16, 24, 32])
def test_ccm_is_its_formula(number: int, icv_octets: int, key_octets: int) -> None:
    key, salt, iv, associated, plaintext = octets(key_octets), octets(3, 9), octets(8, 5), octets(12), octets(77)
    guard = protection(encryption(number), key + salt, None, b"")
    expected = iv + reference_ccm(key, salt + iv, associated, plaintext, icv_octets)
    assert guard.seal(b"", associated, plaintext, iv) == expected


# --- scapy ------------------------------------------------------------------------------------------------------

SCAPY_CIPHERS = {
    CipherKind.NULL: "NULL",
    CipherKind.TRIPLE_DES_CBC: "3DES",
    CipherKind.AES_CBC: "AES-CBC",
    CipherKind.AES_CTR: "AES-CTR",
    CipherKind.AES_CCM: "AES-CCM",
    CipherKind.AES_GCM: "AES-GCM",
    CipherKind.AES_GMAC: "AES-NULL-GMAC",
    CipherKind.CHACHA20_POLY1305: "CHACHA20-POLY1305",
}
SCAPY_MACS = {
    0: None,
    2: "HMAC-SHA1-96",
    8: "AES-CMAC-96",
    12: "SHA2-256-128",
    13: "SHA2-384-192",
    14: "SHA2-512-256",
}


def scapy_knows(proposal: IpsecProposal) -> bool:
    # AES-XCBC-96 is missing; its AES-GCM has tags of 16 octets only
    return proposal.integrity in SCAPY_MACS and proposal.encryption not in (18, 19)


def scapy_association(proposal: IpsecProposal, spi: int, key: bytes, integrity_key: bytes, **more: Any) -> Any:
    assert proposal.encryption is not None
    cipher = encryption(proposal.encryption)
    return SecurityAssociation(
        ESP,
        spi=spi,
        crypt_algo=SCAPY_CIPHERS[cipher.kind],
        crypt_key=key or None,
        crypt_icv_size=cipher.icv_octets or None,
        auth_algo=SCAPY_MACS[proposal.integrity],
        auth_key=integrity_key or None,
        **more,
    )


SCAPY_PROPOSALS = [proposal for proposal in PROPOSALS if scapy_knows(proposal)]
TUNNELS = {
    4: IP(src="192.0.2.100", dst="192.0.2.1"),
    6: IPv6(src="2001:db8::100", dst="2001:db8::1"),
}


@pytest.mark.parametrize("proposal", SCAPY_PROPOSALS, ids=lambda proposal: proposal.name)
@pytest.mark.parametrize("outer", [4, 6])
def test_scapy_seals_and_we_open(proposal: IpsecProposal, outer: int) -> None:
    keys, session = keys_for(proposal), session_for(proposal)
    number = (session.sequence.windows[Direction.INBOUND].highest or 0) + 5
    peer = scapy_association(
        proposal, INBOUND_SPI, keys.inbound_encryption, keys.inbound_integrity, tunnel_header=TUNNELS[outer]
    )
    packet = peer.encrypt(
        IP(INNER),
        seq_num=number % HIGH,
        esn_en=proposal.extended_sequence_numbers,
        esn=number // HIGH,
    )
    opened = session.open_inbound(bytes(packet[ESP]))
    assert (opened.sequence_number, opened.next_header, opened.payload) == (number, 4, INNER)


@pytest.mark.parametrize("proposal", SCAPY_PROPOSALS, ids=lambda proposal: proposal.name)
def test_we_seal_and_scapy_opens(proposal: IpsecProposal) -> None:
    keys, session = keys_for(proposal), session_for(proposal)
    sealed = session.seal_outbound(INNER, 4, octets(session.iv_octets, 3))
    number = session.sequence.counter.last
    peer = scapy_association(
        proposal,
        OUTBOUND_SPI,
        keys.outbound_encryption,
        keys.outbound_integrity,
        tunnel_header=IP(src="192.0.2.1", dst="192.0.2.100"),
    )
    outer = IP(bytes(IP(src="192.0.2.1", dst="192.0.2.100", proto=50) / Raw(sealed)))
    assert outer[ESP].seq == number % HIGH
    inner = peer.decrypt(outer, esn_en=proposal.extended_sequence_numbers, esn=number // HIGH)
    assert bytes(inner) == INNER


@pytest.mark.parametrize(
    "proposal", [p for p in SCAPY_PROPOSALS if p.encryption in (12, 20)], ids=lambda proposal: proposal.name
)
def test_transport_mode_and_udp_with_scapy(proposal: IpsecProposal) -> None:
    keys, session = keys_for(proposal), session_for(proposal)
    udp = scapy_association(
        proposal,
        INBOUND_SPI,
        keys.inbound_encryption,
        keys.inbound_integrity,
        nat_t_header=UDP(sport=4500, dport=4500),
    )
    inner = IP(src="192.0.2.100", dst="192.0.2.1") / ICMP(id=1, seq=2) / Raw(octets(20))
    number = (session.sequence.windows[Direction.INBOUND].highest or 0) + 9
    extended = proposal.extended_sequence_numbers
    packet = udp.encrypt(inner, seq_num=number % HIGH, esn_en=extended, esn=number // HIGH)
    opened = session.open_inbound(bytes(packet[UDP].payload))
    assert (opened.sequence_number, opened.next_header) == (number, 1)
    assert opened.payload == bytes(inner[ICMP])


# --- round trips and bad input ----------------------------------------------------------------------------------


@each_proposal
def test_what_is_sealed_opens(proposal: IpsecProposal) -> None:
    for size in (0, 1, 2, 13, 14, 15, 16, 17, 1400):
        session, payload = session_for(proposal), octets(size, 2)
        sealed = session.seal_outbound(payload, 17, octets(session.iv_octets, size))
        assert len(sealed) % 4 == 0
        opened = session.open_outbound(sealed)
        assert (opened.payload, opened.next_header, opened.tfc_octets) == (payload, 17, 0)
        with pytest.raises(ReplayError):
            session.open_outbound(sealed)


@each_proposal
def test_one_bit_flipped(proposal: IpsecProposal) -> None:
    session = session_for(proposal)
    first = session.sequence.counter.last + 1
    sealed = session.seal_outbound(b"payload", 17, octets(session.iv_octets))
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(ProtectionError):
            session.open_outbound(bytes(flipped))
    assert session.open_outbound(sealed).sequence_number == first  # none of them moved the window


@each_proposal
def test_cut_at_every_length(proposal: IpsecProposal) -> None:
    session = session_for(proposal)
    sealed = session.seal_outbound(b"payload", 17, octets(session.iv_octets))
    for length in range(len(sealed)):
        with pytest.raises(ProtectionError):
            session.open_outbound(sealed[:length])
    with pytest.raises(ProtectionError):
        session.open_outbound(sealed + b"\0")


CBC = IpsecProposal(SecurityProtocol.ESP, 12, 128, 12, 0)
GCM = IpsecProposal(SecurityProtocol.ESP, 20, 128, 0, 0)
ESN = replace(GCM, extended_sequence_numbers=True)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\4",
        b"payload\2\1\2\4",  # padding 2, 1
        b"payload\1\3\2\4",
        b"abc\xff\4",  # padding longer than the packet
        b"\1\2\3\4\4",
    ],
)
def test_a_trailer_that_is_none(plaintext: bytes) -> None:
    keys = keys_for(GCM)
    guard = protection(encryption(20), keys.inbound_encryption, None, b"")
    header = INBOUND_SPI.to_bytes(4, "big") + (1).to_bytes(4, "big")
    packet = header + guard.seal(header, header, plaintext, bytes(8))
    with pytest.raises(ProtectionError):
        session_for(GCM).open_inbound(packet)


def test_another_spi() -> None:
    session = session_for(GCM)
    sealed = session.seal_outbound(INNER, 4, bytes(8))
    with pytest.raises(ProtectionError):
        session.open_inbound(sealed)


def test_the_two_directions_have_their_own_keys() -> None:
    session = session_for(GCM)
    sealed = session.seal_outbound(INNER, 4, bytes(8))
    with pytest.raises(IntegrityError):
        session.open_inbound(INBOUND_SPI.to_bytes(4, "big") + sealed[4:])


@pytest.mark.parametrize("inner", [INNER, bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP() / Raw(b"x" * 9))])
def test_traffic_flow_padding_comes_off_in_tunnel_mode(inner: bytes) -> None:
    session, next_header = session_for(GCM), 4 if inner[0] >> 4 == 4 else 41
    opened = session.open_outbound(session.seal_outbound(inner, next_header, bytes(8), tfc_octets=100))
    assert (opened.payload, opened.tfc_octets) == (inner, 100)


def test_traffic_flow_padding_stays_where_no_length_tells() -> None:
    session = session_for(GCM)
    opened = session.open_outbound(session.seal_outbound(b"payload", 17, bytes(8), tfc_octets=3))
    assert (opened.payload, opened.tfc_octets) == (b"payload\0\0\0", 0)


@pytest.mark.parametrize(
    "inner", [b"", b"\x45", b"\x45\0\xff\xff" + bytes(30), b"\x45\0\0\4" + bytes(30), b"\x65" * 40]
)
def test_an_inner_packet_with_a_false_length_is_left_as_it_is(inner: bytes) -> None:
    session = session_for(GCM)
    assert session.open_outbound(session.seal_outbound(inner, 4, bytes(8))).payload == inner


def test_sealing_what_can_not_be() -> None:
    session = session_for(GCM)
    for payload, next_header, iv, tfc_octets in (
        (b"", 256, bytes(8), 0),
        (b"", -1, bytes(8), 0),
        (b"", 4, bytes(7), 0),
        (b"", 4, bytes(8), -1),
        (bytes(MAXIMUM_PAYLOAD + 1), 4, bytes(8), 0),
        (bytes(MAXIMUM_PAYLOAD), 4, bytes(8), 1),
    ):
        with pytest.raises(LocalError):
            session.seal_outbound(payload, next_header, iv, tfc_octets=tfc_octets)
    assert session.sequence.counter.last == 0  # nothing was used up
    for number in (-1, HIGH):
        with pytest.raises(LocalError):
            session.seal_inbound(b"", 4, bytes(8), number)


def test_keys_that_do_not_fit() -> None:
    with pytest.raises(MalformedContext):
        IpsecSaSession(ipsec_context(GCM, keys_for(GCM)), keys_for(CBC))


def test_ah_is_not_esp() -> None:
    proposal = IpsecProposal(SecurityProtocol.AH, None, 0, 12, 0)
    with pytest.raises(UnsupportedAlgorithm):
        IpsecSaSession(ipsec_context(proposal, keys_for(proposal)), keys_for(proposal))


# --- sequence numbers -------------------------------------------------------------------------------------------


def test_a_restored_counter_goes_on() -> None:
    session = session_for(GCM, sequence_numbers=SequenceNumbers(outbound=1000))
    for expected in (1001, 1002):
        sealed = session.seal_outbound(INNER, 4, expected.to_bytes(8, "big"))
        assert int.from_bytes(sealed[4:8], "big") == expected


@pytest.mark.parametrize("knowledge", [CounterKnowledge.UNKNOWN, CounterKnowledge.AT_LEAST])
def test_nothing_is_sealed_under_an_inexact_counter(knowledge: CounterKnowledge) -> None:
    session = session_for(GCM, sequence_numbers=SequenceNumbers(outbound=10, knowledge=knowledge))
    with pytest.raises(LocalError):
        session.seal_outbound(INNER, 4, bytes(8))
    session.sequence.counter.advance(1 << 30)
    assert int.from_bytes(session.seal_outbound(INNER, 4, bytes(8))[4:8], "big") == (1 << 30) + 1


def test_a_packet_of_the_old_owner_raises_the_counter() -> None:
    numbers = SequenceNumbers(outbound=10, inbound=10, knowledge=CounterKnowledge.UNKNOWN)
    old_owner = session_for(GCM, sequence_numbers=SequenceNumbers(outbound=5000))
    session = session_for(GCM, sequence_numbers=numbers)
    session.open_outbound(old_owner.seal_outbound(INNER, 4, bytes(8)))
    assert session.sequence.counter.last == 5001
    with pytest.raises(LocalError):
        session.sequence.counter.advance(5000)


def test_the_window_of_the_context() -> None:
    # highest 100, and 98 received too
    session = session_for(GCM, sequence_numbers=SequenceNumbers(inbound=100), window=AntiReplayWindow(32, 0b101))
    for number, fresh in ((100, False), (98, False), (68, False), (69, True), (99, True), (101, True)):
        packet = session.seal_inbound(INNER, 4, number.to_bytes(8, "big"), number)
        if fresh:
            assert session.open_inbound(packet).sequence_number == number
        with pytest.raises(ReplayError):
            session.open_inbound(packet)
        assert session.open_inbound(packet, replays=False).sequence_number == number


@pytest.mark.parametrize("base", [ESN, replace(CBC, extended_sequence_numbers=True)], ids=["aead", "separate"])
def test_extended_numbers_across_the_subspaces(base: IpsecProposal) -> None:
    session = session_for(base, sequence_numbers=SequenceNumbers(inbound=3 * HIGH - 2))
    iv = bytes(session.iv_octets)
    for number in (3 * HIGH - 1, 3 * HIGH + 1, 3 * HIGH, 3 * HIGH - 20, 3 * HIGH + 2000):
        packet = session.seal_inbound(INNER, 4, iv, number)
        assert int.from_bytes(packet[4:8], "big") == number % HIGH
        assert session.open_inbound(packet).sequence_number == number
    with pytest.raises(IntegrityError):  # a whole subspace away
        session.open_inbound(session.seal_inbound(INNER, 4, iv, 5 * HIGH + 3000))


def test_an_old_extended_counter_is_resynchronised() -> None:
    numbers = SequenceNumbers(inbound=3 * HIGH + 10, knowledge=CounterKnowledge.AT_LEAST)
    session = session_for(ESN, sequence_numbers=numbers)
    packet = session.seal_inbound(INNER, 4, bytes(8), 9 * HIGH + 5)
    assert session.open_inbound(packet).sequence_number == 9 * HIGH + 5
    assert session.sequence.windows[Direction.INBOUND].highest == 9 * HIGH + 5
