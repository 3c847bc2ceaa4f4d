"""Contents and safety judged for sessions that no committed capture has: suites, extended numbers, key updates."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from conformance_traces import (
    MAC_A,
    MAC_B,
    MOVED,
    A,
    B,
    C,
    M,
    Step,
    Trace,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    ip_packet,
    judge,
    pctd,
    router_esp,
    say,
)
from context_examples import IKE_SA, IPSEC_SA
from node_helpers import MN, Lab, lab, recorded_contexts

from contexts.algorithms import ENCRYPTION, INTEGRITY, PRF, CipherKind
from contexts.base import Context, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
from contexts.session import RestoredSession
from contexts.values import (
    AntiReplayWindow,
    CounterKnowledge,
    DerivedKeys,
    IPAddress,
    KeymatDerivation,
    Nonces,
    SequenceNumbers,
    Skeyseed,
)
from cxtp.adapters.capture import IpPacket, PcapWriter
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.conformance.judge import judge_capture
from cxtp.conformance.protection import shows_cxtp
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Group, Report, Verdict
from cxtp.constants import EncryptionAlgorithm, IntegrityAlgorithm, PseudorandomFunction
from cxtp.messages import EncodedContext
from cxtp.proof import open_capture
from cxtp.replica import ReplicaKind, build_replica
from cxtp.transports.endpoint import Peer
from cxtp.transports.udp import UdpEndpoint
from cxtp.wire import build

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
INNER = bytes.fromhex("4500001c00000000400100000a0100010a030001") + bytes(8)
WRAP = 1 << 32
CAMELLIA_CBC = 23
CONTENT = ("content-keys", "content-opens-ike", "content-opens-esp")


def ike_sa(encryption: int, bits: int, integrity: int, prf: int = PseudorandomFunction.HMAC_SHA2_256) -> IkeSaContext:
    proposal = replace(
        IKE_SA.proposal, encryption=encryption, encryption_key_length=bits, integrity=integrity,
        integrity_key_length=0, prf=prf, additional_key_exchanges=(),
    )  # fmt: skip
    seed = bytes(range(PRF[prf].output_octets))
    return replace(IKE_SA, proposal=proposal, keying=Skeyseed(seed, Nonces(b"n" * 32, b"r" * 32)))


GCM = ike_sa(EncryptionAlgorithm.AES_GCM_16, 256, 0)


def ipsec_sa(
    encryption: int,
    bits: int,
    integrity: int,
    numbers: SequenceNumbers = SequenceNumbers(3, 0),
    *,
    parent: IkeSaContext = GCM,
    extended: bool = False,
    window: int = 64,
) -> IpsecSaContext:
    proposal = replace(
        IPSEC_SA.proposal, encryption=encryption, encryption_key_length=bits, integrity=integrity,
        integrity_key_length=0, extended_sequence_numbers=extended,
    )  # fmt: skip
    return replace(
        IPSEC_SA, proposal=proposal, sequence_numbers=numbers, window=AntiReplayWindow(window), ipcomp=None,
        keying=KeymatDerivation(parent.spis, True, Nonces(b"a" * 32, b"b" * 32)), ike_spis=parent.spis,
    )  # fmt: skip


def esp(time: float, parent: IkeSaContext, sa: IpsecSaContext, number: int, mac: bytes, *, sent: bool) -> Step:
    before = replace(sa, sequence_numbers=SequenceNumbers(number - 1, 0))
    session = RestoredSession.restore([parent, before]).ipsec_sa(sa.inbound_spi)
    iv = (number.to_bytes(8, "big") * 2)[: session.iv_octets]
    ends = (sa.local_host.address, sa.remote_host.address)
    if sent:
        return ip_packet(100 + time, *ends, 50, session.seal_outbound(INNER, 4, iv), mac)
    return ip_packet(100 + time, *ends[::-1], 50, session.seal_inbound(INNER, 4, iv, number), mac)


def ike(time: float, context: IkeSaContext) -> Step:
    sa = RestoredSession.restore([context]).ike_sa(context.spis)
    octets = bytes(4) + sa.seal(37, 0, (), bytes(range(sa.iv_octets)))
    udp = (4500).to_bytes(2, "big") * 2 + (8 + len(octets)).to_bytes(2, "big") + b"\0\0" + octets
    return ip_packet(100 + time, context.local_host.address, context.remote_host.address, 17, udp, MAC_B)


def moved(
    parent: IkeSaContext, sa: IpsecSaContext, before: Iterable[int], after: Iterable[int], *, sent: bool = True
) -> Trace:
    """ESP with these numbers, the contexts from A to B, ESP with those; a liveness check."""
    steps = [esp(n / 1000, parent, sa, number, MAC_A, sent=sent) for n, number in enumerate(before)]
    steps += [say(5, A, B, ctd(encode(parent), encode(sa))), say(5.01, B, A, ctdr())]
    steps += [esp(6 + n / 1000, parent, sa, number, MAC_B, sent=sent) for n, number in enumerate(after)]
    return Trace((*steps, ike(8, parent)))


def verdicts(report: Report, *rules: str) -> list[Verdict]:
    return [report.of(rule).verdict for rule in rules]


SUITES = [
    (row.number, max(row.key_octets) * 8, integrity)
    for row in ENCRYPTION.values()
    for integrity in ([0] if row.aead else INTEGRITY)
]


@pytest.mark.parametrize(("encryption", "bits", "integrity"), SUITES)
def test_every_suite(encryption: int, bits: int, integrity: int) -> None:
    """As moved it opens what was sent before and after; with another SKEYSEED it opens nothing."""
    own = (encryption, bits, integrity)
    parent = ike_sa(*own) if ENCRYPTION[encryption].ike else GCM
    trace = moved(parent, ipsec_sa(*own, parent=parent), (1, 2, 3), (4, 5))
    report = judge(trace)
    assert not report.failed()
    assert set(verdicts(report, *CONTENT, "safety-counter", "safety-sequence-numbers")) == {Verdict.PASS}
    assert isinstance(parent.keying, Skeyseed)
    other = replace(parent, keying=replace(parent.keying, skeyseed=bytes(len(parent.keying.skeyseed))))
    told = replace(trace, steps=tuple(
        say(5, A, B, ctd(encode(other), encode(ipsec_sa(*own, parent=other)))) if step is trace.steps[3] else step
        for step in trace.steps
    ))  # fmt: skip
    assert {r.rule.id for r in judge(told).failed()} == {"content-opens-ike", "content-opens-esp"}


@pytest.mark.parametrize("prf", PRF)
def test_every_pseudorandom_function(prf: int) -> None:
    parent = ike_sa(EncryptionAlgorithm.AES_CBC, 128, IntegrityAlgorithm.HMAC_SHA1_96, prf)
    sa = ipsec_sa(EncryptionAlgorithm.AES_GCM_16, 128, 0, parent=parent)
    assert set(verdicts(judge(moved(parent, sa, (1, 2, 3), (4,))), *CONTENT)) == {Verdict.PASS}


EXTENDED = [
    (300, range(1, 301), True),  # more packets than the window has room for
    (300, range(1, 301), False),
    (WRAP + 300, range(WRAP - 50, WRAP + 301), True),  # the low half began anew before the move
    (WRAP + 300, range(WRAP - 50, WRAP + 301), False),
    (WRAP - 3, range(WRAP - 200, WRAP - 2), True),  # it does so after the move
]


@pytest.mark.parametrize(("last", "before", "sent"), EXTENDED)
@pytest.mark.parametrize("suite", [(EncryptionAlgorithm.AES_GCM_16, 256, 0), (EncryptionAlgorithm.AES_CBC, 128, 12)])
def test_extended_sequence_numbers(last: int, before: range, sent: bool, suite: tuple[int, int, int]) -> None:
    """Packets from long before the counters were read are opened, whatever high half the window would infer."""
    numbers = SequenceNumbers(last, 0) if sent else SequenceNumbers(0, last)
    sa = ipsec_sa(*suite, numbers, extended=True)
    report = judge(moved(GCM, sa, before, range(last + 1, last + 20), sent=sent))
    assert not report.failed(), [(r.rule.id, r.faults[0]) for r in report.failed()]
    assert set(verdicts(report, *CONTENT, "safety-sequence-numbers")) == {Verdict.PASS}
    expected = Verdict.PASS if sent else Verdict.NOT_EXERCISED
    assert report.of("safety-counter").verdict is expected


@pytest.mark.parametrize("last", [300, WRAP + 300])
def test_a_counter_below_what_was_sent(last: int) -> None:
    """One too low is a fault, across the turn of the low half too; one that does not claim to be exact is none."""
    suite = (EncryptionAlgorithm.AES_GCM_16, 256, 0)
    for numbers, verdict in (
        (SequenceNumbers(last - 1, 0), Verdict.FAIL),
        (SequenceNumbers(last + 1, 0), Verdict.PASS),
        (SequenceNumbers(last - 1, 0, knowledge=CounterKnowledge.AT_LEAST), Verdict.NOT_EXERCISED),
        (SequenceNumbers(0, 0, knowledge=CounterKnowledge.UNKNOWN), Verdict.NOT_EXERCISED),
        (SequenceNumbers((1 << 64) - 1, 0), Verdict.NOT_EXERCISED),  # its outbound half is gone
    ):
        sent = range(last - 350 if last > WRAP else 1, last + 1)
        trace = moved(GCM, ipsec_sa(*suite, numbers, extended=True), sent, ())
        assert judge(trace).of("safety-counter").verdict is verdict, numbers


def recorded(name: str) -> list[Context]:
    return [c for s in read_ha_capture(TRACES / name / "ha.pcap", keep_deleted=True).sessions() for c in s.contexts]


def content(name: str, contexts: Iterable[Context]) -> Report:
    return judge_capture(TRACES / name / "outer.pcap", Case(contexts=list(contexts)), groups=[Group.CONTENT])


def test_a_real_session_with_extended_numbers_and_its_last_counters() -> None:
    """What the kernel held at the end (xfrm-gw.txt), with a window that has left most packets behind."""
    end = SequenceNumbers(outbound=13, inbound=16)
    contexts = [
        replace(c, sequence_numbers=end, window=AntiReplayWindow(4, 0b1111)) if isinstance(c, IpsecSaContext) else c
        for c in recorded("k-esn-w128")
    ]
    assert any(isinstance(c, IpsecSaContext) and c.proposal.extended_sequence_numbers for c in contexts)
    assert set(verdicts(content("k-esn-w128", contexts), *CONTENT)) == {Verdict.PASS}
    assert open_capture(contexts, TRACES / "k-esn-w128" / "outer.pcap").complete


@pytest.mark.parametrize("name", ["v4-addke", "v5-mlkem-addke3"])
def test_keys_from_before_a_key_update_need_not_travel(name: str) -> None:
    """IKE_INTERMEDIATE is under them (RFC 9370, 2.2.2) and no fault of a context without; all else still tells."""
    contexts = [
        replace(c, keying=replace(c.keying, earlier=())) if isinstance(c, IkeSaContext) else c
        for c in with_key_case(recorded(name), 3)
        if isinstance(c, (IkeSaContext, IpsecSaContext))
    ]
    assert any(isinstance(c, IkeSaContext) and isinstance(c.keying, DerivedKeys) for c in contexts)
    assert set(verdicts(content(name, contexts), *CONTENT)) == {Verdict.PASS}
    wrong = [
        replace(c, keying=DerivedKeys(replace(c.keying.keys, sk_ei=bytes(len(c.keying.keys.sk_ei)))))
        if isinstance(c, IkeSaContext) and isinstance(c.keying, DerivedKeys) else c
        for c in contexts
    ]  # fmt: skip
    assert content(name, wrong).of("content-opens-ike").verdict is Verdict.FAIL


def test_an_algorithm_that_the_judge_lacks_is_a_doubt() -> None:
    """Camellia has a number, and the peer may well know it; the other SAs of the capture are judged all the same."""

    def carrying(*contexts: Context) -> Step:
        return say(5, A, B, ctd(*map(encode, contexts), acknowledge=False))

    camellia = ipsec_sa(CAMELLIA_CBC, 256, IntegrityAlgorithm.HMAC_SHA2_256_128)
    alone = judge(Trace((carrying(GCM, camellia), ike(6, GCM))))
    assert not alone.failed()
    assert alone.of("content-keys").doubt_count == 1
    assert alone.of("content-opens-ike").verdict is Verdict.PASS

    known = ipsec_sa(EncryptionAlgorithm.AES_GCM_16, 256, 0)
    other = replace(camellia, inbound_spi=known.inbound_spi + 1, outbound_spi=known.outbound_spi + 1)
    packets = [step for step in moved(GCM, known, (1, 2, 3), (4,)).steps if isinstance(step, IpPacket)]
    assert set(verdicts(judge(Trace((*packets, carrying(GCM, known, other)))), *CONTENT)) == {Verdict.PASS}

    parent = replace(GCM, proposal=replace(GCM.proposal, encryption=CAMELLIA_CBC))
    both = judge(Trace((carrying(parent, known),)))
    assert not both.failed()
    assert both.of("content-keys").verdict is Verdict.INCONCLUSIVE
    assert "encryption algorithm 23" in both.of("content-keys").doubts[0].why

    lengths = judge(Trace((carrying(GCM, ipsec_sa(EncryptionAlgorithm.AES_GCM_16, 264, 0)),)))
    assert {r.rule.id for r in lengths.failed()} == {"content-keys"}


def test_esp_without_encryption_shows_the_messages_in_it() -> None:
    """NULL encryption, transport and tunnel mode, SCTP and UDP; no other suite does, nor other traffic."""
    data = build(ctd(*MOVED))
    chunk = struct.pack("!BBHIHHI", 0, 7, 16 + len(data), 1, 0, 0, 0x43585450) + data
    sctp = struct.pack("!HHII", 5091, 5091, 1, 0) + chunk
    udp = struct.pack("!HHHH", 40_000, 5091, 8 + len(data), 0) + data
    tunnels = (
        (4, ip_packet(0, A, B, 132, sctp, b"").octets),
        (41, bytes.fromhex("60000000") + struct.pack("!HBB", len(udp), 17, 64) + bytes(32) + udp),
    )
    foreign = struct.pack("!HHHH", 40_000, 5091, 8 + len(data), 0) + b"\x40" + data[1:]
    for encryption, bits, integrity in SUITES:
        sa = ipsec_sa(encryption, bits, integrity)
        session = RestoredSession.restore([GCM, sa]).ipsec_sa(sa.inbound_spi)
        clear = ENCRYPTION[encryption].kind is CipherKind.NULL
        for next_header, inner in ((132, sctp), (17, udp), *tunnels):
            sealed = session.seal_outbound(inner, next_header, bytes(session.iv_octets))
            assert shows_cxtp(sealed) == clear, (encryption, next_header)
        assert not shows_cxtp(session.seal_outbound(foreign, 17, bytes(session.iv_octets)))
    for cut in range(len(sctp)):
        shows_cxtp(bytes(8) + sctp[:cut])


def test_routers_whose_esp_encrypts() -> None:
    """On the wire nothing of CXTP shows: who the routers are has to be told."""
    wire = Trace((router_esp(0), router_esp(1, bytes(range(100)))))
    assert judge(wire).of("6.2-encrypted").verdict is Verdict.NOT_EXERCISED
    assert judge(replace(wire, routers=frozenset((A, B)))).of("6.2-encrypted").verdict is Verdict.PASS


# --- replicas for a standby (docs/context-formats.md, 6.5) --------------------------------------------------------


def replica(time: float, source: IPAddress, kind: ReplicaKind, transfer: int, *contexts: EncodedContext) -> list[Step]:
    data = pctd(build_replica(kind), *contexts, key=bytes([transfer]) * 16, transfer=transfer)
    return [say(time, source, B, data), say(time + 0.01, B, source, ctdr(transfer=transfer))]


KEPT = (
    *replica(0, A, ReplicaKind.KEEP, 1, *MOVED),
    *replica(1, A, ReplicaKind.KEEP, 2, *MOVED),
    *replica(2, A, ReplicaKind.FORGET, 3),
)
GONE = (say(3, A, C, ctd(*MOVED, generation=8, transfer=4)), say(3.01, C, A, ctdr(transfer=4)))


def test_a_standby_owns_nothing() -> None:
    """Replica after replica under one generation, told to forget, moved elsewhere; one that its standby took over."""
    assert not judge(Trace((*KEPT, *GONE))).failed()
    taken = (say(30, B, C, ctd(*MOVED, generation=9, transfer=6)), say(30.01, C, B, ctdr(transfer=6)))
    assert not judge(Trace((*KEPT[:4], *taken))).failed()
    again = say(5, A, B, ctd(*MOVED, generation=9, transfer=7))  # what is no replica is judged as before
    assert {r.rule.id for r in judge(Trace((*KEPT, *GONE, again, say(5.01, B, A, ctdr(transfer=7))))).failed()} == {
        "safety-one-owner"
    }


def test_the_key_of_a_replica_is_no_mobile_nodes() -> None:
    """Known to nobody: no CTAR is judged by it, and none is expected for it."""
    request = {"authorization_token": bytes.fromhex("01020304")}
    activated = (
        say(4, M, B, ctar(A, **request)),
        say(4.01, B, A, ct_req(**request)),
        say(4.02, A, B, ctd(*MOVED, generation=8, transfer=4)),
        say(4.03, B, A, ctdr(transfer=4)),
        say(4.04, B, M, ctaa()),
    )
    report = judge(Trace((*KEPT[:4], *activated)))
    assert not report.failed(), [(r.rule.id, r.faults[0]) for r in report.failed()]
    assert report.of("2.5.1-token").verdict is Verdict.NOT_EXERCISED


def test_nodes_with_a_standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As our nodes do it: replicas to one, a move to another, replicas of the new owner, and back."""
    path = tmp_path / "standby.pcap"
    with PcapWriter(path) as writer:
        send = UdpEndpoint.send
        begun = time.time()

        def recorded_send(self: UdpEndpoint, octets: bytes, peer: Peer) -> None:
            own = next(router for router in nodes.routers.values() if self is nodes.nodes[router.name].endpoint)
            writer.write_udp(time.time() - begun + 100, own.address, own.port, peer.address, peer.port, octets)
            send(self, octets, peer)

        monkeypatch.setattr(UdpEndpoint, "send", recorded_send)
        nodes: Lab

        async def replicated(owner: str) -> None:
            node = nodes.nodes[owner]
            record = await node.sessions.assign_standby(MN, "b")
            assert record is not None
            await node.replicas.ask(record)
            await asyncio.sleep(0.15)  # longer than messages that cross
            await node.replicas.ask(record)

        async def main() -> None:
            nonlocal nodes
            async with lab(tmp_path, "udp", ("a", "b", "c")) as nodes:
                await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
                for owner, target in (("a", "c"), ("c", "a")):
                    await replicated(owner)
                    await nodes.nodes[owner].move(MN, target)
                    await asyncio.sleep(0.15)

        asyncio.run(main())
    report = judge_capture(path, Case())
    assert report.messages >= 14
    assert {r.rule.id for r in report.failed()} <= {"3.1-sctp"}, [(r.rule.id, r.faults[0]) for r in report.failed()]
    assert set(verdicts(report, "safety-one-owner", "safety-generation", "2.5.4-reply")) == {Verdict.PASS}
