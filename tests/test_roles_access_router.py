"""Both routers in one, over octets: who gets which message, and that nothing a peer sends can do harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from helpers import (
    CONTEXTS,
    CTC,
    EMPTY_CTD,
    KEY,
    MN,
    MOBILE,
    NEW,
    NEW_ADDRESS,
    OTHER,
    PREVIOUS,
    PREVIOUS_ADDRESS,
    ROUTERS,
    STRANGER,
    TRANSFER_ID,
    Fixed,
    RolePair,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    drops,
    obey,
    pctd,
    take_events,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from message_strategies import messages

from cxtp.config import Limits, ProtocolConfig
from cxtp.errors import LocalError
from cxtp.messages import ContextStatus, ContextTransferRequest, Message
from cxtp.roles import AccessRouter, DropReason, Event, MobileNode, Peer
from cxtp.roles.events import (
    ActivateContexts,
    ActivationAcknowledged,
    ActivationRequested,
    ContextsReceived,
    ContextsRequested,
    TransferConfirmed,
)
from cxtp.wire import build, parse

T = 100.0
PEERS = (PREVIOUS, NEW, OTHER, MOBILE, STRANGER)
SMALL = ProtocolConfig(
    limits=Limits(transfers=4, remembered_requests=6, events=40, contexts_per_transfer=8, message_octets=400)
)


def router(*, serves: bool = False, config: ProtocolConfig = ProtocolConfig()) -> AccessRouter:
    return AccessRouter(ROUTERS, Fixed(TRANSFER_ID), lambda mn: serves, config)


# --- who gets what


def test_octets_in_and_octets_out() -> None:
    role = router()
    role.receive(build(ctd()), PREVIOUS, T)
    (event,) = take_events(role)
    assert isinstance(event, ContextsReceived)
    role.new.installed(MN, TRANSFER_ID, (), T)
    (datagram,) = role.to_send(T)
    assert datagram.peer == PREVIOUS
    assert parse(datagram.octets) == datagram.message == ctdr(True)
    assert role.to_send(T) == []


def test_octets_that_are_no_message_are_counted() -> None:
    role = router()
    octets = build(ctd())
    for bad in (b"", octets[:-1], octets + b"\0", b"\xff" + octets[1:]):
        role.receive(bad, PREVIOUS, T)
    assert drops(role) == [DropReason.MALFORMED] * 4
    assert role.counters == {DropReason.MALFORMED: 4}


def test_malformed_octets_fill_no_queue() -> None:
    role = router(config=SMALL)
    for _ in range(1000):
        role.receive(b"", STRANGER, T)
    assert role.counters[DropReason.MALFORMED] == 1000
    assert len(take_events(role)) == SMALL.limits.events


def test_a_ctar_goes_to_the_previous_router_where_its_mobile_node_is_served() -> None:
    role = router(serves=True)
    role.receive_message(ctar(9, NEW), MOBILE, T)
    assert isinstance(role.next_event(), ActivationRequested)


def test_a_ctar_goes_to_the_new_router_elsewhere() -> None:
    role = router(serves=False)
    role.receive_message(ctar(9, PREVIOUS), MOBILE, T)
    assert [datagram.message for datagram in role.to_send(T)] == [ct_req(9)]


def test_a_repeated_ctar_goes_where_the_first_went_whatever_is_served_now() -> None:
    served = [True]
    role = AccessRouter(ROUTERS, Fixed(TRANSFER_ID), lambda mn: served[0])
    role.receive_message(ctar(9, NEW), MOBILE, T)
    take_events(role)
    served[0] = False
    role.receive_message(ctar(9, NEW), MOBILE, T)
    assert role.previous.counters == {DropReason.DUPLICATE_REQUEST: 1}

    role = AccessRouter(ROUTERS, Fixed(TRANSFER_ID), lambda mn: served[0])
    role.receive_message(ctar(9, PREVIOUS), MOBILE, T)
    served[0] = True
    role.receive_message(ctar(9, PREVIOUS), MOBILE, T)
    assert role.new.counters == {DropReason.DUPLICATE_REQUEST: 1}


def test_a_ctar_for_contexts_ahead_goes_to_the_new_router_though_the_node_holds_them() -> None:
    role = router(serves=True)
    role.receive_message(pctd(), PREVIOUS, T)
    role.new.installed(MN, TRANSFER_ID, (), T)
    take_events(role)
    role.receive_message(ctar(9, PREVIOUS), MOBILE, T)
    assert obey(role) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]


def test_a_ctaa_is_for_no_router() -> None:
    role = router()
    role.receive_message(ctaa(), MOBILE, T)
    assert drops(role) == [DropReason.UNEXPECTED_MESSAGE]


def test_the_earlier_of_two_deadlines() -> None:
    role = router()
    assert role.deadline() is None
    role.new.request(MN, PREVIOUS, T)
    role.previous.transfer(MN + 1, NEW, CONTEXTS, 7, T - 0.01)
    assert role.deadline() == pytest.approx(T + 0.03)
    role.handle_timer(T + 0.03)
    assert role.deadline() == pytest.approx(T + 0.04)


# --- two of them and a mobile node


@pytest.mark.parametrize("reliable", [False, True])
def test_a_move_over_a_perfect_link(reliable: bool) -> None:
    pair = RolePair(reliable=reliable, octets=True)

    def node(address: object, event: Event, now: float) -> None:
        if isinstance(event, (ActivationRequested, ContextsRequested)):
            pair.routers[PREVIOUS_ADDRESS].previous.provide(MN, CONTEXTS, 7, KEY, now)
        elif isinstance(event, ContextsReceived):
            pair.routers[NEW_ADDRESS].new.installed(MN, event.transfer_id, (), now)

    pair.on_event = node
    pair.mobile.activate(MN, pair.peers[PREVIOUS_ADDRESS], pair.peers[NEW_ADDRESS], pair.clock.now, KEY)
    pair.run()
    kinds = [type(event) for _, event in pair.events]
    assert kinds == [ContextsRequested, ContextsReceived, TransferConfirmed, ActivationAcknowledged]


# --- any message, in any state

SENT = (
    ctd(),
    pctd(),
    ctd(transfer_id=1),
    pctd(transfer_id=2, key=b"another"),
    replace(ctd(), acknowledge=False),
    replace(pctd(), blocks=()),
    replace(ctd(), blocks=ctd().blocks[1:]),
    replace(ctd(), blocks=ctd().blocks[:2]),
    EMPTY_CTD,
    ctdr(True),
    ctdr(False, ContextStatus(0xFF01, 6)),
    ctdr(True, receipt=()),
    ctdr(False, receipt=()),
    CTC,
    ct_req(9),
    ct_req(9, None),
    ct_req(10, b"a guess"),
    ctar(9, PREVIOUS),
    ctar(10, NEW),
    ctar(11, PREVIOUS, b"a guess"),
    ctar(12, STRANGER),
    replace(ctar(13, PREVIOUS), authorization_token=bytes(4)),
    ctaa(),
)
"""Messages that mean something to a transfer of MN, in one state or another."""


class Fuzzed:
    """A router, and a node that does whatever comes to its mind."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = T
        self.role = AccessRouter(ROUTERS, rng, lambda mn: rng.random() < 0.5, SMALL)

    def local(self) -> None:
        """Any local action; LocalError is the caller's own affair."""
        previous, new, rng, now = self.role.previous, self.role.new, self.rng, self.now
        mn = MN + rng.randrange(3)
        actions: list[Callable[[], object]] = [
            lambda: previous.transfer(mn, NEW, CONTEXTS, 7, now),
            lambda: previous.predict(mn, NEW, CONTEXTS, 7, KEY, now),
            lambda: previous.authorize(mn, rng.choice((KEY, None)), now),
            lambda: previous.provide(mn, CONTEXTS, 7, rng.choice((KEY, None)), now, TRANSFER_ID),
            lambda: previous.refuse(mn, 7, now),
            lambda: previous.resend(mn, now),
            lambda: new.request(mn, PREVIOUS, now),
            lambda: new.cancel(mn, now),
            lambda: new.installed(mn, rng.choice((TRANSFER_ID, 1, 2, None)), (), now),
            lambda: new.installed(mn, rng.choice((TRANSFER_ID, 1, 2, None)), (ContextStatus(1, 6),), now),
            lambda: new.refused(mn, rng.choice((TRANSFER_ID, 1, 2, None)), (), now),
            lambda: new.activated(mn, rng.choice((TRANSFER_ID, 1, 2, None)), (), now),
        ]
        with suppress(LocalError):
            rng.choice(actions)()

    def take(self) -> None:
        take_events(self.role)
        for datagram in self.role.to_send(self.now):
            assert build(parse(datagram.octets)) == datagram.octets

    def check(self) -> None:
        limits = SMALL.limits
        for role in (self.role.previous, self.role.new):
            assert len(role._transfers) <= limits.transfers
            assert len(role._events) <= limits.events + limits.transfers
            assert len(role._outgoing) <= limits.events
            assert role._activations.size(self.now) <= limits.remembered_requests
        assert self.role.new._answers.size(self.now) <= limits.remembered_requests

    def settle(self) -> None:
        """Let the node answer all that it was asked, and time pass: nothing may be left."""
        self.take()
        for mn in (MN, MN + 1, MN + 2):
            with suppress(LocalError):
                self.role.previous.refuse(mn, 7, self.now)
            for transfer_id in (TRANSFER_ID, 1, 2, None):
                with suppress(LocalError):
                    self.role.new.installed(mn, transfer_id, (), self.now)
                with suppress(LocalError):
                    self.role.new.refused(mn, transfer_id, (), self.now)
                with suppress(LocalError):
                    self.role.new.activated(mn, transfer_id, (), self.now)
        for _ in range(1000):
            deadline = self.role.deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            self.role.handle_timer(self.now)
            self.take()
        assert self.role.deadline() is None, "time alone does not end it"
        assert not self.role.previous._transfers
        assert not self.role.new._transfers


