"""Messages of every kind made by chance, and the same spoiled: what all decoders are asked about."""

from __future__ import annotations

import random
from functools import cache
from ipaddress import ip_address

from context_examples import VALUES
from context_strategies import contexts as context_strategy
from hypothesis import HealthCheck, Phase, given, seed, settings
from message_strategies import messages as message_strategy
from message_strategies import worked_examples
from mutators import mutated

from contexts.base import encode
from cxtp.continuation import to_blocks
from cxtp.manifest import plan_parts
from cxtp.messages import ContextTransferData, EncodedContext
from cxtp.wire import build

MN = ip_address("192.0.2.77")
QUICK = {"database": None, "deadline": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}
TYPES = (0x0001, 0xFF01, 0xFF02, 0xFF03, 0xFF04)


def generated(count: int) -> list[bytes]:
    """Messages of every kind, and CTDs with contexts of every kind; all of them good."""
    return list(_generated(count))


@cache
def _generated(count: int) -> tuple[bytes, ...]:
    """Messages of every kind, and CTDs with contexts of every kind."""
    found: list[bytes] = list(worked_examples().values())

    @seed(1)
    @settings(max_examples=count, **QUICK)
    @given(message_strategy())
    def of_messages(message: object) -> None:
        found.append(build(message))  # type: ignore[arg-type]

    @seed(2)
    @settings(max_examples=count, **QUICK)
    @given(context_strategy)
    def of_contexts(context: object) -> None:
        blocks = to_blocks(encode(context))  # type: ignore[arg-type]
        found.append(build(ContextTransferData(mn_previous_address=MN, elapsed_time=1, blocks=blocks)))

    of_messages()
    of_contexts()
    for value in VALUES.values():
        encoded = encode(value)
        for blocks in plan_parts([encoded, EncodedContext(0x7001, b"x" * 5000)], transfer_id=5, generation=9):
            found.append(build(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks)))
    return tuple(found)


def spoiled_messages(count: int) -> list[bytes]:
    """One fault or more each, anywhere in the message."""
    rng, sound = random.Random(4067), generated(150)
    return [octets for octets in (mutated(rng.choice(sound), rng)[:60_000] for _ in range(count)) if octets]


def without_a_parameter(context: EncodedContext, rng: random.Random) -> EncodedContext:
    """One parameter of level M or O less, and count, length and Presence Vector say so: the frame is sound."""
    data, starts = context.data, [8]
    while starts[-1] < len(data):
        at = starts[-1]
        starts.append(at + 4 + int.from_bytes(data[at + 2 : at + 4], "big"))
    heads = [int.from_bytes(data[at : at + 2], "big") for at in starts[:-1]]
    place = rng.choice([i for i, head in enumerate(heads) if head < 0x8000 and head & 0x3FFF < 13])
    bit = heads[place] - 1 if heads[place] < 0x4000 else 15 + (heads[place] & 0x3FFF)
    rest = data[8 : starts[place]] + data[starts[place + 1] :]
    head = data[:2] + (len(heads) - 1).to_bytes(2, "big") + (8 + len(rest)).to_bytes(4, "big")
    assert context.presence_vector is not None
    return EncodedContext(context.feature_profile_type, head + rest, context.presence_vector & ~(1 << 31 - bit))


def spoiled_contexts(count: int) -> list[bytes]:
    """CTDs that are sound, about contexts that mostly are not: octets, Presence Vector or type are changed."""
    rng = random.Random(4068)
    sound = [encode(value) for value in VALUES.values()]  # type: ignore[arg-type]
    found = []
    while len(found) < count:
        context = rng.choice(sound)
        if context.presence_vector is not None and rng.random() < 0.1:
            context = without_a_parameter(context, rng)
        data = bytearray(mutated(context.data, rng) if rng.random() < 0.4 else context.data)
        for _ in range(rng.randrange(3) if data else 0):
            at = rng.randrange(len(data))
            data[at] = rng.choice((0, 1, 2, 3, 255, data[at] ^ 1, rng.randrange(256)))
        vector = context.presence_vector
        if vector is not None and rng.random() < 0.1:
            vector = rng.choice((None, vector ^ 1 << rng.randrange(32)))
        kind = context.feature_profile_type if rng.random() < 0.97 else rng.choice(TYPES)
        if len(data) <= 6000:
            blocks = to_blocks(EncodedContext(kind, bytes(data), vector))
            found.append(build(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks)))
    return found
