"""What strongSwan's messages and the kernel tell, joined; and numbers that are never lowered.

Witness of the sessions: recordings of real daemons with kernel ESP, what they exported beside what the kernel held.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import CounterKnowledge, IpsecKeys, KeymatDerivation
from cxtp.adapters.strongswan_ha import ExportedSession, read_ha_capture
from cxtp.adapters.xfrm.formats import messages, parse_security_association
from cxtp.adapters.xfrm.replay import Numbers, numbers_of
from cxtp.adapters.xfrm.values import Algorithm, SecurityAssociation, SecurityAssociationId
from cxtp.kernel_learning import keys_of
from cxtp.strongswan_contexts import children_of, identifiers, joined, never_lower

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
KERNEL = sorted(path.parent.name for path in TRACES.glob("k-*/xfrm-gw.sa.bin"))
NOW = 1_700_000_000.0


def recorded(trace: str) -> tuple[ExportedSession, dict[SecurityAssociationId, SecurityAssociation]]:
    """The session that lasted, and what the kernel held at the end."""
    tracker = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True)
    dump = (TRACES / trace / "xfrm-gw.sa.bin").read_bytes()
    found = [parse_security_association(body) for header, body in messages(dump) if header.type == 0x10]
    (session,) = tracker.sessions()
    return session, {sa.identifier: sa for sa in found}


def is_alive(trace: str) -> bool:
    """Its SAs were there when the kernel was looked at, all of ESP."""
    session, kernel = recorded(trace)
    children = children_of(session.contexts)
    return any(child.proposal.protocol == 3 and identifiers(child)[0] in kernel for child in children)


ALIVE = [name for name in KERNEL if is_alive(name)]


def test_there_are_recordings_of_every_sort() -> None:
    assert {"k-raw-gcm", "k-esn-w128", "k-transport-cbc", "k-natt-encap"} <= set(ALIVE)


@pytest.mark.parametrize("trace", ALIVE)
def test_the_kernel_has_the_last_word(trace: str) -> None:
    session, kernel = recorded(trace)
    found = joined(session.contexts, kernel, (), NOW, exact=True)
    assert [c for c in found if isinstance(c, IkeSaContext)] == [
        c for c in session.contexts if isinstance(c, IkeSaContext)
    ]
    for context in children_of(found):
        out, back = (kernel[identifier] for identifier in identifiers(context))
        assert context.sequence_numbers.outbound == numbers_of(out).outbound
        assert context.sequence_numbers.inbound == numbers_of(back).inbound
        assert (context.window.size, context.window.bitmap) == (numbers_of(back).window, numbers_of(back).bitmap)
        assert context.sequence_numbers.knowledge is CounterKnowledge.EXACT
        assert context.lifetime.octets.used == out.usage.octets
        # The messages led to the kernel's keys: they can travel as what derives them.
        assert isinstance(context.keying, KeymatDerivation)


def test_keys_that_the_messages_do_not_lead_to_are_the_kernels() -> None:
    session, kernel = recorded("k-raw-gcm")
    changed = {
        identifier: replace(sa, aead=Algorithm(sa.aead.name, bytes(len(sa.aead.key)), sa.aead.icv_bits))
        for identifier, sa in kernel.items()
        if sa.aead is not None
    }
    (context,) = children_of(joined(session.contexts, changed, (), NOW, exact=False))
    assert isinstance(context.keying, IpsecKeys)
    out, back = (changed[identifier] for identifier in identifiers(context))
    assert context.keying.outbound_encryption == keys_of(out)[0]
    assert context.keying.inbound_encryption == keys_of(back)[0]
    assert context.sequence_numbers.knowledge is CounterKnowledge.AT_LEAST


def test_what_the_kernel_did_not_tell_of() -> None:
    """While the session is in use such a CHILD_SA is gone; in the end it is as it is on record, at its ceiling."""
    session, kernel = recorded("k-raw-gcm")
    (held,) = children_of(joined(session.contexts, kernel, (), NOW, exact=False))
    at_its_ceiling = replace(held, sequence_numbers=replace(held.sequence_numbers, outbound=5000))
    assert children_of(joined(session.contexts, {}, (at_its_ceiling,), NOW, exact=False)) == []
    assert children_of(joined(session.contexts, {}, (at_its_ceiling,), NOW, exact=True)) == [at_its_ceiling]
    assert children_of(joined(session.contexts, {}, (), NOW, exact=True)) == []


def test_what_is_on_record_beyond_the_kernel_stays() -> None:
    """The kernel's limit of packets is our ceiling by now; the record knows the SA's own."""
    session, kernel = recorded("k-raw-gcm")
    (held,) = children_of(joined(session.contexts, kernel, (), NOW, exact=False))
    fenced = {i: replace(sa, lifetime=replace(sa.lifetime, hard_packets=77)) for i, sa in kernel.items()}
    (context,) = children_of(joined(session.contexts, fenced, (held,), NOW, exact=True))
    assert context.lifetime.packets.hard == held.lifetime.packets.hard != 77


# --- numbers that are never lowered -----------------------------------------------------------------------------------

WINDOWS = st.sampled_from((1, 32, 64, 128))


@st.composite
def numbers(draw: st.DrawFn) -> Numbers:
    window = draw(WINDOWS)
    extended = draw(st.booleans())
    limit = (1 << 40) if extended else (1 << 32) - 1
    inbound = draw(st.integers(0, limit))
    room = min(window, inbound)
    bitmap = draw(st.integers(0, (1 << room) - 1)) | (1 if inbound else 0)
    return Numbers(draw(st.integers(0, limit)), inbound, window, bitmap, extended)


def association(told: Numbers) -> SecurityAssociation:
    return SecurityAssociation(
        ip_address("192.0.2.1"),
        ip_address("192.0.2.2"),
        0x1234,
        flags=0x80 if told.extended else 0,
        window_field=told.window_field,
        replay=told.to_replay_state(),
    )


def taken(told: Numbers, window: int) -> set[int]:
    """The numbers among the last ``window`` up to the highest that count as received."""
    return {told.inbound - below for below in range(min(window, told.inbound)) if told.bitmap >> below & 1}


@given(wanted=numbers(), there=numbers())
def test_never_lower(wanted: Numbers, there: Numbers) -> None:
    low = 0xFFFF_FFFF
    there = replace(there, extended=wanted.extended, outbound=there.outbound & low, inbound=there.inbound & low)
    there = replace(there, bitmap=there.bitmap & ((1 << min(there.window, there.inbound)) - 1))
    found = never_lower(association(wanted), association(there), wanted.window)
    assert found.outbound == max(wanted.outbound, there.outbound)
    assert found.inbound == max(wanted.inbound, there.inbound)
    # The kernel keeps the window that its SA has.
    assert (found.window, found.extended) == (there.window, there.extended)
    reach = range(max(1, found.inbound - found.window + 1), found.inbound + 1)
    received = taken(found, found.window)
    for number in reach:
        if number in taken(wanted, wanted.window) or number in taken(there, there.window):
            assert number in received  # no packet that came once is taken again
        elif number <= wanted.inbound - wanted.window:
            assert number in received  # what the context does not tell of may have come
        elif number > wanted.inbound or number > there.inbound - there.window:
            assert number not in received or number <= wanted.inbound - wanted.window


@given(told=numbers())
def test_numbers_that_are_there_already_stay(told: Numbers) -> None:
    sa = association(told)
    assert never_lower(sa, sa, told.window) == numbers_of(sa)


def test_a_session_without_children_is_joined() -> None:
    session, _ = recorded("k-raw-gcm")
    alone = [c for c in session.contexts if not isinstance(c, IpsecSaContext)]
    assert list(joined(alone, {}, (), NOW, exact=True)) == alone
