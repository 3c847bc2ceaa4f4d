"""Contexts as plain data: nothing lost with keys, no key without, and every wrong input named by its path."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from context_examples import IKE_SA, IPSEC_SA, PARAMETERS, VALUES, pattern
from context_strategies import contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.base import Context, encode
from contexts.ikev2 import IkeSaContext
from contexts.presentation import describe, from_plain, to_plain
from contexts.values import Identification, IkeExtension, PresharedKey, VendorParameter
from cxtp.errors import InvalidContext

sure = settings(derandomize=True, deadline=None, max_examples=100)


def changed(context: Context, path: str, value: object) -> dict[str, Any]:
    """The context's plain data with one place (``proposal.encryption``, ``vendor_ids.0``) set to ``value``."""
    plain = to_plain(context, show_keys=True)
    *inner, last = path.split(".")
    place: Any = plain
    for name in inner:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value
    return plain


@sure
@given(contexts)
def test_json_with_keys_loses_nothing(context: Context) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(context, show_keys=True)))) == context


@sure
@given(contexts)
def test_json_without_keys_has_the_same_shape(context: Context) -> None:
    open_, hidden = to_plain(context, show_keys=True), to_plain(context, show_keys=False)

    def compare(one: Any, other: Any) -> None:
        if isinstance(other, dict) and "hidden" in other:
            assert other == {"hidden": True, "octets": len(one) // 2}
        elif isinstance(other, dict):
            assert list(one) == list(other)
            for name in one:
                compare(one[name], other[name])
        elif isinstance(other, list):
            assert len(one) == len(other)
            for left, right in zip(one, other, strict=True):
                compare(left, right)
        else:
            assert one == other

    compare(open_, hidden)
    json.dumps(hidden)


SECRETS = [pattern(start, 16).hex() for start in (0x00, 0x20, 0x40, 0x10, 0x30, 0x70, 0x90, 0xC0)]  # no public value's


def test_no_key_is_shown_unless_asked_for() -> None:
    shown = 0
    variants = [IKE_SA, IPSEC_SA, *(_with(*PARAMETERS[name]) for name in PARAMETERS)]
    for context in [*variants, _with(IKE_SA, "credentials", "M11", PresharedKey(pattern(0x10, 16)))]:
        with_keys = json.dumps(to_plain(context, show_keys=True))
        without = json.dumps(to_plain(context, show_keys=False)) + json.dumps(describe(context))
        shown += sum(secret in with_keys for secret in SECRETS)
        assert not [secret for secret in SECRETS if secret in without]
    assert shown >= 8


def _with(context: Any, field: str, _: str, value: object) -> Any:
    duplicate = copy.copy(context)
    object.__setattr__(duplicate, field, value)
    return duplicate


def test_plain_data_in_the_rfcs_words() -> None:
    plain = to_plain(IKE_SA, show_keys=False)
    assert plain["kind"] == "ike_sa"
    assert plain["local_host"] == {"address": "192.0.2.1", "port": 4500}
    assert plain["spis"] == {"initiator": "8f3c2a1b00112233", "responder": "d0e1f20344556677"}
    assert plain["keying"]["kind"] == "derived_keys"
    assert plain["keying"]["keys"]["sk_d"] == {"hidden": True, "octets": 32}
    assert plain["proposal"]["encryption"] == {"number": 20, "name": "AES_GCM_16"}
    assert plain["extensions"] == {"number": 26, "names": ["NAT_REMOTE", "MOBIKE", "FRAGMENTATION"]}
    assert plain["lifetime"] == {"soft_remaining": 3000, "hard_remaining": None}
    plain = to_plain(IPSEC_SA, show_keys=True)
    assert plain["inbound_spi"] == "c1000001"
    assert plain["sequence_numbers"]["outbound"] == "4294967301"
    assert plain["window"] == {"size": 64, "bitmap": "5f"}
    assert plain["mode"] == {"number": 2, "name": "TUNNEL"}
    assert plain["keying"]["inbound_encryption"] == pattern(0, 36).hex()
    assert plain["lifetime"]["octets"] == {"soft": None, "hard": "1099511627776", "used": "9000"}


def test_fields_with_a_default_may_be_left_out() -> None:
    plain = to_plain(IKE_SA, show_keys=True)
    for name in ("version", "window"):
        del plain[name]
    assert from_plain(plain) == IKE_SA


def test_numbers_and_bits_without_a_name_survive() -> None:
    odd = _with(IKE_SA, "extensions", "", IkeExtension(0x80000008))
    odd = _with(odd, "local_identity", "", Identification(201, b"\xff"))
    plain = to_plain(odd, show_keys=True)
    assert plain["extensions"] == {"number": 0x80000008, "names": ["MOBIKE"]}
    assert plain["local_identity"]["type"] == {"number": 201, "name": None}
    assert from_plain(plain) == odd
    # the writer may know a name that we do not
    plain["local_identity"]["type"]["name"] = "NEWER"
    plain["extensions"]["names"].append("NEWER")
    assert from_plain(plain) == odd


WRONG: list[tuple[Context, str, object, str]] = [
    (IKE_SA, "kind", "ike", "$.kind"),
    (IKE_SA, "kind", None, "$.kind"),
    (IKE_SA, "kind", [], "$.kind"),
    (IKE_SA, "kind", {}, "$.kind"),
    (IKE_SA, "colour", 1, "$.colour"),
    (IKE_SA, "initiator", 1, "$.initiator"),
    (IKE_SA, "version.major", 1, "$.version"),
    (IKE_SA, "version.major", True, "$.version.major"),
    (IKE_SA, "local_host", "192.0.2.1", "$.local_host"),
    (IKE_SA, "local_host.address", "192.0.2.256", "$.local_host.address"),
    (IKE_SA, "local_host.address", 5, "$.local_host.address"),
    (IKE_SA, "local_host.port", 65536, "$.local_host.port"),
    (IKE_SA, "local_host.port", "4500", "$.local_host.port"),
    (IKE_SA, "local_host.port", 45.0, "$.local_host.port"),
    (IKE_SA, "spis.initiator", 5, "$.spis.initiator"),
    (IKE_SA, "spis.initiator", "", "$.spis.initiator"),
    (IKE_SA, "spis.initiator", "-1", "$.spis.initiator"),
    (IKE_SA, "spis.initiator", "1" * 17, "$.spis.initiator"),
    (IKE_SA, "spis.initiator", "f" * 5000, "$.spis.initiator"),
    (IKE_SA, "keying.kind", "keymat_derivation", "$.keying.kind"),
    (IKE_SA, "keying.keys.sk_d", {"hidden": True, "octets": 32}, "$.keying.keys.sk_d"),
    (IKE_SA, "keying.keys.sk_d", "0", "$.keying.keys.sk_d"),
    (IKE_SA, "keying.keys.sk_d", "0g", "$.keying.keys.sk_d"),
    (IKE_SA, "keying.keys.sk_d", "00 00", "$.keying.keys.sk_d"),
    (IKE_SA, "keying.earlier", {}, "$.keying.earlier"),
    (IKE_SA, "keying.earlier", [{}], "$.keying.earlier[0].sk_d"),
    (IKE_SA, "proposal.encryption", 20, "$.proposal.encryption"),
    (IKE_SA, "proposal.encryption", {"number": 20, "name": "AES_CBC"}, "$.proposal.encryption.name"),
    (IKE_SA, "proposal.encryption", {"number": 20, "name": 20}, "$.proposal.encryption.name"),
    (IKE_SA, "proposal.encryption", {"name": "AES_CBC"}, "$.proposal.encryption"),
    (IKE_SA, "proposal.encryption", {"number": 70000}, "$.proposal.encryption"),
    (IKE_SA, "proposal.additional_key_exchanges", [{"number": "36"}], "$.proposal.additional_key_exchanges[0].number"),
    (IKE_SA, "extensions", {"number": 1, "names": ["MOBIKE"]}, "$.extensions.names"),
    (IKE_SA, "extensions", {"number": 1, "names": [[]]}, "$.extensions.names"),
    (IKE_SA, "extensions", {"number": 1 << 32}, "$.extensions.number"),
    (IKE_SA, "extensions", {"number": -1}, "$.extensions.number"),
    (IKE_SA, "credentials.name", 5, "$.credentials.name"),
    (IKE_SA, "credentials.name", "\udc80", "$.credentials.name"),
    (IKE_SA, "vendor_ids.0", None, "$.vendor_ids[0]"),
    (IPSEC_SA, "mode", {"number": 9, "name": None}, "$.mode"),
    (IPSEC_SA, "sequence_numbers.outbound", 5, "$.sequence_numbers.outbound"),
    (IPSEC_SA, "sequence_numbers.outbound", "٣", "$.sequence_numbers.outbound"),
    (IPSEC_SA, "sequence_numbers.outbound", str(1 << 64), "$.sequence_numbers.outbound"),
    (IPSEC_SA, "window.bitmap", "0x5f", "$.window.bitmap"),
    (IPSEC_SA, "local_selectors", [], "$.local_selectors"),
    (VALUES["multicast-listener"], "group", "192.0.2.1", "$.group"),
    (VALUES["multicast-listener"], "group", "2001:db8::1", "$.group"),
    (VALUES["generic"], "feature_profile_type", -1, "$.feature_profile_type"),
]


@pytest.mark.parametrize(("context", "path", "value", "where"), WRONG)
def test_wrong_plain_data_is_named_by_its_path(context: Context, path: str, value: object, where: str) -> None:
    with pytest.raises(InvalidContext) as caught:
        from_plain(changed(context, path, value))
    assert caught.value.path.startswith(where)
    assert len(str(caught.value)) < 250


def places(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from places(value, (*path, name))


JUNK = [None, True, -1, 1 << 70, 1.5, float("nan"), "", "x", "00", "\0", [], [None], [[]], {}, {"kind": "ike_sa"}]
JUNK += [{"number": []}, {"hidden": True}, {1: 2}]


@pytest.mark.parametrize("context", [IKE_SA, IPSEC_SA, VALUES["multicast-listener"], VALUES["generic"]])
def test_junk_in_any_place_gives_a_context_or_the_typed_error(context: Context) -> None:
    refusals = 0
    for path in places(to_plain(context, show_keys=True)):
        for junk in JUNK:
            plain = to_plain(context, show_keys=True)
            place: Any = plain
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = junk
            try:
                encode(from_plain(plain))
            except InvalidContext:
                refusals += 1
    assert refusals > 10


@sure
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | inner))
def test_anything_else_is_refused(plain: object) -> None:
    with pytest.raises(InvalidContext):
        from_plain(plain)


