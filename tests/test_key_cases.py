"""The three key cases are one session: each leads to the keys that strongSwan's daemon had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_cases import with_key_case
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
