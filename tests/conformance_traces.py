"""Traces that follow the RFC, and for every rule of the judge one change that breaks it alone.

Messages are made with the codec from the RFC's fields; no role takes part.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from context_examples import IKE_SA, IPSEC_SA, VALUES
from helpers import KEY, MN, ROUTERS, token

from contexts.base import Context, encode
from contexts.ikev2 import IkeSaContext
from contexts.session import RestoredSession
from contexts.values import SequenceNumbers
from cxtp.adapters.capture import IpPacket
from cxtp.conformance.judge import Judge
from cxtp.conformance.packets import PacketFacts
from cxtp.conformance.records import Carriage, IcmpCarriage, Record, record
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Report
from cxtp.dissect import Transport
from cxtp.manifest import plan_parts, receipt
from cxtp.messages import (
    ContextBlock,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    Message,
    PredictiveContextTransferData,
)
from cxtp.wire import build

A, B, C = ROUTERS
M = ip_address("203.0.113.9")
MN2 = ip_address("192.0.2.78")
NUMBER = 0x5EED1234
UNKNOWN = 0x7001
UDP, SCTP, ICMP = Transport.UDP, Transport.SCTP, Transport.ICMP
NOBODY = random.Random(0)

ENCODED = (encode(IKE_SA), encode(IPSEC_SA), encode(VALUES["multicast-listener"]))
SCTP_CARRIAGE = Carriage(64, False, None, 0x43585450, True, 0, 1)


def icmp_carriage(version: int) -> Carriage:
    return Carriage(255, False, IcmpCarriage(41 if version == 4 else 150, 0, 1, 0, True))


@dataclass(frozen=True)
class Said:
    """A message in a trace: ``what`` a message, or octets."""

    time: float
    source: IPAddress
    destination: IPAddress
    what: Message | bytes
    transport: Transport
    carriage: Carriage
    ports: tuple[int, int] = (5091, 5091)


Step = Said | IpPacket


@dataclass(frozen=True)
class Trace:
    """Steps in their order, and what the judge is given beside them."""

    steps: tuple[Step, ...]
    keys: tuple[bytes, ...] = ()
    contexts: tuple[Context, ...] = ()
    on_the_wire: bool = False
    esp_path: bool = False
    end: float = 200.0
    routers: frozenset[IPAddress] = frozenset()


def say(
    time: float, source: IPAddress, destination: IPAddress, what: Message, transport: Transport | None = None
) -> Said:
    mobile = isinstance(what, (ContextTransferActivateRequest, ContextTransferActivateAcknowledge))
    transport = transport or (ICMP if mobile else SCTP)
    carriage = {ICMP: icmp_carriage(source.version), SCTP: SCTP_CARRIAGE}.get(transport, Carriage(64))
    return Said(100 + time, source, destination, what, transport, carriage)


def records(trace: Trace) -> list[Record | IpPacket]:
    found: list[Record | IpPacket] = []
    for number, step in enumerate(sorted(trace.steps, key=lambda step: step.time), 1):
        if isinstance(step, IpPacket):
            found.append(replace(step, index=number))
            continue
        ports = (0, 0) if step.transport is ICMP else step.ports
        ends = ((step.source, ports[0]), (step.destination, ports[1]))
        octets = step.what if isinstance(step.what, bytes) else build(step.what)
        found.append(record(number, step.time, step.transport, ends, octets, step.carriage))
    return found


def judge(trace: Trace) -> Report:
    """As a capture is judged: records, then the packets once more."""
    case = Case(
        keys=trace.keys, contexts=trace.contexts, on_the_wire=trace.on_the_wire, end=trace.end, routers=trace.routers
    )
    if trace.esp_path:
        case.esp_paths[frozenset((A, B))] = 1
    found = records(trace)
    bench = Judge(case)
    for item in found:
        if isinstance(item, Record):
            bench.take(item)
        else:
            bench.see(item)
    facts = PacketFacts(bench.moved)
    for item in found:
        if isinstance(item, IpPacket):
            facts.take(item)
    return bench.finish("a trace", facts=facts)


# --- messages ---------------------------------------------------------------------------------------------------


def ctar(other: IPAddress, number: int = NUMBER, mn: IPAddress = MN, **changes: Any) -> ContextTransferActivateRequest:
    fields: dict[str, Any] = {
        "mn_previous_address": mn,
        "access_router_address": other,
        "sequence_number": number,
        "authorization_token": token(KEY, number) if mn == MN else b"\1\2\3\4",
        "acknowledge": True,
    }
    return ContextTransferActivateRequest(**{**fields, **changes})


def ct_req(number: int = NUMBER, *, null: bool = False, **changes: Any) -> ContextTransferRequest:
    fields: dict[str, Any] = {
        "mn_previous_address": MN,
        "sequence_number": number,
        "authorization_token": bytes(4) if null else token(KEY, number),
    }
    return ContextTransferRequest(**{**fields, **changes})


def blocks(*contexts: EncodedContext, generation: int = 7, transfer: int = 0x0BADCAFE) -> tuple[ContextBlock, ...]:
    (only,) = plan_parts(contexts or ENCODED, transfer_id=transfer, generation=generation)
    return only


def ctd(
    *contexts: EncodedContext, mn: IPAddress = MN, generation: int = 7, transfer: int = 0x0BADCAFE, **changes: Any
) -> ContextTransferData:
    fields: dict[str, Any] = {
        "mn_previous_address": mn,
        "elapsed_time": 0,
        "acknowledge": True,
        "blocks": blocks(*contexts, generation=generation, transfer=transfer),
    }
    return ContextTransferData(**{**fields, **changes})


def pctd(*contexts: EncodedContext, key: bytes = KEY, **changes: Any) -> PredictiveContextTransferData:
    plain = ctd(*contexts, **changes)
    return PredictiveContextTransferData(key=key, algorithm=1, **vars(plain))


def ctdr(
    *statuses: ContextStatus, success: bool = True, mn: IPAddress = MN, transfer: int = 0x0BADCAFE
) -> ContextTransferDataReply:
    return ContextTransferDataReply(mn_previous_address=mn, success=success, statuses=(*statuses, *receipt(transfer)))


def ctaa(*statuses: ContextStatus, mn: IPAddress = MN) -> ContextTransferActivateAcknowledge:
    return ContextTransferActivateAcknowledge(mn_previous_address=mn, statuses=statuses)


CTC = ContextTransferCancel(mn_previous_address=MN)
REFUSED = ContextStatus(UNKNOWN, 2)
NOBODYS = EncodedContext(UNKNOWN, b"a type that nobody has assigned.")


def padded_listener() -> EncodedContext:
    return ENCODED[2]


# --- ESP and IKE ------------------------------------------------------------------------------------------------

MAC_A, MAC_B = b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b"
COUNTED = replace(
    IPSEC_SA,
    proposal=replace(IPSEC_SA.proposal, extended_sequence_numbers=False),
    sequence_numbers=SequenceNumbers(outbound=3, inbound=0),
    local_host=replace(IPSEC_SA.local_host, port=0),
    remote_host=replace(IPSEC_SA.remote_host, port=0),
)
MOVED = (encode(IKE_SA), encode(COUNTED))


def esp(time: float, number: int, mac: bytes = MAC_A, filler: int = 0) -> IpPacket:
    """An ESP packet that the gateway sends, with this sequence number."""
    context = replace(COUNTED, sequence_numbers=SequenceNumbers(outbound=number - 1, inbound=0))
    session = RestoredSession.restore([IKE_SA, context]).ipsec_sa(COUNTED.inbound_spi)
    inner = bytes.fromhex("4500001c00000000400100000a0100010a030001") + bytes((8, 0, 0, 0, 0, 0, 0, filler))
    octets = session.seal_outbound(inner, 4, number.to_bytes(8, "big"))
    return ip_packet(100 + time, IPSEC_SA.local_host.address, IPSEC_SA.remote_host.address, 50, octets, mac)


def ip_packet(
    time: float, source: IPAddress, destination: IPAddress, protocol: int, octets: bytes, mac: bytes
) -> IpPacket:
    header = b"\x45\0" + (20 + len(octets)).to_bytes(2, "big") + bytes((0, 1, 0, 0, 64, protocol, 0, 0))
    header += source.packed + destination.packed
    return IpPacket(0, time, source, destination, protocol, header + octets, 20, False, mac)


def ike(time: float, context: IkeSaContext = IKE_SA) -> IpPacket:
    """A liveness check of the gateway's, sealed with this context's keys."""
    sa = RestoredSession.restore([context]).ike_sa(context.spis)
    octets = sa.seal(37, 0, (), bytes(8))
    local, remote = IKE_SA.local_host, IKE_SA.remote_host
    udp = (4500).to_bytes(2, "big") * 2 + (12 + len(octets)).to_bytes(2, "big") + b"\0\0" + bytes(4) + octets
    return ip_packet(100 + time, local.address, remote.address, 17, udp, MAC_B)


def sctp(time: float, source: IPAddress, destination: IPAddress, *chunks: bytes) -> IpPacket:
    """An SCTP packet between routers with these chunks."""
    head = struct.pack("!HHII", 5091, 5091, 1, 0)
    return ip_packet(100 + time, source, destination, 132, head + b"".join(chunks), b"")


def init(kind: int = 1, *parameters: bytes) -> bytes:
    """INIT (1) or INIT ACK (2) (RFC 9260, 3.3.2)."""
    body = struct.pack("!IIHHI", 1, 65_536, 1, 1, 1) + b"".join(parameters)
    return struct.pack("!BBH", kind, 0, 4 + len(body)) + body


FORWARD_TSN_SUPPORTED = bytes.fromhex("c0000004")
ABORT = bytes.fromhex("06000004")
FORWARD_TSN = bytes.fromhex("c000000800000001")
DATA_CHUNK = bytes.fromhex("0007001400000001000000004358545041414141")


def ike_sa_init(time: float) -> IpPacket:
    """Router A asks router B for an IKE_SA."""
    udp = struct.pack("!HHHH", 500, 500, 8 + 28, 0)
    header = bytes(8) + bytes(8) + struct.pack("!BBBBII", 33, 0x20, 34, 0x08, 0, 28)
    return ip_packet(100 + time, A, B, 17, udp + header, MAC_A)


def router_esp(time: float, protected: bytes = bytes(24)) -> IpPacket:
    """ESP between the routers."""
    return ip_packet(100 + time, A, B, 50, bytes.fromhex("0000abcd00000001") + protected, MAC_A)


# --- changes ----------------------------------------------------------------------------------------------------

Change = Callable[[Trace], Trace]


def at(index: int, change: Callable[[Said], Said]) -> Change:
    def changed(trace: Trace) -> Trace:
        steps = list(trace.steps)
        step = steps[index]
        assert isinstance(step, Said)
        steps[index] = change(step)
        return replace(trace, steps=tuple(steps))

    return changed


def message(index: int, **changes: Any) -> Change:
    return at(index, lambda said: replace(said, what=replace(said.what, **changes)))  # type: ignore[type-var]


def octets(index: int, mutator: Callable[[bytes, random.Random], bytes]) -> Change:
    def spoiled(said: Said) -> Said:
        assert not isinstance(said.what, bytes)
        return replace(said, what=mutator(build(said.what), NOBODY))

    return at(index, spoiled)


def cut_at(position: int, value: bytes) -> Callable[[bytes, random.Random], bytes]:
    return lambda whole, rng: whole[:position] + value + whole[position + len(value) :]


def carriage(index: int, **changes: Any) -> Change:
    return at(index, lambda said: replace(said, carriage=replace(said.carriage, **changes)))


def icmp(index: int, **changes: Any) -> Change:
    def changed(said: Said) -> Said:
        assert said.carriage.icmp is not None
        return replace(said, carriage=replace(said.carriage, icmp=replace(said.carriage.icmp, **changes)))

    return at(index, changed)


def to(index: int, **changes: Any) -> Change:
    return at(index, lambda said: replace(said, **changes))


def without(*indexes: int) -> Change:
    return lambda trace: replace(trace, steps=tuple(s for i, s in enumerate(trace.steps) if i not in indexes))


def plus(*steps: Step) -> Change:
    def longer(trace: Trace) -> Trace:
        return replace(trace, steps=tuple(sorted((*trace.steps, *steps), key=lambda s: s.time)))

    return longer


def packet(index: int, step: IpPacket) -> Change:
    """Another packet in its place."""
    return lambda trace: replace(trace, steps=(*trace.steps[:index], step, *trace.steps[index + 1 :]))


def both(*changes: Change) -> Change:
    """One point that stands in two messages."""

    def changed(trace: Trace) -> Trace:
        for change in changes:
            trace = change(trace)
        return trace

    return changed


def given(**changes: Any) -> Change:
    return lambda trace: replace(trace, **changes)
