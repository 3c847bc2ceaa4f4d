"""Contexts learned from recorded kernels: their keys and SPIs are the IKE daemon's own, and they go back unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contexts.values import IpsecKeys
from cxtp.adapters.xfrm import Mode, SecurityAssociation, SecurityPolicy
from cxtp.adapters.xfrm.formats import messages, parse_policy, parse_security_association
from cxtp.kernel_contexts import pairs_of
from cxtp.kernel_learning import learn

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
RECORDINGS = sorted(path for path in TRACES.glob("*/xfrm-*.sa.bin") if (path.parent / "keys.json").exists())
NOW = 1_800_000_000.0


def read(path: Path) -> tuple[list[SecurityAssociation], list[SecurityPolicy]]:
    policies = path.with_name(path.name.replace(".sa.", ".policy."))
    return (
        [parse_security_association(body) for header, body in messages(path.read_bytes()) if header.type == 0x10],
        [parse_policy(body) for header, body in messages(policies.read_bytes()) if header.type == 0x13],
    )


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.parent.name)
def test_a_recorded_kernel(path: Path) -> None:
    associations, policies = read(path)
    sessions, not_learned = learn(associations, policies, NOW)
    assert not_learned == []
    (session,) = sessions
    assert len(session.contexts) == len(associations) // 2
    daemons = json.dumps(json.loads((path.parent / "keys.json").read_text())).lower()
    for context in session.contexts:
        assert f"{context.inbound_spi:08x}" in daemons
        assert f"{context.outbound_spi:08x}" in daemons
        assert isinstance(context.keying, IpsecKeys)
        for key in (context.keying.inbound_encryption, context.keying.outbound_encryption):
            assert key[:16].hex() in daemons
    (pair,) = pairs_of(session.contexts, {}, NOW)
    for made, was in ((pair.inbound, pair.context.inbound_spi), (pair.outbound, pair.context.outbound_spi)):
        (theirs,) = (sa for sa in associations if sa.spi == was)
        for field in ("source", "destination", "mode", "request_id", "encryption", "aead", "encapsulation"):
            assert getattr(made, field) == getattr(theirs, field), field
        assert (made.authentication is None) == (theirs.authentication is None)
        assert made.is_extended == theirs.is_extended
    theirs_selectors = {(policy.direction, policy.selector) for policy in policies if policy.direction <= 2}
    ours_selectors = {(policy.direction, policy.selector) for policy in pair.policies}
    assert ours_selectors <= theirs_selectors


def test_what_belongs_together_while_it_is_rekeyed() -> None:
    """The new pair and the old: by when they were made, even where the old inbound SA outlives its other half."""
    associations, policies = read(TRACES / "k-raw-gcm" / "xfrm-gw.sa.bin")
    # charon's policies name the SPI of their SA; others' lead to all SAs of a request ID.
    policies = [
        replace(policy, templates=tuple(replace(template, spi=0) for template in policy.templates))
        for policy in policies
    ]
    newer = [
        replace(sa, spi=sa.spi ^ 0xFFFF, usage=replace(sa.usage, add_time=sa.usage.add_time + 60))
        for sa in associations
    ]
    ((session,), _) = learn([*associations, *newer], policies, NOW)
    pairs = {(context.inbound_spi, context.outbound_spi) for context in session.contexts}
    ((old,), _) = learn(associations, policies, NOW)
    (before,) = old.contexts
    after = (before.inbound_spi ^ 0xFFFF, before.outbound_spi ^ 0xFFFF)
    assert pairs == {(before.inbound_spi, before.outbound_spi), after}
    left = [sa for sa in associations if sa.spi == before.inbound_spi]
    ((session,), failed) = learn([*left, *newer], policies, NOW)
    assert [(context.inbound_spi, context.outbound_spi) for context in session.contexts] == [after]
    assert failed == []


def test_what_belongs_together_where_all_was_made_within_one_second() -> None:
    """The kernel lists what was made last first (tests/kernel/test_xfrm.py); what was known before is still so."""
    associations, policies = read(TRACES / "k-raw-gcm" / "xfrm-gw.sa.bin")
    policies = [
        replace(policy, templates=tuple(replace(template, spi=0) for template in policy.templates))
        for policy in policies
    ]
    ((old,), _) = learn(associations, policies, NOW)
    (before,) = old.contexts
    older = [replace(sa, usage=replace(sa.usage, add_time=1_700_000_000)) for sa in associations]
    newer = [replace(sa, spi=sa.spi ^ 0xFFFF) for sa in older]
    renewed = (before.inbound_spi ^ 0xFFFF, before.outbound_spi ^ 0xFFFF)
    left = [sa for sa in older if sa.spi != before.outbound_spi]

    def found(listed: list[SecurityAssociation], known: dict[int, int]) -> set[tuple[int, int]]:
        ((session,), failed) = learn(listed, policies, NOW, {old.mn_address: known})
        assert failed == []
        return {(context.inbound_spi, context.outbound_spi) for context in session.contexts}

    was = (before.inbound_spi, before.outbound_spi)
    assert found([*newer, *older], {}) == {was, renewed}
    assert found([*newer, *left], {}) == {renewed}
    # Put in by another order than they were made in first, as where a session came from elsewhere.
    assert found([*left, *newer], {was[1]: was[0]}) == {renewed}
    assert found([*older, *newer], {was[1]: was[0], renewed[1]: renewed[0]}) == {was, renewed}
    # An SPI that is known and gone tells nothing.
    assert found([*newer, *left], {was[1]: 0x1234}) == {renewed}


def test_what_can_not_be_learned_is_said() -> None:
    associations, policies = read(TRACES / "k-raw-gcm" / "xfrm-gw.sa.bin")
    ((session,), _) = learn(associations, policies, NOW)
    (context,) = session.contexts
    outbound = [sa for sa in associations if sa.spi == context.outbound_spi]
    assert learn(outbound, policies, NOW)[1][0].reason.startswith("it has no inbound SA")
    odd = [replace(sa, mode=Mode.IN_TRIGGER) for sa in associations]
    assert learn(odd, policies, NOW) == ([], [])  # no policy leads there: nobody's session
    assert sum(sa.aead is not None for sa in associations) == 2
    unknown = [replace(sa, aead=replace(sa.aead, name="rfc9999(rot13)")) for sa in associations if sa.aead]
    (reason,) = (item.reason for item in learn(unknown, policies, NOW)[1])
    assert "no IANA number" in reason
    assert not any(sa.aead.key.hex() in reason for sa in associations if sa.aead)
