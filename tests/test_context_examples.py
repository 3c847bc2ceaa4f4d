"""The worked examples of docs/context-formats.md: document, independent assembler and codec agree, both ways."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import independent_context_assembler as by_hand
import pytest
from context_examples import ASSEMBLED, ASSEMBLED_PARAMETERS, PARAMETERS, VALUES

from contexts.base import decode, encode
from cxtp.messages import ContextBlock, EncodedContext

DOCUMENT = Path(__file__).parent.parent / "docs" / "context-formats.md"


def read_examples() -> dict[str, tuple[dict[str, str], bytes]]:
    """Example id -> the settings of its comment lines, its octets."""
    examples = {}
    for name, body in re.findall(r"^```hex id=([a-z0-9-]+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S):
        settings = dict(re.findall(r"^; ([A-Za-z ]+): (\w+)$", body, re.M))
        octets = b"".join(bytes.fromhex(line.partition(";")[0]) for line in body.splitlines())
        assert name not in examples
        examples[name] = settings, octets
    return examples


EXAMPLES = read_examples()


def encoded_example(name: str) -> EncodedContext:
    settings, data = EXAMPLES[name]
    presence = settings["Presence Vector"]
    return EncodedContext(
        int(settings["Feature Profile Type"], 16), data, None if presence == "none" else int(presence, 16)
    )


def test_every_example_of_the_document_is_tested() -> None:
    assert set(EXAMPLES) == set(VALUES) | set(PARAMETERS)
    assert set(ASSEMBLED) == set(VALUES)
    assert set(ASSEMBLED_PARAMETERS) == set(PARAMETERS)


@pytest.mark.parametrize("name", VALUES)
def test_document_and_assembler_agree(name: str) -> None:
    number, presence, lines = ASSEMBLED[name]
    assert encoded_example(name) == EncodedContext(number, by_hand.joined(lines), presence)


@pytest.mark.parametrize("name", PARAMETERS)
def test_document_and_assembler_agree_on_parameters(name: str) -> None:
    assert EXAMPLES[name][1] == by_hand.joined(ASSEMBLED_PARAMETERS[name])


@pytest.mark.parametrize("name", VALUES)
def test_context_both_ways(name: str) -> None:
    assert encode(VALUES[name]) == encoded_example(name)
    assert decode(encoded_example(name)) == VALUES[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_both_ways(name: str) -> None:
    """The example takes the place of its namesake in the whole context's example."""
    context, field, number, value = PARAMETERS[name]
    whole = "ike-sa-case-3" if context is VALUES["ike-sa-case-3"] else "ipsec-sa-aes-gcm"
    octets = EXAMPLES[whole][1]
    offset = 8
    while octets[offset : offset + 2] != by_hand.u16(int(number[1:])):
        offset += 4 + int.from_bytes(octets[offset + 2 : offset + 4], "big")
    end = offset + 4 + int.from_bytes(octets[offset + 2 : offset + 4], "big")
    spliced = octets[:offset] + EXAMPLES[name][1] + octets[end:]
    spliced = spliced[:4] + by_hand.u32(len(spliced)) + spliced[8:]
    expected = replace(context, **{field: value})  # type: ignore[type-var]
    encoded = replace(encoded_example(whole), data=spliced)
    assert decode(encoded) == expected
    assert encode(expected) == encoded


def test_a_context_survives_the_padding_of_its_block() -> None:
    # Appendix B: 4 octets of header and 24 of data leave 4 of padding, Length 4
    listener = VALUES["multicast-listener"]
    block = ContextBlock(1, encode(listener).data).padded
    assert (block.length, len(block.data)) == (4, 28)
    assert decode(EncodedContext(1, block.data)) == listener
    ike_sa = encode(VALUES["ike-sa-case-3"])
    padded = ContextBlock(0xFF01, ike_sa.data, ike_sa.presence_vector).padded
    assert decode(EncodedContext(0xFF01, padded.data, padded.presence_vector)) == VALUES["ike-sa-case-3"]
