"""Sessions as people look at them: one row for each pair of SAs; no keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contexts.base import Context
from contexts.encoding.vendor import find_vendor_value
from contexts.fence import is_spent
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import CommonVendorNumber, CounterKnowledge, IkeSpis

from .store.records import SessionRecord, SessionState

ABSENT = "absent"
"""Said of the IKE_SA where nobody told of it: the kernel alone knows none."""


def owner_of(record: SessionRecord, node: str) -> str:
    """Who has the session as far as this node knows; "?" while its move is in doubt."""
    if record.state is SessionState.OWNED:
        return node
    return "?" if record.state is SessionState.FROZEN else record.peer


def rows_of(record: SessionRecord, contexts: Sequence[Context], node: str, now: float) -> list[dict[str, Any]]:
    """``contexts`` are the session's as they are now; numbers sent and received are sequence numbers."""
    ike = next((f"{c.spis}" for c in contexts if isinstance(c, IkeSaContext)), ABSENT)
    head = {"peer": str(record.mn_address), "state": record.state.value, "owner": owner_of(record, node)}
    rows = [
        {
            **head,
            "spi_in": f"{context.inbound_spi:08x}",
            "spi_out": f"{context.outbound_spi:08x}",
            "suite": context.proposal.name,
            "mode": context.mode.name.lower(),
            "sent": None if _is_unknown(context) or is_spent(context) else context.sequence_numbers.outbound,
            "received": context.sequence_numbers.inbound,
            "octets": context.lifetime.octets.used,
            "age": context.lifetime.seconds.used,
            "since": max(0.0, now - record.updated),
            "ike_sa": ike,
        }
        for context in contexts
        if isinstance(context, IpsecSaContext)
    ]
    return rows or [{**head, **dict.fromkeys(COLUMNS[3:]), "since": max(0.0, now - record.updated)}]


def ike_rows_of(
    record: SessionRecord, contexts: Sequence[Context], node: str, rekey_in: Mapping[IkeSpis, int | None]
) -> list[dict[str, Any]]:
    """One row for each IKE_SA; ``rekey_in`` in seconds, as the daemon that has it says."""
    return [
        {
            "peer": str(record.mn_address),
            "state": record.state.value,
            "owner": owner_of(record, node),
            "ike_sa": f"{context.spis}",
            "suite": context.proposal.name,
            "local_id": str(context.local_identity),
            "remote_id": str(context.remote_identity),
            "virtual": _virtual_addresses(context),
            "next_out": context.message_ids.next_request_to_send,
            "next_in": context.message_ids.next_request_expected,
            "rekey_in": rekey_in.get(context.spis),
        }
        for context in contexts
        if isinstance(context, IkeSaContext)
    ]


def _virtual_addresses(context: IkeSaContext) -> str | None:
    value = find_vendor_value(context.vendor_parameters, CommonVendorNumber.REMOTE_VIRTUAL_ADDRESSES)
    return " ".join(map(str, value)) if isinstance(value, tuple) else None


def _is_unknown(context: IpsecSaContext) -> bool:
    return context.sequence_numbers.knowledge is CounterKnowledge.UNKNOWN


COLUMNS = (
    "peer", "state", "owner", "spi_in", "spi_out", "suite", "mode", "sent", "received", "octets", "age", "ike_sa",
)  # fmt: skip
"""As printed; ``age`` in seconds since the SA was made."""

IKE_COLUMNS = (
    "peer", "state", "owner", "ike_sa", "suite", "local_id", "remote_id", "virtual", "next_out", "next_in", "rekey_in",
)  # fmt: skip
"""Of IKE_SAs: ``next_out`` and ``next_in`` are the Message IDs of the next request each way."""