@pytest.mark.parametrize("seed", range(150))
def test_any_message_in_any_state(seed: int) -> None:
    rng = random.Random(seed)
    fuzzed = Fuzzed(rng)
    routers_only = rng.random() < 0.8
    for _ in range(150):
        chance = rng.random()
        if chance < 0.6:
            message: Message = rng.choice(SENT)
            if rng.random() < 0.3:
                message = replace(message, mn_previous_address=MN + rng.randrange(3))
            peer: Peer = rng.choice(PEERS[:3] if routers_only else PEERS)
            fuzzed.role.receive_message(message, peer, fuzzed.now)
        elif chance < 0.85:
            fuzzed.local()
        else:
            fuzzed.now += rng.choice((0.0, 0.01, 0.05, 0.2, 1.0, 16.0))
            fuzzed.role.handle_timer(fuzzed.now)
        if rng.random() < 0.9:
            fuzzed.take()
        fuzzed.check()
    fuzzed.settle()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.tuples(messages(), st.sampled_from(PEERS)), max_size=12))
def test_messages_without_sense(received: list[tuple[Message, Peer]]) -> None:
    role = AccessRouter(ROUTERS, Fixed(TRANSFER_ID), lambda mn: True, SMALL)
    mobile = MobileNode(Fixed(9), SMALL)
    mobile.activate(MN, PREVIOUS, NEW, T, KEY, predictive=True)
    for message, peer in received:
        role.receive_message(message, peer, T)
        mobile.receive(message, peer, T)
        for datagram in role.to_send(T):
            assert build(parse(datagram.octets)) == datagram.octets
    take_events(role)
    take_events(mobile)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=80), st.sampled_from(PEERS), st.integers(0, 7))
