"""SAs and policies as netlink gave them in recordings of real gateways, against iproute2's text beside them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from construct import Struct
from hypothesis import given
from hypothesis import strategies as st

from cxtp.adapters.xfrm import Direction, Flow, PolicyAction, Selector, layouts
from cxtp.adapters.xfrm.attributes import UnfitValue, read, write
from cxtp.adapters.xfrm.formats import MalformedNetlink, messages, parse_policy, parse_security_association

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
NEW_SA, NEW_POLICY = 0x10, 0x13


def with_text(pattern: str) -> list[Path]:
    return sorted(path for path in TRACES.glob(pattern) if text_path(path).exists())


def text_path(path: Path) -> Path:
    return path.with_name(path.name.split(".")[0] + ".txt")


SA_DUMPS = with_text("*/xfrm-*.sa.bin")
POLICY_DUMPS = with_text("*/xfrm-*.policy.bin")


def bodies(path: Path, kind: int) -> list[bytes]:
    return [body for header, body in messages(path.read_bytes()) if header.type == kind]


def text_of(path: Path) -> str:
    return text_path(path).read_text()


def test_there_are_recordings() -> None:
    assert SA_DUMPS
    assert POLICY_DUMPS


@pytest.mark.parametrize("path", SA_DUMPS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_security_associations(path: Path) -> None:
    found = [parse_security_association(body) for body in bodies(path, NEW_SA)]
    text = text_of(path)
    assert found
    assert len(found) == len(re.findall(r"^src \S+ dst \S+\n\tproto", text, re.MULTILINE))
    for sa in found:
        (block,) = re.findall(
            rf"^src {re.escape(str(sa.source))} dst {re.escape(str(sa.destination))}\n\tproto \w+ spi "
            rf"0x{sa.spi:08x}.*?(?=^src|\Z)",
            text,
            re.MULTILINE | re.DOTALL,
        )
        assert f"reqid {sa.request_id}" in block
        assert ("mode transport", "mode tunnel")[sa.mode] in block
        assert f"replay-window {sa.replay_window}" in block or f"replay_window {sa.replay_window}" in block
        for algorithm in filter(None, (sa.aead, sa.encryption, sa.authentication)):
            assert f" {algorithm.name} " in block
            assert repr(algorithm.key) not in repr(sa)


@pytest.mark.parametrize("path", POLICY_DUMPS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_policies(path: Path) -> None:
    found = [parse_policy(body) for body in bodies(path, NEW_POLICY)]
    text = text_of(path)
    own = [policy for policy in found if policy.direction <= Direction.FORWARD]
    assert own
    for policy in own:
        selector = policy.selector
        source, destination = (
            f"{selector.source}/{selector.source_prefix}",
            f"{selector.destination}/{selector.destination_prefix}",
        )
        head = f"src {source} dst {destination}"
        assert head in text
        direction = ("in", "out", "fwd")[policy.direction]
        assert re.search(rf"{re.escape(head)}[^\n]*\n\tdir {direction} [^\n]*priority {policy.priority} ", text)
        for template in policy.templates:
            assert f"tmpl src {template.source} dst {template.destination}" in text
            assert f"reqid {template.request_id}" in text


@pytest.mark.parametrize("path", SA_DUMPS[:1] + POLICY_DUMPS[:1], ids=lambda path: path.name)
def test_octets_cut_anywhere(path: Path) -> None:
    octets = path.read_bytes()[:2000]
    for end in range(len(octets)):
        try:
            for header, body in messages(octets[:end]):
                (parse_security_association if header.type == NEW_SA else parse_policy)(body)
        except MalformedNetlink:
            continue


COVERED = [
    (Selector(ip_address("10.0.0.0"), 8, ip_address("10.9.0.2"), 32), True),
    (Selector(ip_address("10.9.0.1"), 32, ip_address("10.9.0.3"), 32), False),
    (Selector(ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0), True),
    (Selector(ip_address("::"), 0, ip_address("::"), 0), False),
    (Selector(ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0, protocol=17), False),
    (Selector(ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0, protocol=132, destination_port=5091,
              destination_port_mask=0xFFFF), True),
    (Selector(ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0, source_port=80, source_port_mask=0xFFFF), False),
    (Selector(ip_address("0.0.0.0"), 0, ip_address("0.0.0.0"), 0, interface=2), False),
]  # fmt: skip


@pytest.mark.parametrize(("selector", "covered"), COVERED)
def test_which_packets_a_selector_covers(selector: Selector, covered: bool) -> None:
    flow = Flow(ip_address("10.9.0.1"), ip_address("10.9.0.2"), 132, 5091, 5091)
    assert selector.covers(flow) is covered
    assert PolicyAction.ALLOW == 0  # linux/xfrm.h: XFRM_POLICY_ALLOW


LAYOUTS = {name: value for name, value in vars(layouts).items() if isinstance(value, Struct)}


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_generated_code_reads_and_builds_as_the_declarations_do(name: str, data: st.DataObject) -> None:
    layout = LAYOUTS[name]
    octets = data.draw(st.binary(min_size=layout.sizeof(), max_size=layout.sizeof()))
    box = layout.parse(octets)
    assert read(layout, octets + b"what follows") == box
    built = layout.build(box)
    assert write(layout, box, "a structure") == built
    assert read(layout, built) == box
    with pytest.raises(MalformedNetlink, match="too few"):
        read(layout, octets[: data.draw(st.integers(0, layout.sizeof() - 1))])


@pytest.mark.parametrize("value", [1 << 32, -1, "text", None])
def test_what_no_field_holds_is_refused(value: object) -> None:
    for name in ("ATTRIBUTE_HEADER", "MARK", "REPLAY"):
        layout = LAYOUTS[name]
        box = layout.parse(bytes(layout.sizeof()))
        with pytest.raises(UnfitValue):
            write(layout, {**box, next(key for key in box if not key.startswith("_")): value}, "a structure")
    template = layouts.TEMPLATE.parse(bytes(layouts.TEMPLATE.sizeof()))
    with pytest.raises(UnfitValue):
        write(layouts.TEMPLATE, {**template, "source": bytes(4)}, "a template")
