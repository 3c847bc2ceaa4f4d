"""IKEv2 messages: RFC 7634's example, tshark as second witness, fragments, key generations, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_examples import NONCES, SPIS, ike_context, octets

from contexts.algorithms import ENCRYPTION, CipherKind
from contexts.keys import ike_key_generations
from contexts.session.ike import MAXIMUM_FRAGMENTED_MESSAGES, MAXIMUM_FRAGMENTS, IkeSaSession
from contexts.session.ike_message import (
    MAXIMUM_MESSAGE,
    MAXIMUM_PAYLOADS,
    IkeHeader,
    IkePayloadItem,
    build_header,
    build_payloads,
    parse_header,
    parse_payloads,
    split_message,
)
from contexts.values import DerivedKeys, IkeKeys, IkeProposal, IkeSpis, SharedSecret
from cxtp.constants import IkeExchange, IkePayload
from cxtp.errors import IntegrityError, LocalError, ProtectionError, UnsupportedAlgorithm

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "rfc_keys_and_packets.json").read_text(encoding="utf-8")
)
INFORMATIONAL = IkeExchange.INFORMATIONAL
NOTIFY = IkePayloadItem(IkePayload.NOTIFY, bytes.fromhex("000040010000000a"))
PAYLOADS = (NOTIFY, IkePayloadItem(IkePayload.VENDOR_ID, b"some vendor", critical=True), IkePayloadItem(200, b""))


def ike_proposals() -> Iterator[IkeProposal]:
    macs = [2, 5, 12, 8, 13, 14]
    for count, cipher in enumerate(each for each in ENCRYPTION.values() if each.ike):
        for key_octets in cipher.key_octets:
            bits = key_octets * 8 if len(cipher.key_octets) > 1 else 0
            chosen = [0] if cipher.aead else macs if (cipher.number, bits) == (12, 128) else [macs[count % 6]]
            for mac in chosen:
                yield IkeProposal(cipher.number, bits, mac, 0, 5, 19)


PROPOSALS = list(ike_proposals())
each_proposal = pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda proposal: proposal.name)
GCM = IkeProposal(20, 256, 0, 0, 5, 19)
CBC = IkeProposal(12, 128, 12, 0, 5, 19)


def session_for(proposal: IkeProposal, *, initiator: bool = False, updates: int = 0) -> IkeSaSession:
    additional = tuple(octets(32, 60 + n) for n in range(updates))
    keying = SharedSecret(octets(32, 4), NONCES, additional_secrets=additional)
    return IkeSaSession(ike_context(proposal, keying, initiator=initiator))


# --- witnesses --------------------------------------------------------------------------------------------------


def test_chacha20_poly1305_example() -> None:
    """RFC 7634, appendix B; its flags octet is 00: the original responder asks."""
    vector = VECTORS["chacha20_poly1305"]
    key, message = bytes.fromhex(vector["key"]), bytes.fromhex(vector["ike"])
    spis = IkeSpis(0xC0C1C2C3C4C5C6C7, 0xD0D1D2D3D4D5D6D7)
    keying = DerivedKeys(IkeKeys(bytes(32), b"", b"", octets(36), key))
    session = IkeSaSession(ike_context(IkeProposal(28, 0, 0, 0, 5, 31), keying, spis=spis))
    opened = session.open(message)
    assert opened is not None
    assert (opened.payloads, opened.header.message_id) == ((NOTIFY,), 9)
    assert not opened.header.from_initiator
    assert session.seal(INFORMATIONAL, 9, [NOTIFY], bytes.fromhex(vector["iv"])) == message


TSHARK_CIPHERS = {
    CipherKind.TRIPLE_DES_CBC: "3DES [RFC2451]",
    CipherKind.AES_CBC: "AES-CBC-{bits} [RFC3602]",
    CipherKind.AES_CTR: "AES-CTR-{bits} [RFC5930]",
    CipherKind.AES_CCM: "AES-CCM-{bits} with {icv} octet ICV [RFC5282]",
    CipherKind.AES_GCM: "AES-GCM-{bits} with {icv} octet ICV [RFC5282]",
}
TSHARK_MACS = {
    0: "NONE [RFC4306]",
    2: "HMAC_SHA1_96 [RFC2404]",
    12: "HMAC_SHA2_256_128 [RFC4868]",
    13: "HMAC_SHA2_384_192 [RFC4868]",
    14: "HMAC_SHA2_512_256 [RFC4868]",
}


def pcap_of(datagrams: list[bytes]) -> bytes:
    """A pcap file of raw IPv4 packets, UDP port 500."""
    file = bytes.fromhex("a1b2c3d4 0002 0004 00000000 00000000 00040000 000000e4")
    for index, datagram in enumerate(datagrams):
        udp = b"\x01\xf4\x01\xf4" + (8 + len(datagram)).to_bytes(2, "big") + b"\0\0" + datagram
        # a client of its own for each SA: tshark keeps the keys per pair of addresses
        hosts = bytes([192, 0, 2, 1, 198, 51, 100, index // 2])
        ip = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0" + hosts
        record = ip + udp
        file += index.to_bytes(4, "big") + bytes(4) + len(record).to_bytes(4, "big") * 2 + record
    return file


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_opens_what_we_seal(tmp_path: Path) -> None:
    """Each suite that tshark knows, both directions."""
    table, datagrams = [], []
    for index, proposal in enumerate(PROPOSALS):
        cipher = ENCRYPTION[proposal.encryption]
        if cipher.kind not in TSHARK_CIPHERS or proposal.integrity not in TSHARK_MACS:
            continue
        spis = IkeSpis(0x1000 + index, 0x2000 + index)
        keying = SharedSecret(octets(32, 4), NONCES)
        session = IkeSaSession(ike_context(proposal, keying, spis=spis))
        keys = session.keys
        name = TSHARK_CIPHERS[cipher.kind].format(bits=proposal.encryption_key_length, icv=cipher.icv_octets)
        secrets = [key.hex() for key in (keys.sk_ei, keys.sk_er)]
        macs = [key.hex() or '""' for key in (keys.sk_ai, keys.sk_ar)]
        table.append(
            f'{spis.initiator:016x},{spis.responder:016x},{secrets[0]},{secrets[1]},"{name}",'
            f'{macs[0]},{macs[1]},"{TSHARK_MACS[proposal.integrity]}"\n'
        )
        for as_peer in (False, True):
            iv = octets(session.iv_octets, index)
            datagrams.append(session.seal(INFORMATIONAL, 7, [NOTIFY], iv, as_peer=as_peer))
    (tmp_path / "ikev2_decryption_table").write_text("".join(table))
    (tmp_path / "sealed.pcap").write_bytes(pcap_of(datagrams))
    shown = subprocess.run(
        ["tshark", "-r", str(tmp_path / "sealed.pcap"), "-T", "json", "-J", "isakmp", "--no-duplicate-keys"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WIRESHARK_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    packets = json.loads(shown)
    assert len(packets) == len(datagrams) > 30
    for packet in packets:
        text = json.dumps(packet)
        assert "isakmp.notify.msgtype" in text  # the payload inside was seen
        assert '"isakmp.notify.msgtype": "16385"' in text  # SET_WINDOW_SIZE
        assert "incorrect" not in text


# --- round trips ------------------------------------------------------------------------------------------------


@each_proposal
@pytest.mark.parametrize("initiator", [True, False])
def test_what_is_sealed_opens(proposal: IkeProposal, initiator: bool) -> None:
    session, peer = session_for(proposal, initiator=initiator), session_for(proposal, initiator=not initiator)
    iv = octets(session.iv_octets, 9)
    message = session.seal(IkeExchange.CREATE_CHILD_SA, 3, PAYLOADS, iv, response=True)
    for opener in (session, peer):
        opened = opener.open(message)
        assert opened is not None
        assert (opened.payloads, opened.clear_payloads, opened.fragments) == (PAYLOADS, (), 1)
        header = opened.header
        assert (header.exchange_type, header.message_id, header.response) == (36, 3, True)
        assert header.from_initiator is initiator
        assert header.length == len(message)
    assert peer.seal(IkeExchange.CREATE_CHILD_SA, 3, PAYLOADS, iv, response=True, as_peer=True) == message


@each_proposal
def test_one_bit_flipped(proposal: IkeProposal) -> None:
    session = session_for(proposal)
    message = session.seal(INFORMATIONAL, 3, [NOTIFY], octets(session.iv_octets))
    for bit in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(ProtectionError):
            session.open(bytes(flipped))


@each_proposal
def test_cut_at_every_length(proposal: IkeProposal) -> None:
    session = session_for(proposal)
    message = session.seal(INFORMATIONAL, 3, PAYLOADS, octets(session.iv_octets))
    for length in range(len(message)):
        with pytest.raises(ProtectionError):
            session.open(message[:length])
        if length >= 28:  # with the header's length as cut, too
            with pytest.raises(ProtectionError):
                session.open(message[:24] + length.to_bytes(4, "big") + message[28:length])
    opened = session.open(message + b"octets after the message")
    assert opened is not None
    assert opened.payloads == PAYLOADS


def test_an_empty_message() -> None:
    session = session_for(GCM)
    opened = session.open(session.seal(INFORMATIONAL, 1, [], bytes(8)))
    assert opened is not None
    assert opened.payloads == ()


@pytest.mark.parametrize("proposal", [GCM, CBC], ids=["aead", "separate"])
def test_payloads_in_the_clear_before_the_protected_one(proposal: IkeProposal) -> None:
    """RFC 7296, 3.14 allows them; they are authenticated (RFC 5282, 5.1)."""
    session = session_for(proposal)
    message = session.seal(INFORMATIONAL, 1, [NOTIFY], bytes(session.iv_octets))
    clear = b"\x2e\0\0\x09clear"  # put in by somebody on the way
    length = (len(message) + len(clear)).to_bytes(4, "big")
    with pytest.raises(IntegrityError):
        session.open(message[:16] + b"\x2b" + message[17:24] + length + clear + message[28:])


@pytest.mark.parametrize(
    "plaintext", [b"", b"\x01", b"\xff", b"\0\0\0\x09\0", b"\0\0\0\x03\0", b"\x2e\0\0\4\0\0\0\4\0"]
)
def test_an_inside_that_is_no_chain(plaintext: bytes) -> None:
    session = session_for(GCM)
    guard = session._protections[-1][False]
    length = 32 + 8 + len(plaintext) + 16
    header = build_header(IkeHeader(SPIS, 46, INFORMATIONAL, 0, 1, length))
    header += b"\x29\0" + (length - 28).to_bytes(2, "big")
    with pytest.raises(ProtectionError):
        session.open(header + guard.seal(header, header, plaintext, bytes(8)))


def test_random_padding_is_taken() -> None:
    """IKE's padding may hold anything, and be longer than need be (RFC 7296, 3.14)."""
    session = session_for(GCM)
    guard = session._protections[-1][False]
    plaintext = b"\0\0\0\x08abcd" + b"\x99" * 200 + b"\xc8"
    length = 32 + 8 + len(plaintext) + 16
    header = build_header(IkeHeader(SPIS, 46, INFORMATIONAL, 0, 1, length))
    header += b"\x29\0" + (length - 28).to_bytes(2, "big")
    opened = session.open(header + guard.seal(header, header, plaintext, bytes(8)))
    assert opened is not None
    assert opened.payloads == (IkePayloadItem(41, b"abcd"),)