@sure
@given(contexts)
def test_every_context_can_be_described(context: Context) -> None:
    rows = describe(context)
    assert rows or not isinstance(context, IkeSaContext)
    for label, text in rows:
        assert label.isprintable()
        assert text.isprintable()


def test_rows_for_people() -> None:
    rows = dict(describe(IKE_SA))
    assert rows["local host"] == "192.0.2.1 port 4500"
    assert rows["remote identity"] == "client.example"
    assert rows["keying"] == "derived keys"
    assert rows["keying, keys, sk ei"] == "hidden, 36 octets"
    assert rows["proposal, encryption"] == "AES_GCM_16 (20)"
    assert rows["extensions"] == "0x1a NAT_REMOTE MOBIKE FRAGMENTATION"
    assert rows["vendor parameters 1"] == "connection name: roadwarrior"
    assert rows["vendor parameters 2"] == "conditions: 0x4005"
    rows = dict(describe(IPSEC_SA))
    assert rows["remote selectors 1"] == "10.3.0.1-10.3.0.1 port 1024-2048 protocol 17"
    assert rows["mode"] == "TUNNEL (2)"


def test_what_a_peer_named_can_not_drive_a_terminal() -> None:
    nasty = _with(IKE_SA, "remote_identity", "", Identification(2, b"\x1b[2Jgw\r\n\xc2\x9b"))
    nasty = _with(nasty, "vendor_parameters", "", (VendorParameter(0, 1, b"\x1b]0;x\x07"),))
    rows = dict(describe(nasty))
    assert rows["remote identity"] == "\\x1b[2Jgw\\r\\n\\x9b"
    assert rows["vendor parameters 1"] == "connection name: \\x1b]0;x\\x07"
