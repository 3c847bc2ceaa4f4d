"""Hypothesis strategies for every message, block and record of RFC 4067, and the worked examples in hexadecimal.

``MESSAGES`` has a strategy per message class; ``messages`` draws from them all.  Data blocks come unpadded where
``padded`` is False: what is built from those is parsed with its padding.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from cxtp.messages import (
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    Message,
    PredictiveContextTransferData,
)

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=200)

MN4, MN6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7")


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


def presence_vectors() -> st.SearchStrategy[int | None]:
    return st.none() | unsigned(32)


def context_blocks(*, padded: bool = True, octets: int = 64) -> st.SearchStrategy[ContextBlock]:
    blocks = st.builds(ContextBlock, unsigned(16), st.binary(max_size=octets), presence_vectors(), unsigned(7))
    return blocks.map(lambda block: block.padded) if padded else blocks


def encoded_contexts(types: st.SearchStrategy[int], octets: int = 5000) -> st.SearchStrategy[EncodedContext]:
    """Contexts of all sizes around a few blocks; their octets are of no interest, so few of them are drawn."""
    data = st.builds(lambda size, seed: (seed * size)[:size], st.integers(0, octets), st.binary(min_size=1, max_size=9))
    return st.builds(EncodedContext, types, data, presence_vectors())


def context_requests() -> st.SearchStrategy[ContextRequest]:
    return st.builds(ContextRequest, unsigned(16), unsigned(1), unsigned(8))


def context_statuses() -> st.SearchStrategy[ContextStatus]:
    return st.builds(ContextStatus, unsigned(16), unsigned(8), unsigned(8))


def _tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=4).map(tuple)


@st.composite
def _of(draw: st.DrawFn, /, message_class: type[Message], **fields: st.SearchStrategy[Any]) -> Message:
    """A message whose addresses are all of one drawn family."""
    address = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    drawn = {name: draw(strategy) for name, strategy in fields.items()}
    if message_class is ContextTransferActivateRequest:
        drawn["access_router_address"] = draw(address)
    reserved = draw(unsigned(message_class.reserved_bits))
    return message_class(mn_previous_address=draw(address), reserved=reserved, **drawn)


def _requests(message_class: type[Message], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    token = st.binary(min_size=4, max_size=4)
    requested = _tuples(context_requests())
    return _of(message_class, sequence_number=unsigned(32), authorization_token=token, requested=requested, **fields)


def strategies(*, padded: bool = True) -> dict[type[Message], st.SearchStrategy[Message]]:
    """A strategy per message class, in the order of the type numbers."""
    statuses = _tuples(context_statuses())
    data: dict[str, st.SearchStrategy[Any]] = {
        "elapsed_time": unsigned(32),
        "blocks": _tuples(context_blocks(padded=padded)),
        "acknowledge": st.booleans(),
    }
    key = {"key": st.binary(max_size=40), "algorithm": unsigned(16)}
    return {
        ContextTransferActivateRequest: _requests(ContextTransferActivateRequest, acknowledge=st.booleans()),
        ContextTransferActivateAcknowledge: _of(ContextTransferActivateAcknowledge, statuses=statuses),
        ContextTransferData: _of(ContextTransferData, **data),
        PredictiveContextTransferData: _of(PredictiveContextTransferData, **data, **key),
        ContextTransferDataReply: _of(ContextTransferDataReply, success=st.booleans(), statuses=statuses),
        ContextTransferCancel: _of(ContextTransferCancel),
        ContextTransferRequest: _requests(ContextTransferRequest),
    }


MESSAGES = strategies()


def messages(*, padded: bool = True) -> st.SearchStrategy[Message]:
    return st.one_of(*strategies(padded=padded).values())


def worked_examples() -> dict[str, bytes]:
    """tests/vectors/messages.hex: the octets of each example by its name."""
    examples: dict[str, list[str]] = {}
    for line in (Path(__file__).parent / "vectors" / "messages.hex").read_text(encoding="ascii").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            examples[text.strip("[]")] = octets = []
        elif text:
            octets.append(text)
    return {name: bytes.fromhex("".join(parts)) for name, parts in examples.items()}
