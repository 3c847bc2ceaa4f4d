"""What tshark with our dissector says: its JSON, mapped to the normal form."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .normal_form import Normal, pruned

SCRIPT = Path(__file__).parent.parent.parent / "cxtp" / "wireshark" / "cxtp.lua"
LISTS = {
    "requested", "cdb", "record", "additional_secrets", "earlier", "earlier_keys", "additional_ke", "chain",
    "vendor_ids", "local_selectors", "remote_selectors",
}  # fmt: skip
OCTETS = {
    "token", "key", "data", "value", "text", "name", "digest", "subnet_prefix", "bitmap", "private_key",
    "peer_key_exchange", "shared_secret", "skeyseed", "earlier", "additional_secrets", "sk_d", "sk_ai", "sk_ar",
    "sk_ei", "sk_er", "sk_pi", "sk_pr", "vendor_ids", "chain", "ni", "nr", "inbound_encryption", "inbound_integrity",
    "outbound_encryption", "outbound_integrity",
}  # fmt: skip
DROPPED = {
    "cxtp.version", "cxtp.key_length", "cxtp.requested.padding", "cxtp.context.reserved", "cxtp.context.octets",
    "cxtp.context.count", "cxtp.context.padding", "cxtp.host.family", "cxtp.selector.type", "cxtp.selector.length",
    "cxtp.token.status", "cxtp.receipt", "cxtp.response_in", "cxtp.response_to", "cxtp.response_time",
    "cxtp.retransmission_of", "cxtp.manifest.format", "cxtp.replica.format",
}  # fmt: skip
REFUSED = {"cxtp.expert.malformed", "cxtp.expert.checksum", "cxtp.expert.truncated"}


def run(tshark: str, capture: Path, *options: str, home: Path | None = None) -> str:
    """tshark's output; a Lua error is a failure."""
    script = [] if home else ["-X", f"lua_script:{SCRIPT}"]
    environment = {**os.environ, **({"HOME": str(home)} if home else {})}
    done = subprocess.run([tshark, *script, "-r", str(capture), *options], capture_output=True, env=environment,
                          timeout=120, check=True)
    said = done.stdout.decode("utf-8", "replace")
    assert "Lua Error" not in said
    assert "Lua:" not in done.stderr.decode(), done.stderr
    return said


class Pairs(list[tuple[str, Any]]):
    """A JSON object that keeps what a dict would lose: order, and names that are there more than once."""


def packets(
    tshark: str, capture: Path, *options: str, home: Path | None = None, malformed: list[int] | None = None
) -> Iterator[list[ElementTree.Element]]:
    """Of each packet, the trees of its CXTP messages.  ``malformed`` takes the places of packets that a dissector of
    Wireshark's own gave up; without it none may be."""
    # -x: octets too, which a text's own characters do not tell; not --no-duplicate-keys, which parts a field's
    # repetitions from the trees below them.
    said = run(tshark, capture, "-T", "json", "-x", "-J", "cxtp _ws.malformed", *options, home=home)
    for place, packet in enumerate(json.loads(said, object_pairs_hook=Pairs)):
        layers: Pairs = dict(dict(packet)["_source"])["layers"]
        if any(name == "_ws.malformed" for name, _ in layers):
            assert malformed is not None
            malformed.append(place)
        yield [_element("proto", name, value) for name, value in layers if name == "cxtp"]


def _element(tag: str, name: str, inner: Pairs) -> ElementTree.Element:
    """A node of tshark's tree in the form of PDML, which the stub of Wireshark's interface writes too.

    tshark writes a field as "NAME_raw": [its octets or bits in hexadecimal, ...], "NAME": shown or the tree below it,
    "NAME_tree": the tree below a field that is shown.
    """
    found = ElementTree.Element(tag, name=name)
    octets: dict[str, str] = {}
    for key, item in inner:
        if key.endswith("_raw"):
            octets[key.removesuffix("_raw")] = item[0]
        elif key.endswith("_tree"):
            assert found[-1].get("name") == key.removesuffix("_tree")
            found[-1].extend(_element("field", key, item))
        elif isinstance(item, Pairs):
            found.append(_element("field", key, item))
        else:
            ElementTree.SubElement(found, "field", name=key, show=item, value=octets.pop(key, ""))
    return found


