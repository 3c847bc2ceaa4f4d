"""Proof that a node holds a session: it opens what the peer really sent (``cxtp demo``, ``cxtp prove``).

Nothing but the contexts is used.  Keys that somebody else wrote down (``keys.json`` of a recording) serve to
compare, never to open.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession

from .adapters.capture import ip_packets
from .errors import ConfigurationError, RemoteError


@dataclass
class Proof:
    """Packets of a capture that the session's SAs protect, by kind (``ike``, ``esp``, ``ah``)."""

    seen: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """All that was seen was opened."""
        return self.seen == self.opened


FAILURES_KEPT = 20
"""Reasons kept of packets that could not be opened; all are counted."""


def open_capture(contexts: Iterable[Context], path: Path) -> Proof:
    """Open every packet of the capture that the contexts' SAs protect.

    Raises RemoteError where keys can't be derived from the contexts, CaptureError for a broken file.
    """
    session = RestoredSession.restore(c for c in contexts if isinstance(c, (IkeSaContext, IpsecSaContext)))
    proof = Proof()
    for packet in ip_packets(path):
        protected = session.classify(packet.octets)
        if protected is None:
            continue
        proof.seen[protected.kind] += 1
        try:
            session.open_recorded(protected)
            proof.opened[protected.kind] += 1
        except RemoteError as error:
            if len(proof.failures) < FAILURES_KEPT:
                proof.failures.append(f"packet {packet.index}, {protected.kind}: {error}")
    return proof


_IKE_KEYS = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er")
_CHILD_KEYS = {
    "key_in": "inbound_encryption",
    "key_out": "outbound_encryption",
    "integ_key_in": "inbound_integrity",
    "integ_key_out": "outbound_integrity",
}


def compare_keys(contexts: Iterable[Context], path: Path) -> bool | None:
    """Whether the session's keys are those of a ``keys.json``; None where that has none of its SAs.

    Raises ConfigurationError for a file that can't be read.
    """
    known = tuple(c for c in contexts if isinstance(c, (IkeSaContext, IpsecSaContext)))
    session = RestoredSession.restore(known)
    try:
        true_keys = json.loads(path.read_text())
        # An IKE_SA whose keys were updated by additional key exchanges stands there once per update: the last counts.
        ike_sas = {(int(sa["spi_i"], 16), int(sa["spi_r"], 16)): sa for sa in true_keys.get("ike_sas", ())}
        children = {int(sa["spi_in"], 16): sa for sa in true_keys.get("child_sas", ())}
        results = []
        for context in known:
            if isinstance(context, IkeSaContext):
                sa = ike_sas.get((context.spis.initiator, context.spis.responder))
                results += _compare(sa, session.ike_keys(context.spis), {name: name for name in _IKE_KEYS})
            else:
                sa = children.get(context.inbound_spi)
                results += _compare(sa, session.ipsec_keys(context.inbound_spi), _CHILD_KEYS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} is no file of keys: {type(error).__name__}") from None
    return all(results) if results else None


def _compare(true_keys: Mapping[str, Any] | None, keys: object, names: Mapping[str, str]) -> list[bool]:
    if true_keys is None:
        return []
    return [
        hmac.compare_digest(bytes.fromhex(true_keys[name]), getattr(keys, ours))
        for name, ours in names.items()
        if true_keys.get(name) is not None
    ]


def suite_of(contexts: Iterable[Context]) -> str:
    """The algorithms of a session for people: the last IKE_SA's and each IPsec_SA's, once."""
    names: dict[str, None] = {}
    given = tuple(contexts)
    for ike in [c for c in given if isinstance(c, IkeSaContext)][-1:]:
        names[f"IKE:{ike.proposal.name}"] = None
    for child in given:
        if isinstance(child, IpsecSaContext):
            names[child.proposal.name] = None
    return " ".join(names)


__all__ = ["Proof", "compare_keys", "open_capture", "suite_of"]
