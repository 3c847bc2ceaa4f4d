"""What is measured: sessions that strongSwan really exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from cxtp.adapters.context_file import FileSession
from cxtp.adapters.strongswan_ha import read_ha_capture

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"


@cache
def recorded_contexts(trace: str) -> tuple[Context, ...]:
    """The contexts of a trace's one session."""
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    return session.contexts


def clones(count: int, trace: str = "v5-plain") -> Iterator[FileSession]:
    """The same session ``count`` times, each with an address and SPIs of its own."""
    for number in range(count):
        contexts: list[Context] = []
        for context in recorded_contexts(trace):
            if isinstance(context, IkeSaContext):
                spis = replace(context.spis, initiator=context.spis.initiator ^ number + 1)
                context = replace(context, spis=spis)
            elif isinstance(context, IpsecSaContext):
                keying = replace(context.keying, ike_spis=spis)  # type: ignore[call-arg]
                context = replace(context, inbound_spi=0x10000 + number, ike_spis=spis, keying=keying)
            contexts.append(context)
        yield FileSession(IPv4Address(0x0A000001 + number), tuple(contexts))
