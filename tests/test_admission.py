"""What a new router refuses before it stores anything, and in what words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from context_examples import IKE_SA, IPSEC_SA, PARAMETERS
from node_helpers import MN, opaque, owned, recorded_contexts, without_parameter

from contexts.base import encode
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext
from contexts.values import IkeSpis
from cxtp.admission import Standing, examine, inbound_spis, stand
from cxtp.constants import StatusCode
from cxtp.messages import ContextStatus
from cxtp.store.records import SessionState

OWNED, FROZEN, STANDBY, RELEASED = SessionState.OWNED, SessionState.FROZEN, SessionState.STANDBY, SessionState.RELEASED
NEW, HAD, STALE = Standing.NEW, Standing.HAD, Standing.STALE
CTD, PCTD = False, True

# What is held (generation 5, transfer 50), the transfer that comes, and how it stands.
STANDINGS = [
    (None, (1, 10, CTD), NEW),
    (None, (None, None, CTD), NEW),
    (OWNED, (6, 60, CTD), NEW),  # it went away and comes back, the answer to us is still on its way
    (OWNED, (5, 50, CTD), HAD),
    (OWNED, (4, 50, CTD), HAD),  # sent ahead as generation 4, activated since
    (OWNED, (4, 50, PCTD), HAD),
    (OWNED, (5, 51, CTD), STALE),
    (OWNED, (4, 40, CTD), STALE),
    (OWNED, (6, 60, PCTD), Standing.REFUSED),  # nobody else can send ahead what is ours
    (OWNED, (None, None, CTD), STALE),
    (FROZEN, (6, 60, CTD), NEW),
    (FROZEN, (5, 50, CTD), STALE),
    (FROZEN, (6, 60, PCTD), NEW),  # our peer had it, its answer lost, and passed it on
    (FROZEN, (None, None, CTD), STALE),
    (STANDBY, (5, 50, CTD), NEW),  # the same, no longer ahead
    (STANDBY, (5, 51, PCTD), NEW),
    (STANDBY, (4, 40, PCTD), STALE),
    (RELEASED, (6, 60, CTD), NEW),
    (RELEASED, (6, 60, PCTD), NEW),
    (RELEASED, (5, 50, CTD), STALE),  # refused, or given away
    (RELEASED, (5, 50, PCTD), STALE),
    (RELEASED, (None, None, CTD), NEW),
]

# Generation 5 is held, all up to 7 were refused.
AFTER_REFUSAL = [(4, STALE), (5, STALE), (6, Standing.REFUSED), (7, Standing.REFUSED), (8, NEW)]


@pytest.mark.parametrize(("generation", "expected"), AFTER_REFUSAL)
@pytest.mark.parametrize("state", [FROZEN, RELEASED])
def test_what_was_refused_is_told_from_what_was_had(
    state: SessionState, generation: int, expected: Standing
) -> None:
    held = owned(MN, (), state=state, generation=5, transfer_id=50, refused_generation=7)
    assert stand(held, generation, 60, predictive=False) is expected


@pytest.mark.parametrize(("state", "transfer", "expected"), STANDINGS)
def test_how_a_transfer_stands(
    state: SessionState | None, transfer: tuple[int | None, int | None, bool], expected: Standing
) -> None:
    contexts = () if state is RELEASED else (opaque(10),)
    held = None if state is None else owned(MN, contexts, state=state, generation=5, transfer_id=50)
    generation, transfer_id, predictive = transfer
    assert stand(held, generation, transfer_id, predictive=predictive) is expected


def test_good_contexts_are_accepted_without_a_word() -> None:
    verdict = examine(MN, recorded_contexts(), {})
    assert (verdict.accepted, verdict.statuses, verdict.reasons) == (True, (), ())
    assert [encode(context) for context in verdict.contexts] == list(recorded_contexts())
    assert "contexts" not in repr(verdict)  # keys are in them


@pytest.mark.parametrize(("index", "kind"), [(0, 0xFF01), (1, 0xFF02)])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])
def test_a_missing_mandatory_parameter_is_named(index: int, kind: int, number: int) -> None:
    contexts = list(recorded_contexts())
    contexts[index] = without_parameter(contexts[index], number)
    verdict = examine(MN, contexts, {})
    assert not verdict.accepted
    assert ContextStatus(kind, StatusCode.MANDATORY_PARAMETER_MISSING) in verdict.statuses
    assert f"M{number} " in verdict.reasons[0]
    assert "mandatory parameter missing" in verdict.reasons[0]


def test_an_unknown_type_is_kept_and_reported_once() -> None:
    verdict = examine(MN, [*recorded_contexts(), opaque(10), opaque(30)], {})
    assert verdict.accepted
    assert verdict.statuses == (ContextStatus(0x7001, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE),)
    assert "0x7001" in verdict.reasons[0]


def test_an_spi_in_use_by_another_session() -> None:
    (spi,) = inbound_spis([IPSEC_SA])
    assert spi == (IPSEC_SA.local_host.address, 0xC1000001)
    other = ip_address("203.0.113.9")
    contexts = [encode(IKE_SA), encode(IPSEC_SA)]
    assert examine(MN, contexts, {spi: MN}).accepted  # its own: it comes again
    verdict = examine(MN, contexts, {spi: other})
    assert not verdict.accepted
    assert verdict.statuses == (ContextStatus(0xFF02, StatusCode.SPI_COLLISION),)
    assert "c1000001" in verdict.reasons[0]
    assert str(other) in verdict.reasons[0]
    # The same SPI at another of our addresses is another SA (RFC 4301, 4.1).
    elsewhere = (ip_address("198.51.100.77"), 0xC1000001)
    assert examine(MN, contexts, {elsewhere: other}).accepted


def test_keymat_to_be_derived_needs_its_ike_sa() -> None:
    _, _, _, keying = PARAMETERS["m12-derivation"]
    child = replace(IPSEC_SA, keying=keying)
    assert isinstance(child, IpsecSaContext)
    assert examine(MN, [encode(IKE_SA), encode(child)], {}).accepted
    other = encode(replace(IKE_SA, spis=IkeSpis(1, 2)))
    for contexts in ([encode(child)], [other, encode(child)]):
        verdict = examine(MN, contexts, {})
        assert not verdict.accepted
        assert verdict.statuses == (ContextStatus(0xFF02, StatusCode.NO_SUCH_CONTEXT),)
        assert "was not sent" in verdict.reasons[0]


def test_a_multicast_listener_needs_nothing_else() -> None:
    listener = MulticastListenerContext(subnet_prefix=bytes(8), group=ip_address("ff0e::101"))  # type: ignore[arg-type]
    assert examine(MN, [encode(listener)], {}).accepted
