"""The mobile node by itself: CTARs, their repetition, and the answers."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from helpers import KEY, MN, MOBILE, NEW, OTHER, PREVIOUS, Fixed, ctaa, ctar, ctd, drops, take_events, token

from cxtp.config import Limits, ProtocolConfig
from cxtp.errors import LocalError
from cxtp.messages import ContextRequest, ContextStatus, ContextTransferActivateRequest
from cxtp.roles import DropReason, MobileNode, Outgoing
from cxtp.roles.events import ActivationAcknowledged, ActivationFailed
from cxtp.wire import build

T = 100.0
NEW6 = replace(NEW, address=ip_address("2001:db8::2"))


def waiting(*, predictive: bool = False) -> MobileNode:
    role = MobileNode(Fixed(9))
    role.activate(MN, PREVIOUS, NEW, T, KEY, predictive=predictive)
    role.to_send(T)
    return role


def test_a_ctar_is_repeated_with_doubled_waits_until_it_is_given_up() -> None:
    role = waiting()
    for seconds in (2, 6, 14):  # CT_REQUEST_RETRY, then twice, then four times that
        assert role.deadline() == T + seconds
        role.handle_timer(T + seconds - 0.001)
        assert role.to_send(T) == []
        role.handle_timer(T + seconds)
        assert role.to_send(T) == [Outgoing(ctar(9, PREVIOUS), NEW)]
    assert role.deadline() == T + 15
    role.handle_timer(T + 14.999)
    assert take_events(role) == []
    role.handle_timer(T + 15)  # CT_RETRY_MAX
    assert take_events(role) == [ActivationFailed(MN, NEW)]
    assert role.to_send(T) == []
    assert role.deadline() is None


def test_the_new_routers_answer_ends_it() -> None:
    role = waiting(predictive=True)
    failed = ContextStatus(0xFF01, 6)
    role.receive(ctaa(failed), NEW, T)
    assert take_events(role) == [ActivationAcknowledged(MN, (failed,), NEW)]
    assert role.deadline() is None
    role.receive(ctaa(), PREVIOUS, T)
    assert drops(role) == [DropReason.NO_TRANSFER]


def test_the_previous_routers_answer_ends_the_repetitions_to_it() -> None:
    role = waiting(predictive=True)
    role.handle_timer(T + 2)
    assert role.to_send(T) == [Outgoing(ctar(9, NEW), PREVIOUS), Outgoing(ctar(9, PREVIOUS), NEW)]
    role.receive(ctaa(), PREVIOUS, T + 2)
    assert take_events(role) == [ActivationAcknowledged(MN, (), PREVIOUS)]
    role.receive(ctaa(), PREVIOUS, T + 2)
    assert drops(role) == [DropReason.OUT_OF_TURN]
    role.handle_timer(T + 6)
    assert role.to_send(T) == [Outgoing(ctar(9, PREVIOUS), NEW)]


def test_without_a_there_is_no_answer_to_wait_for() -> None:
    role = MobileNode(Fixed(9))
    role.activate(MN, PREVIOUS, NEW, T, KEY, acknowledge=False)
    assert role.to_send(T) == [Outgoing(ctar(9, PREVIOUS, acknowledge=False), NEW)]
    assert role.deadline() is None


def test_requested_types_are_sent_and_signed() -> None:
    role = MobileNode(Fixed(9))
    role.activate(MN, PREVIOUS, NEW, T, KEY, (ContextRequest(0xFF01), ContextRequest(1, length=1)))
    (outgoing,) = role.to_send(T)
    assert isinstance(outgoing.message, ContextTransferActivateRequest)
    assert outgoing.message.requested == (ContextRequest(0xFF01), ContextRequest(1, length=1))
    signed = bytes.fromhex("ff01 00 00  0001 01 00 00000000")
    assert outgoing.message.authorization_token == token(KEY, 9, signed)


def test_a_sequence_number_is_not_used_again_within_its_lifetime() -> None:
    role = MobileNode(Fixed(9, 9, 10, 9))
    assert role.activate(MN, PREVIOUS, NEW, T, KEY, acknowledge=False) == 9
    assert role.activate(MN, PREVIOUS, NEW, T + 6.999, KEY, acknowledge=False) == 10
    assert role.activate(MN, PREVIOUS, NEW, T + 7, KEY, acknowledge=False) == 9


def test_randomness_that_repeats_itself_is_no_randomness() -> None:
    role = MobileNode(Fixed())
    role.activate(MN, PREVIOUS, NEW, T, KEY, acknowledge=False)
    with pytest.raises(LocalError):
        role.activate(MN, PREVIOUS, NEW, T, KEY, acknowledge=False)


def test_a_token_that_happens_to_be_null_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {9: bytes(4), 10: b"true"}
    monkeypatch.setattr("cxtp.roles.mobile_node.compute_token", lambda key, mn, number, requested: tokens[number])
    assert MobileNode(Fixed(9, 10)).activate(MN, PREVIOUS, NEW, T, KEY) == 10


def test_one_activation_of_an_address_at_a_time() -> None:
    role = waiting()
    with pytest.raises(LocalError):
        role.activate(MN, PREVIOUS, NEW, T, KEY)
    role.receive(ctaa(), NEW, T)
    role.activate(MN, PREVIOUS, NEW, T + 8, KEY)


def test_answers_of_others_and_other_messages_are_dropped() -> None:
    role = waiting()
    role.receive(ctaa(), OTHER, T)
    role.receive(ctaa(), PREVIOUS, T)  # nothing was sent to it
    role.receive(ctd(), NEW, T)
    role.receive(ctar(9, NEW), MOBILE, T)
    expected = [DropReason.WRONG_ROUTER, DropReason.OUT_OF_TURN]
    assert drops(role) == [*expected, DropReason.UNEXPECTED_MESSAGE, DropReason.UNEXPECTED_MESSAGE]
    assert role.deadline() == T + 2


def test_activations_under_way_are_limited() -> None:
    role = MobileNode(random.Random(1), ProtocolConfig(limits=Limits(transfers=1)))
    role.activate(MN, PREVIOUS, NEW, T, KEY)
    with pytest.raises(LocalError):
        role.activate(MN + 1, PREVIOUS, NEW, T, KEY)


def test_an_empty_key_is_none() -> None:
    with pytest.raises(LocalError):
        MobileNode(Fixed(9)).activate(MN, PREVIOUS, NEW, T, b"")


def test_a_ctar_fits_one_packet() -> None:
    """RFC 4067, 3.2: 1280 octets less 48 of IPv6 and ICMP pass every link."""
    role = MobileNode(Fixed(9))
    address = ip_address("2001:db8::77")
    most = [ContextRequest(2 + number) for number in range(256)]
    with pytest.raises(LocalError, match="257 context types"):
        role.activate(address, PREVIOUS, NEW, T, KEY, [*most, ContextRequest(999)])
    role.activate(address, replace(PREVIOUS, address=ip_address("2001:db8::1")), NEW6, T, KEY, most)
    (outgoing,) = role.to_send(T)
    assert 1000 < len(build(outgoing.message)) <= 1280 - 40 - 8
