"""The three key cases are one session: each leads to the keys that strongSwan's daemon had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
from contexts.keys import ike_key_generations
from contexts.values import DerivedKeys, IpsecKeys, KeymatDerivation, SharedSecret, Skeyseed
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.errors import LocalError
from cxtp.proof import compare_keys, open_capture

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
WITH_KEYS = sorted(path.parent.name for path in TRACES.glob("*/keys.json"))
KINDS = {1: (SharedSecret, KeymatDerivation), 2: (Skeyseed, KeymatDerivation), 3: (DerivedKeys, IpsecKeys)}


@pytest.mark.parametrize("case", [1, 2, 3])
@pytest.mark.parametrize("trace", WITH_KEYS)
def test_each_case_gives_the_daemons_keys_and_opens_all(trace: str, case: int) -> None:
    for session in read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions():
        contexts = with_key_case(session.contexts, case)
        ike, child = KINDS[case]
        assert all(isinstance(c.keying, ike) for c in contexts if isinstance(c, IkeSaContext))
        assert all(isinstance(c.keying, child) for c in contexts if isinstance(c, IpsecSaContext))
        assert compare_keys(contexts, TRACES / trace / "keys.json") is True
        proof = open_capture(contexts, TRACES / trace / "outer.pcap")
        assert proof.complete, proof.failures
        assert proof.seen["ike"] > 0


@pytest.mark.parametrize("case", [1, 2, 3])
@pytest.mark.parametrize("trace", sorted(path.parent.name for path in TRACES.glob("*/kernel-keys.json")))
def test_keys_are_those_that_the_kernel_held(trace: str, case: int) -> None:
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    contexts = with_key_case(session.contexts, case)
    assert compare_keys(contexts, TRACES / trace / "kernel-keys.json") is True
    assert open_capture(contexts, TRACES / trace / "outer.pcap").complete


@pytest.mark.parametrize("case", [1, 2, 3])
@pytest.mark.parametrize("trace", sorted(path.parent.name for path in TRACES.glob("*/charon-keys.json")))
def test_keys_are_those_of_the_daemons_log(trace: str, case: int) -> None:
    """Every IKE_SA and CHILD_SA of the log is there, those that lost a collision or were rekeyed among them."""
    noted = json.loads((TRACES / trace / "charon-keys.json").read_text())
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    contexts = with_key_case(session.contexts, case)
    ike_sas = {f"{c.spis.initiator:016x}{c.spis.responder:016x}" for c in contexts if isinstance(c, IkeSaContext)}
    assert ike_sas == {sa["spi_i"] + sa["spi_r"] for sa in noted["ike_sas"]}
    spis = {(c.inbound_spi, c.outbound_spi) for c in contexts if isinstance(c, IpsecSaContext)}
    assert spis == {(int(sa["spi_in"], 16), int(sa["spi_out"], 16)) for sa in noted["child_sas"]}
    assert compare_keys(contexts, TRACES / trace / "charon-keys.json") is True
    assert open_capture(contexts, TRACES / trace / "outer.pcap").complete


@pytest.mark.parametrize("trace", ["v4-addke", "v5-mlkem-addke3"])
def test_each_additional_key_exchange_makes_the_keys_of_the_log(trace: str) -> None:
    """RFC 9370, 2.2.2: SK_* anew after each IKE_INTERMEDIATE, as the daemon logged them in turn; on a rekey once."""
    noted: dict[str, list[dict[str, str]]] = {}
    for sa in json.loads((TRACES / trace / "charon-keys.json").read_text())["ike_sas"]:
        noted.setdefault(sa["spi_i"], []).append(sa)
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    counts = []
    for context in (c for c in session.contexts if isinstance(c, IkeSaContext)):
        generations = ike_key_generations(context.keying, context.proposal, context.spis)
        logged = noted[f"{context.spis.initiator:016x}"]
        for name in ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr"):
            assert [getattr(keys, name).hex() for keys in generations] == [entry[name] for entry in logged]
        counts.append(len(generations))
    assert counts == [3 if trace == "v4-addke" else 4, 1, 1]


@pytest.mark.parametrize(("given", "wanted"), [(2, 1), (3, 2), (3, 1)])
def test_no_way_back_up(given: int, wanted: int) -> None:
    (session,) = read_ha_capture(TRACES / "v5-plain" / "ha.pcap", keep_deleted=True).sessions()
    with pytest.raises(LocalError):
        with_key_case(with_key_case(session.contexts, given), wanted)


def test_keys_of_another_session_do_not_open(tmp_path: Path) -> None:
    """The control: the same SPIs with a secret that differs in one bit open nothing."""
    (session,) = read_ha_capture(TRACES / "k-raw-gcm" / "ha.pcap", keep_deleted=True).sessions()
    changed = []
    for context in session.contexts:
        if isinstance(context, IkeSaContext) and isinstance(context.keying, SharedSecret):
            secret = context.keying.shared_secret
            keying = replace(context.keying, shared_secret=secret[:-1] + bytes([secret[-1] ^ 1]))
            context = replace(context, keying=keying)
        changed.append(context)
    proof = open_capture(changed, TRACES / "k-raw-gcm" / "outer.pcap")
    assert proof.seen["ike"] > 0
    assert proof.seen["esp"] > 0
    assert proof.opened == {}
    assert compare_keys(changed, TRACES / "k-raw-gcm" / "keys.json") is False
