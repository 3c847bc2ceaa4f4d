"""The harnesses.  Each takes any octets, and raises for a fault of ours alone."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from contexts.base import GenericContext, decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from cxtp.adapters.capture import icmp_messages, sctp_data, tcp_streams, udp_datagrams
from cxtp.adapters.context_file import read_context_file
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.adapters.strongswan_ha.codec import build_message, parse_message
from cxtp.adapters.strongswan_ha.inbound import HaTracker
from cxtp.adapters.xfrm.formats import MalformedNetlink, messages, parse_policy, parse_security_association
from cxtp.config import Limits, ProtocolConfig
from cxtp.continuation import from_blocks
from cxtp.errors import CxtpError, LocalError, RemoteError
from cxtp.manifest import TransferManifest, split_receipt
from cxtp.messages import ContextTransferData, ContextTransferDataReply, EncodedContext
from cxtp.roles import AccessRouter, MobileNode, Peer
from cxtp.roles.events import (
    ActivateContexts,
    ActivationRequested,
    ContextsReceived,
    ContextsRequested,
    TransferAborted,
)
from cxtp.transports.sctp.socket_api import parse_notification, parse_received
from cxtp.wire import build, parse, parse_icmp

TRACES = Path(__file__).parent.parent.parent / "pcaps" / "strongswan"


def message(octets: bytes) -> None:
    """What parses, builds and parses to the same; its blocks are contexts or a typed error."""
    try:
        parsed = parse(octets)
    except RemoteError:
        return
    assert parse(build(parsed)) == parsed
    if isinstance(parsed, ContextTransferData):
        with suppress(RemoteError):
            for context in from_blocks(parsed.blocks):
                one_context(context)
    elif isinstance(parsed, ContextTransferDataReply):
        split_receipt(parsed.statuses)


def icmp(octets: bytes) -> None:
    with suppress(RemoteError):
        parse_icmp(octets)
    with suppress(RemoteError):
        parse_icmp(octets, (ip_address("2001:db8::1"), ip_address("2001:db8::2")))


def one_context(encoded: EncodedContext) -> None:
    try:
        context = decode(encoded)
    except RemoteError:
        return
    if not isinstance(context, GenericContext):
        assert decode(encode(context)) == context


def context(octets: bytes) -> None:
    """Context type 16, presence vector 32, data."""
    number = int.from_bytes(octets[:2], "big")
    one_context(EncodedContext(number, octets[6:], int.from_bytes(octets[2:6].ljust(4, b"\0"), "big")))
    one_context(EncodedContext(number, octets[6:]))
    with suppress(RemoteError):
        TransferManifest.decode(EncodedContext(0xFF03, octets))


def ha_message(octets: bytes) -> None:
    try:
        parsed = parse_message(octets)
    except RemoteError:
        return
    assert parse_message(build_message(parsed)) == parsed


def ha_session(octets: bytes) -> None:
    """Datagrams, each behind its length 16."""
    tracker = HaTracker()
    while len(octets) > 2:
        length = int.from_bytes(octets[:2], "big")
        with suppress(RemoteError):
            tracker.apply(parse_message(octets[2 : 2 + length]), 0.0)
        octets = octets[2 + length :]
    for session in tracker.sessions():
        for item in session.contexts:
            assert decode(encode(item)) == item
    tracker.withheld()


@cache
def _scratch() -> Path:
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = tempfile.TemporaryDirectory(dir=place)
    _kept.append(directory)
    return Path(directory.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def capture(octets: bytes) -> None:
    """A pcap or pcapng file, by every reader."""
    path = _scratch() / "capture"
    path.write_bytes(octets)
    for read in (udp_datagrams, tcp_streams, sctp_data, icmp_messages):
        with suppress(CxtpError):
            for _ in read(path):
                pass


def context_file(octets: bytes) -> None:
    path = _scratch() / "contexts.ctx"
    path.write_bytes(octets)
    path.chmod(0o600)
    with suppress(CxtpError):
        read_context_file(path)


def xfrm(octets: bytes) -> None:
    """What a kernel of another version might say."""
    for read in (parse_policy, parse_security_association, lambda o: list(messages(o))):
        with suppress(MalformedNetlink):
            read(octets)


def sctp_notification(octets: bytes) -> None:
    parse_notification(octets)
    parse_received([(132, 3, octets)])


@cache
def _contexts() -> tuple[IkeSaContext | IpsecSaContext, ...]:
    (session,) = read_ha_capture(TRACES / "v5-plain" / "ha.pcap", keep_deleted=True).sessions()
    return tuple(c for c in session.contexts if isinstance(c, (IkeSaContext, IpsecSaContext)))


def packet(octets: bytes) -> None:
    """An IP packet for a restored session."""
    session = RestoredSession.restore(_contexts())
    with suppress(CxtpError):
        protected = session.classify(octets)
        if protected is not None:
            session.open(protected)


MN = ip_address("192.0.2.77")
ROUTERS = {
    address: Peer(address, 5091, name, is_router=True)
    for name, address in (("a", ip_address("198.51.100.1")), ("b", ip_address("198.51.100.2")))
}
PEERS = (*ROUTERS.values(), Peer(ip_address("203.0.113.9"), 0), Peer(ip_address("198.51.100.66"), 5091, "x"))
KEY = b"the mobile node's"
SMALL = Limits(transfers=3, contexts_per_transfer=8, octets_per_transfer=4096, events=16, remembered_requests=8)
CONTEXTS = (EncodedContext(0x7001, b"some context's octets"), EncodedContext(0x7002, bytes(300)))


def roles(octets: bytes) -> None:
    """An access router and a mobile node: each step is an octet that says what happens, and what it takes.

    The promises: no message raises, no queue is above its limit, S=1 follows an ``installed`` alone, and time alone
    brings everything to an end.
    """
    rng = random.Random(0)
    config = ProtocolConfig(limits=SMALL)
    router = AccessRouter(ROUTERS, rng, lambda mn: len(octets) % 2 == 0, config)
    mobile = MobileNode(rng, config)
    now, installed, steps = 100.0, False, 0
    while octets and steps < 200:
        kind, octets = octets[0], octets[1:]
        steps += 1
        peer = PEERS[kind % len(PEERS)]
        if kind < 128:
            length = int.from_bytes(octets[:2], "big") % 512
            router.receive(octets[2 : 2 + length], peer, now)
            with suppress(RemoteError):
                mobile.receive(parse(octets[2 : 2 + length]), peer, now)
            octets = octets[2 + length :]
        elif kind < 160:
            now += (0.001, 0.05, 0.3, 20.0)[kind % 4]
            router.handle_timer(now)
            mobile.handle_timer(now)
        else:
            with suppress(LocalError):
                _local(router, mobile, kind, now)
        installed |= _obey(router, kind, now)
        while mobile.next_event() is not None:
            pass
        mobile.to_send(now)
        for datagram in router.to_send(now):
            sent = parse(datagram.octets)
            assert not (isinstance(sent, ContextTransferDataReply) and sent.success) or installed
        for role in (router.previous, router.new):
            assert len(role._transfers) <= SMALL.transfers
            assert len(role._events) <= SMALL.events + SMALL.transfers
            assert len(role._outgoing) <= SMALL.events
    _let_time_pass(router, now)


def _local(router: AccessRouter, mobile: MobileNode, kind: int, now: float) -> None:
    a, b = ROUTERS.values()
    actions: tuple[Callable[[], object], ...] = (
        lambda: router.previous.transfer(MN, b, CONTEXTS, 7, now),
        lambda: router.previous.predict(MN, b, CONTEXTS, 7, KEY, now),
        lambda: router.previous.resend(MN, now),
        lambda: router.new.request(MN, a, now),
        lambda: router.new.cancel(MN, now),
        lambda: mobile.activate(MN, a, b, now, KEY, predictive=bool(kind & 8)),
    )
    actions[kind % len(actions)]()


def _obey(router: AccessRouter, kind: int, now: float) -> bool:
    """Do what the events ask for, in one way or another; whether anything was installed."""
    installed = False
    while (event := router.next_event()) is not None:
        with suppress(LocalError):
            if isinstance(event, ContextsReceived):
                router.new.installed(event.mn_address, event.transfer_id, (), now, success=bool(kind & 1))
                installed |= bool(kind & 1)
            elif isinstance(event, TransferAborted) and event.transfer_id is not None:
                router.new.refused(event.mn_address, event.transfer_id, (), now)
            elif isinstance(event, ActivateContexts):
                router.new.activated(event.mn_address, event.transfer_id, (), now)
            elif isinstance(event, (ContextsRequested, ActivationRequested)):
                if kind & 2:
                    router.previous.refuse(event.mn_address, 7, now)
                elif router.previous.authorize(event.mn_address, KEY, now):
                    router.previous.provide(event.mn_address, CONTEXTS, 7, KEY, now)
    return installed


def _let_time_pass(router: AccessRouter, now: float) -> None:
    for _ in range(500):
        deadline = router.deadline()
        if deadline is None:
            return
        now = max(now, deadline)
        router.handle_timer(now)
        _obey(router, 1, now)
        router.to_send(now)
    raise AssertionError("time alone does not end it")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": message,
    "icmp": icmp,
    "context": context,
    "ha-message": ha_message,
    "ha-session": ha_session,
    "capture": capture,
    "context-file": context_file,
    "xfrm": xfrm,
    "sctp-notification": sctp_notification,
    "packet": packet,
    "roles": roles,
}

CORPUS = Path(__file__).parent / "corpus"


def corpus(target: str) -> dict[str, bytes]:
    """The committed inputs of a target, by their names."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).glob("*"))}