def experts(tree: ElementTree.Element) -> list[str]:
    """The expert infos of a message."""
    return [name for node in tree.iter("field") if (name := node.get("name", "")).startswith("cxtp.expert.")]


def normal(tree: ElementTree.Element) -> Normal | None:
    """A message, None where Wireshark says it is none."""
    if REFUSED & set(experts(tree)):
        return None
    found = _record(tree)
    contexts: list[Normal] = [_context(node) for node in tree.iter("field") if node.get("name") == "cxtp.context"]
    if "cxtp.expert.continuation" in experts(tree):
        found["contexts"] = "refused"
    elif contexts:
        found["contexts"] = contexts
    return found


def _children(node: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    for child in node.findall("field"):
        name = child.get("name", "")
        if name.startswith("cxtp.") and not name.startswith("cxtp.expert.") and name not in DROPPED:
            yield name, child


def _record(node: ElementTree.Element) -> Normal:
    found: Normal = {}
    for name, child in _children(node):
        key = name.rpartition(".")[2]
        if key.startswith("reserved_bits"):
            if name != "cxtp.reserved_bits":
                continue
            key = "reserved"
        if name == "cxtp.context":
            continue
        key = key.removesuffix("6") if key.endswith("address6") else key
        value = _value(name, key, child)
        if key in LISTS:
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return pruned(found)


def _value(name: str, key: str, node: ElementTree.Element) -> Any:
    shown = node.get("show", "")
    inner = [child for child, _ in _children(node) if not child.startswith(("cxtp.presence", "cxtp.ike.extension"))]
    if inner and key not in OCTETS:
        return _record(node)
    if key == "bitmap":
        return int(node.get("value") or "0", 16)
    if key.endswith("address") or key == "group":
        return str(ip_address(shown))
    if key in OCTETS or (":" in shown) or not shown:
        return node.get("value", "")
    if shown in ("True", "False"):
        return int(shown == "True")
    try:
        return int(shown, 0)
    except ValueError:
        return node.get("value", "")


def _context(node: ElementTree.Element) -> Normal:
    status = node.find("field[@name='cxtp.context.status']")
    if status is not None:
        return {"status": int(status.get("show", ""), 0)}
    parameters = [_parameter(child) for child in node.findall("field[@name='cxtp.parameter']")]
    return {"parameters": parameters} if parameters else _record(node)


def _parameter(node: ElementTree.Element) -> Normal:
    level, number = (_number(node, f"cxtp.parameter.{name}") for name in ("level", "number"))
    label = "MOV"[level] + str(number)
    found = _record(node)
    for name in ("level", "number", "length"):
        found.pop(name)
    if label == "V0":
        return _vendor(node)
    if not found.get("compressed", 1):
        found = {"compressed": 0}
    return {"parameter": label, **found}


def _number(node: ElementTree.Element, name: str) -> int:
    (found,) = node.findall(f"field[@name='{name}']")
    return int(found.get("show", ""), 0)


def _vendor(node: ElementTree.Element) -> Normal:
    (value,) = node.findall("field[@name='cxtp.vendor.value']")
    found: Normal = {
        "parameter": "V0",
        "enterprise": _number(node, "cxtp.vendor.enterprise"),
        "number": _number(node, "cxtp.vendor.number"),
        "value": value.get("value", ""),
    }
    if any(name == "cxtp.expert.vendor" for name in experts(value)):
        return {**found, "unreadable": 1}
    addresses = [child.get("show", "") for name, child in _children(value) if ".address" in name]
    if addresses:
        return {**found, "address": [str(ip_address(address)) for address in addresses]}
    return {**found, **_record(value)}


def all_normal(tshark: str, capture: Path, *options: str) -> Sequence[list[Normal | None]]:
    """Of each packet, its messages."""
    return [[normal(tree) for tree in trees] for trees in packets(tshark, capture, *options)]