def test_octets_without_sense(octets: bytes, peer: Peer, kind: int) -> None:
    role = router()
    head = bytes((0x20 | kind, 0x80)) + (len(octets) + 4).to_bytes(2, "big")
    role.receive(octets, peer, T)
    role.receive(head + octets, peer, T)
    assert len(take_events(role)) <= 4


@pytest.mark.parametrize("acknowledge", [True, False])
def test_a_late_ctar_does_not_fetch_the_session_back(acknowledge: bool) -> None:
    """RFC 4067, 5.3: the mobile node tells both routers, by one sequence number; here its word to us comes last."""
    #  nAR --CT-Req--> pAR;  pAR --CTD--> nAR;  nAR --CTDR--> pAR;  MN --CTAR--> pAR, which has nothing any more
    here = [True]
    role = AccessRouter(ROUTERS, Fixed(TRANSFER_ID), lambda mn: here[0])
    role.receive_message(ct_req(77), NEW, T)
    (asked,) = take_events(role)
    assert isinstance(asked, ContextsRequested)
    assert role.previous.authorize(MN, KEY, T)
    role.previous.provide(MN, CONTEXTS, 7, KEY, T, transfer_id=TRANSFER_ID)
    role.messages_to_send(T)
    role.receive_message(ctdr(True), NEW, T + 0.1)
    assert any(isinstance(event, TransferConfirmed) for event in take_events(role))
    here[0] = False
    role.receive_message(ctar(77, NEW, acknowledge=acknowledge), MOBILE, T + 0.2)
    told = [outgoing.message for outgoing in role.messages_to_send(T + 0.2)]
    assert told == ([ctaa()] if acknowledge else [])
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]
    # Another request of the mobile node's, which now is behind NEW and comes back, is served.
    role.receive_message(ctar(78, NEW), MOBILE, T + 0.3)
    (request,) = role.messages_to_send(T + 0.3)
    assert isinstance(request.message, ContextTransferRequest)
