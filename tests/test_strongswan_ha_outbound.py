"""Contexts as ``ha`` messages.  Witness: the recorded daemons' own messages, which the same sessions made."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from contexts.base import decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
from cxtp.adapters.capture import udp_datagrams
from cxtp.adapters.strongswan_ha import (
    Attribute,
    HaMessage,
    HaMessageType,
    HaTracker,
    NotExpressible,
    build_message,
    messages_of,
    parse_message,
    read_ha_capture,
)
from cxtp.adapters.strongswan_ha.codec import is_private_copy

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
CAPTURES = sorted(TRACES.glob("*/ha*.pcap"))


def recorded(path: Path) -> list[HaMessage]:
    return [parse_message(datagram.payload) for datagram in udp_datagrams(path, 4510)]


def key(message: HaMessage) -> tuple[object, ...]:
    return message.type, message.first(Attribute.IKE_ID), message.first(Attribute.INBOUND_SPI)


def values(message: HaMessage) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for attribute in message.attributes:
        value = attribute.value
        if attribute.attribute is Attribute.PEER_ADDR:
            value = value.address  # type: ignore[union-attr]  # charon uses the IKE_SA's port for all of them
        if not is_private_copy(attribute):
            found.setdefault(attribute.attribute.name, []).append(value)
    return found


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_adds_are_those_that_the_daemon_sent(path: Path) -> None:
    sent: dict[tuple[object, ...], HaMessage] = {}
    for message in recorded(path):
        sent.setdefault(key(message), message)
    compared = 0
    for session in read_ha_capture(path, keep_deleted=True).sessions():
        contexts = tuple(decode(encode(context)) for context in session.contexts)
        if any(isinstance(c, IpsecSaContext) and c.proposal.protocol != 3 for c in contexts):
            with pytest.raises(NotExpressible, match="AH"):
                messages_of(contexts, 3, os.urandom)
            continue
        version = recorded(path)[0].version
        for message in messages_of(contexts, version, os.urandom):
            theirs = sent.get(key(message))
            if message.type is HaMessageType.CHILD_ADD and theirs is None:
                continue  # its IKE_SA was rekeyed: it is told of under the one that it belongs to now
            if message.type not in (HaMessageType.IKE_ADD, HaMessageType.CHILD_ADD) or theirs is None:
                continue
            if message.first(Attribute.ALG_ENCR) is None:
                continue  # an additional key exchange has its parent's IKE_ID: below
            expected = values(theirs)
            expected.pop("IKE_REKEY_ID", None)  # that one is gone at the target; OLD_SKD says all of it
            if message.type is HaMessageType.CHILD_ADD:
                expected.pop("ALG_ADD_KES", None)  # for the daemon's own lists alone: the key is in ADD_SECRET
            if "REMOTE_ADDR" in expected:  # where the peer was first; NAT traversal moves it to another port
                expected["REMOTE_ADDR"] = values(message)["REMOTE_ADDR"]
            assert values(message) == expected
            compared += 1
    tracker = read_ha_capture(path, keep_deleted=True)
    if tracker.sessions() and "ah-" not in path.parent.name:
        assert compared


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_daemon_that_is_told_all_has_the_same_session(path: Path, version: int) -> None:
    """The tracker is the daemon's stand-in; test_strongswan.py has real ones."""
    for session in read_ha_capture(path).sessions():
        ike = [context for context in session.contexts if isinstance(context, IkeSaContext)]
        beyond = any(
            getattr(part, name, ())
            for context in session.contexts
            for part, name in (
                (context.keying, "additional_secrets"),
                (context.proposal, "additional_key_exchanges"),
            )
        )
        if any(isinstance(c, IpsecSaContext) and c.proposal.protocol != 3 for c in session.contexts):
            continue
        if beyond and version == 3:
            with pytest.raises(NotExpressible, match="no place in version 3"):
                messages_of(session.contexts, version, os.urandom)
            continue
        tracker = HaTracker(window=128)
        for message in messages_of(session.contexts, version, os.urandom):
            tracker.apply(parse_message(build_message(message)), 0.0)
        assert tracker.reports == ()
        (again,) = tracker.sessions()
        assert again.mn_address == session.mn_address
        for one, other in zip(again.contexts, session.contexts, strict=True):
            if isinstance(one, IpsecSaContext) and not hasattr(other.keying, "nonces"):
                other = replace(other, keying=one.keying)  # the kernel's keys are set by themselves
            if isinstance(one, IkeSaContext) and version < 5:
                one, other = (without_private_bits(context) for context in (one, other))  # type: ignore[arg-type]
            assert one == other
        assert ike


def without_private_bits(context: IkeSaContext) -> IkeSaContext:
    kept = tuple(p for p in context.vendor_parameters if (p.enterprise, p.number) not in ((36906, 3), (36906, 4)))
    return replace(context, vendor_parameters=kept)


def plain() -> tuple[IkeSaContext | IpsecSaContext, ...]:
    (session,) = read_ha_capture(TRACES / "k-raw-gcm" / "ha.pcap", keep_deleted=True).sessions()
    return session.contexts


def test_keys_without_the_secret_they_come_from_are_refused() -> None:
    contexts = with_key_case(plain(), 3)
    with pytest.raises(NotExpressible, match="key case 2"):
        messages_of(contexts, 3, os.urandom)  # type: ignore[arg-type]


def test_a_session_without_a_connection_is_refused() -> None:
    contexts = tuple(replace(context, vendor_parameters=()) for context in plain())
    with pytest.raises(NotExpressible, match="names no child"):
        messages_of(contexts, 3, os.urandom)


def test_a_child_without_its_ike_sa_is_refused() -> None:
    children = [context for context in plain() if isinstance(context, IpsecSaContext)]
    with pytest.raises(NotExpressible, match="belongs to no IKE_SA"):
        messages_of(children, 3, os.urandom)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(NotExpressible, match="version 6"):
        messages_of(plain(), 6, os.urandom)


def test_no_key_is_in_what_messages_show() -> None:
    shown = repr(messages_of(plain(), 3, os.urandom))
    secrets = json.loads((TRACES / "k-raw-gcm" / "keys.json").read_text())
    assert "<secret>" in shown
    assert not any(isinstance(v, str) and len(v) >= 32 and v in shown for v in secrets.values())
