"""Rules of what carries the messages: RFC 4067, 3; RFC 4065's numbers; protection (2.5.3 and 6.2)."""

from __future__ import annotations

from collections.abc import Iterator

from ...constants import (
    ICMP_HOP_LIMIT,
    ICMP_TYPE_IPV4,
    ICMP_TYPE_IPV6,
    PAYLOAD_PROTOCOL_IDENTIFIER,
    PORT,
    IcmpSubtype,
)
from ...dissect import Transport
from ...messages import (
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
)
from ..bounded import Bounded
from ..records import Record
from ..story import Case, Story, carries_contexts
from ..verdicts import HOLDS, Doubt, Fault, Group, Outcome
from .table import MUST, SHOULD, Table, expect

RULES = Table(Group.TRANSPORT)

_MN_MESSAGES = (ContextTransferActivateRequest, ContextTransferActivateAcknowledge)


def is_mn_message(item: Record) -> bool:
    """CTAR and CTAA."""
    return isinstance(item.message, _MN_MESSAGES)


@RULES.rule("3.1-port", "RFC 4065, 2", MUST, "pAR, nAR", "SCTP uses the Seamoby port, 5091", rows=("3.1-p",))
def port(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.SCTP and not case.live:
        seen = (item.source[1], item.destination[1])
        yield expect(PORT in seen, item, f"port {PORT}", f"ports {seen[0]} and {seen[1]}")


@RULES.rule("3.1-ppid", "3.1", MUST, "pAR, nAR", "the payload protocol identifier is 'CXTP'", rows=("3.1-o",))
def payload_protocol(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    seen = item.carriage.payload_protocol_identifier
    if seen is not None:
        yield expect(seen == PAYLOAD_PROTOCOL_IDENTIFIER, item, f"{PAYLOAD_PROTOCOL_IDENTIFIER:#010x}", f"{seen:#010x}")


@RULES.rule("3.1-unordered", "3.1", MUST, "pAR, nAR", "the U bit of the DATA chunk is 1", rows=("3.1-h", "3.1-r"))
def unordered(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.unordered is not None:
        yield expect(item.carriage.unordered, item, "U = 1", "U = 0")


@RULES.rule("3.1-one-stream", "3.1", SHOULD, "pAR, nAR", "no use is made of multiple streams", rows=("3.1-m",))
def one_stream(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    stream = item.carriage.stream
    if stream is None:
        return
    streams = case.remember("3.1-one-stream", Bounded)
    key = (item.source, item.destination)
    first = streams.setdefault(key, stream)
    yield expect(stream == first, item, f"stream {first}, as before", f"stream {stream}")


@RULES.rule(
    "3.1-no-bundling", "3.1", SHOULD, "pAR, nAR", "SCTP message bundling is turned off", rows=("3.1-e", "3.1-n")
)
def bundling(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.SCTP and not case.live:
        seen = item.carriage.chunks_in_packet
        yield expect(seen == 1, item, "one DATA chunk in the packet", f"{seen} of them")


@RULES.rule(
    "3.1-messages", "3.1", MUST, "pAR, nAR", "SCTP carries CTD, PCTD, CTDR, CTC and CT-Req", rows=("3.1-s", "3-a")
)
def router_messages(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.SCTP and item.message is not None:
        yield expect(not is_mn_message(item), item, "a message between routers", f"a {item.message.short_name}")


@RULES.rule(
    "3.2-messages", "3.2", MUST, "all", "ICMP carries CTAR and CTAA and no other message", rows=("3.2-m", "3.2-a")
)
def icmp_messages(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.ICMP and item.message is not None:
        yield expect(is_mn_message(item), item, "a CTAR or CTAA", f"a {item.message.short_name}")


@RULES.rule(
    "3.2-icmp-type", "RFC 4065, 3", MUST, "MN, pAR, nAR", "the ICMP type is 41 in IPv4, 150 in IPv6", rows=("3.2-j",)
)
def icmp_type(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.icmp is not None:
        expected = ICMP_TYPE_IPV4 if item.source[0].version == 4 else ICMP_TYPE_IPV6
        seen = item.carriage.icmp.type
        yield expect(seen == expected, item, f"type {expected}", f"type {seen}")


@RULES.rule("3.2-icmp-code", "3.2", MUST, "MN, pAR, nAR", "the ICMP code is 0", rows=("3.2-j",))
def icmp_code(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.icmp is not None:
        yield expect(item.carriage.icmp.code == 0, item, "code 0", f"code {item.carriage.icmp.code}")


@RULES.rule("3.2-icmp-checksum", "3.2", MUST, "MN, pAR, nAR", "the ICMP checksum is right", rows=("3.2-j",))
def icmp_checksum(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.icmp is not None:
        yield expect(item.carriage.icmp.checksum_good, item, "a checksum that matches", "one that does not")


@RULES.rule("3.2-icmp-subtype", "RFC 4065, 8", MUST, "MN, pAR, nAR", "the subtype is CXTP's, 1", rows=("3.2-j",))
def icmp_subtype(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.icmp is not None:
        seen = item.carriage.icmp.subtype
        yield expect(seen == IcmpSubtype.CXTP, item, f"subtype {IcmpSubtype.CXTP.value}", f"subtype {seen}")


@RULES.rule(
    "3.2-icmp-reserved", "RFC 4065, 8", MUST, "MN, pAR, nAR", "the reserved field is sent as zero", rows=("3.2-l",)
)
def icmp_reserved(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.carriage.icmp is not None:
        yield expect(not item.carriage.icmp.reserved, item, "0", f"{item.carriage.icmp.reserved:#x}")


@RULES.rule("3.2-hop-limit", "3.2", MUST, "MN, pAR, nAR", "the hop limit is 255", rows=("3.2-k",))
def hop_limit(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if item.transport is Transport.ICMP and item.carriage.hop_limit is not None:
        seen = item.carriage.hop_limit
        yield expect(seen == ICMP_HOP_LIMIT, item, f"hop limit {ICMP_HOP_LIMIT}", f"hop limit {seen}")


@RULES.rule(
    "3.2-one-packet",
    "3.2",
    SHOULD,
    "MN, pAR, nAR",
    "CTAR and CTAA fit one packet, smaller than the path MTU",
    rows=("2.2-a", "3.2-c"),
)
def one_packet(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if is_mn_message(item) and item.transport in (Transport.ICMP, Transport.UDP) and not case.live:
        yield expect(not item.carriage.fragmented, item, "one packet", f"fragments ({len(item.octets)} octets)")


@RULES.rule(
    "2.5.3-protected",
    "2.5.3",
    MUST,
    "pAR",
    "CTD and PCTD are protected by IPsec",
    rows=("2.5.3-a", "6.2-a", "6.2-c", "6.2-f"),
)
def protected(item: Record, story: Story, case: Case) -> Iterator[Outcome]:
    if not carries_contexts(item):
        return
    if item.source[0].is_loopback or case.live:
        return
    if frozenset((item.source[0], item.destination[0])) in case.esp_paths:
        yield HOLDS  # the capture was taken in a host, which shows both ESP and what was in it
    elif case.on_the_wire:
        yield Fault((item.number,), "ESP between the two routers", "contexts in the clear")
    else:
        why = (
            "contexts in the clear, and no ESP between the two routers: is this what the wire had, or was the capture "
        )
        yield Doubt((item.number,), why + "taken behind a tunnel's end? (--on-the-wire judges it)")