def test_messages_of_no_concern() -> None:
    session = session_for(GCM)
    message = session.seal(INFORMATIONAL, 1, [NOTIFY], bytes(8))
    with pytest.raises(ProtectionError):  # another SA's
        session.open(bytes(8) + message[8:])
    first, chain = build_payloads([NOTIFY])
    clear = build_header(IkeHeader(SPIS, first, 34, 8, 0, 28 + len(chain))) + chain
    with pytest.raises(ProtectionError):  # nothing protected
        session.open(clear)
    with pytest.raises(ProtectionError):  # IKEv1
        session.open(message[:17] + b"\x10" + message[18:])


def test_null_protects_no_ike_sa() -> None:
    with pytest.raises(UnsupportedAlgorithm):
        session_for(IkeProposal(11, 0, 12, 0, 5, 19))


# --- generations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", [GCM, CBC], ids=["aead", "separate"])
def test_ike_intermediate_opens_with_the_keys_of_its_time(proposal: IkeProposal) -> None:
    session = session_for(proposal, updates=2)
    context = session.context
    generations = ike_key_generations(context.keying, proposal, context.spis)
    assert len(generations) == 3
    for index in range(3):
        then = IkeSaSession(context, generations[: index + 1])
        message = then.seal(IkeExchange.IKE_INTERMEDIATE, 1 + index, [NOTIFY], bytes(session.iv_octets))
        opened = session.open(message)
        assert opened is not None
        assert (opened.generation, opened.payloads) == (index, (NOTIFY,))
    latest_only = IkeSaSession(context, generations[-1:])
    old = IkeSaSession(context, generations[:1]).seal(43, 1, [NOTIFY], bytes(session.iv_octets))
    with pytest.raises(IntegrityError):
        latest_only.open(old)
    with pytest.raises(LocalError):
        IkeSaSession(context, ())


