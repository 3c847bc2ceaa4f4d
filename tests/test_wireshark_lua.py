"""The dissector under Lua 5.4, which Wireshark 4.4 and later have: in a Lua of its own, against a stub of Wireshark."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from spoiled import MN, generated, spoiled_contexts, spoiled_messages
from witnesses import wireshark
from witnesses.normal_form import ours

from cxtp.messages import ContextRequest, ContextTransferRequest
from cxtp.token import compute_token
from cxtp.wire import build

STUB = Path(__file__).parent / "witnesses" / "wireshark_stub.lua"


@pytest.fixture(scope="module")
def lua() -> str:
    path = shutil.which("lua5.4")
    if path is None:
        assert os.environ.get("CI") != "true", "lua5.4 is missing: apt-get install lua5.4"
        pytest.skip("lua5.4 is not installed")
    return path


def trees(lua: str, messages: list[bytes], *arguments: str) -> list[ElementTree.Element]:
    """What the dissector puts into Wireshark's tree; a Lua error is a failure."""
    command = [lua, str(STUB), str(wireshark.SCRIPT), *arguments]
    lines = "".join(f"{octets.hex()}\n" for octets in messages)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(ElementTree.fromstring(done.stdout).iter("proto"))


def test_it_says_what_we_say(lua: str) -> None:
    """Good messages field by field, the verdict on spoiled ones, the statuses of contexts."""
    messages = [*generated(300), *spoiled_messages(1500), *spoiled_contexts(1500)]
    for octets, tree in zip(messages, trees(lua, messages), strict=True):
        assert wireshark.normal(tree) == ours(octets), octets.hex()


def test_tokens_without_a_library_of_bits(lua: str) -> None:
    key, asked = bytes(range(1, 100)), (ContextRequest(0xFF01), ContextRequest(0xFF02, 1))
    tokens = (compute_token(key, MN, 9, asked), b"\1\2\3\4")
    messages = [
        build(ContextTransferRequest(mn_previous_address=MN, sequence_number=9, authorization_token=token,
                                     requested=asked))
        for token in tokens
    ]
    told = [tree.find("field[@name='cxtp.token.status']") for tree in trees(lua, messages, f"{MN}={key.hex()}")]
    assert [None if field is None else field.get("show") for field in told] == ["1", "0"]


def test_the_stub_tells_of_errors(lua: str, tmp_path: Path) -> None:
    """It would be no witness if it swallowed them."""
    for wrong, said in (("bits.band(1, 2)", "no such global: bits"), ("tvb(0, 99)", "Range is out of bounds")):
        script = tmp_path / "wrong.lua"
        text = 'local p = Proto("p")\nfunction p.init() end\n'
        text += f'function p.dissector(tvb) local _ = {wrong} end\nDissectorTable.get("udp.port"):add(5091, p)\n'
        script.write_text(text)
        done = subprocess.run([lua, str(STUB), str(script)], input="00\n", capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert said in done.stderr