# --- fragments (RFC 7383) ---------------------------------------------------------------------------------------

BIG = (IkePayloadItem(IkePayload.CERTIFICATE, octets(3000, 1)), NOTIFY, IkePayloadItem(IkePayload.NOTIFY, octets(500)))


def vectors(session: IkeSaSession) -> Iterator[bytes]:
    for count in range(1 << 16):
        yield count.to_bytes(session.iv_octets, "big")


def fragments_of(session: IkeSaSession, octets_each: int = 600, message_id: int = 1) -> tuple[bytes, ...]:
    return session.seal_fragments(35, message_id, BIG, vectors(session), fragment_octets=octets_each, as_peer=True)


@each_proposal
def test_fragments_join_in_any_order(proposal: IkeProposal) -> None:
    session = session_for(proposal)
    fragments = fragments_of(session)
    assert len(fragments) > 5
    assert max(map(len, fragments)) <= 600
    for order in (fragments, fragments[::-1], fragments[3:] + fragments[:3]):
        *early, last = order
        assert [session.open(fragment) for fragment in early] == [None] * len(early)
        assert session.open(early[0]) is None  # sent again
        opened = session.open(last)
        assert opened is not None
        assert (opened.payloads, opened.fragments) == (BIG, len(fragments))
        header, _, protected = split_message(fragments[0])
        assert opened.header == header
        assert protected is not None
        assert (protected.type, protected.first_inner) == (53, IkePayload.CERTIFICATE)


def test_fragments_as_the_rfc_draws_them() -> None:
    session = session_for(CBC)
    for number, fragment in enumerate(fragments_of(session), 1):
        # header's next payload 53; SKF: inner type in the first only; then fragment number, total
        assert fragment[16] == 53
        assert fragment[28] == (37 if number == 1 else 0)
        assert int.from_bytes(fragment[32:34], "big") == number
        assert int.from_bytes(fragment[34:36], "big") == len(fragments_of(session))
        assert int.from_bytes(fragment[24:28], "big") == len(fragment)


@pytest.mark.parametrize("proposal", [GCM, CBC], ids=["aead", "separate"])
def test_a_forged_fragment_is_not_kept(proposal: IkeProposal) -> None:
    session = session_for(proposal)
    fragments = fragments_of(session)
    for bit in range(0, len(fragments[0]) * 8, 7):
        forged = bytearray(fragments[0])
        forged[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(ProtectionError):
            session.open(bytes(forged))
    for fragment in fragments[:-1]:
        assert session.open(fragment) is None
    opened = session.open(fragments[-1])
    assert opened is not None
    assert opened.payloads == BIG


def test_smaller_fragments_replace_larger_ones() -> None:
    """RFC 7383, 2.5.2 and 2.6: the set with the higher total wins, the older one's fragments are ignored."""
    session = session_for(GCM)
    large, small = fragments_of(session, 1400), fragments_of(session, 600)
    assert session.open(large[0]) is None
    assert session.open(small[0]) is None
    assert [session.open(fragment) for fragment in large] == [None] * len(large)
    results = [session.open(fragment) for fragment in small[1:]]
    assert results[:-1] == [None] * (len(small) - 2)
    assert results[-1] is not None


def test_only_a_few_messages_are_awaited() -> None:
    session = session_for(GCM)
    sets = [fragments_of(session, message_id=number) for number in range(MAXIMUM_FRAGMENTED_MESSAGES + 1)]
    for fragments in sets:
        for fragment in fragments[:-1]:
            assert session.open(fragment) is None
    assert session.open(sets[0][-1]) is None  # given up for the fifth
    assert session.open(sets[-1][-1]) is not None


def test_a_message_of_fragments_has_a_limit() -> None:
    session = session_for(GCM)
    chain = (IkePayloadItem(41, bytes(60_000)), IkePayloadItem(41, bytes(60_000)))
    fragments = session.seal_fragments(35, 1, chain, vectors(session), fragment_octets=1400)
    room = MAXIMUM_MESSAGE // 1400
    assert [session.open(fragment) for fragment in fragments[:room]] == [None] * room
    with pytest.raises(ProtectionError, match="too long"):
        [session.open(fragment) for fragment in fragments[room:]]
    with pytest.raises(LocalError):
        session.seal_fragments(35, 1, chain, vectors(session), fragment_octets=200)
    assert len(fragments) <= MAXIMUM_FRAGMENTS


@pytest.mark.parametrize("numbers", ["00000002", "00030002", "00010000", "00010fff"])
def test_fragment_numbers_that_can_not_be(numbers: str) -> None:
    session = session_for(GCM)
    fragment = bytearray(fragments_of(session)[0])
    fragment[32:36] = bytes.fromhex(numbers)
    with pytest.raises(ProtectionError, match="fragment"):
        session.open(bytes(fragment))


def test_sealing_fragments_that_can_not_be() -> None:
    session = session_for(GCM)
    with pytest.raises(LocalError, match="vectors"):
        session.seal_fragments(35, 1, BIG, [bytes(8)], fragment_octets=600)
    with pytest.raises(LocalError, match="room"):
        session.seal_fragments(35, 1, BIG, vectors(session), fragment_octets=60)


# --- the codec --------------------------------------------------------------------------------------------------


def test_a_header_by_hand() -> None:
    octets_ = bytes.fromhex("0123456789abcdef fedcba9876543210 2e 20 25 28 00000007 00000020") + bytes(4)
    header = parse_header(octets_)
    assert header == IkeHeader(SPIS, 46, 37, 0x28, 7, 32)
    assert header.from_initiator
    assert header.response
    assert build_header(header) == octets_[:28]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(
        st.builds(
            IkePayloadItem,
            st.integers(1, 255).filter(lambda number: number not in (46, 53)),
            st.binary(max_size=40),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_chains_build_and_parse(items: list[IkePayloadItem]) -> None:
    first, chain = build_payloads(items)
    assert parse_payloads(first, chain) == tuple(items)
    for length in range(len(chain)):
        with pytest.raises(ProtectionError):
            parse_payloads(first, chain[:length])
    with pytest.raises(ProtectionError):
        parse_payloads(first, chain + b"\0")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=120), st.binary(max_size=60))
def test_garbage_is_refused_by_name(message: bytes, tail: bytes) -> None:
    session = session_for(GCM)
    start = build_header(IkeHeader(SPIS, 46, 37, 0, 1, 28 + len(tail)))
    for garbage in (message, start + tail, start[:16] + bytes([message[0] if message else 53]) + start[17:] + tail):
        with pytest.raises(ProtectionError):
            session.open(garbage)


def test_too_many_payloads() -> None:
    items = [IkePayloadItem(41, b"")] * (MAXIMUM_PAYLOADS + 1)
    with pytest.raises(ProtectionError):
        parse_payloads(*build_payloads(items))
    assert len(parse_payloads(*build_payloads(items[1:]))) == MAXIMUM_PAYLOADS


@pytest.mark.parametrize(
    "header",
    [
        IkeHeader(IkeSpis(1 << 64, 0), 46, 37, 0, 1, 28),
        IkeHeader(SPIS, 256, 37, 0, 1, 28),
        IkeHeader(SPIS, 46, 37, 0, -1, 28),
        IkeHeader(SPIS, 46, 37, 0, 1, 1 << 32),
    ],
)
def test_headers_that_can_not_be_built(header: IkeHeader) -> None:
    with pytest.raises(LocalError):
        build_header(header)


def test_payloads_that_can_not_be_built() -> None:
    for item in (IkePayloadItem(41, bytes(65_532)), IkePayloadItem(256, b"")):
        with pytest.raises(LocalError):
            build_payloads([item, item])
