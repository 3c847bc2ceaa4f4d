"""strongSwan's ``ha`` plugin: its messages (versions 3, 4 and 5), and the sessions that a daemon exports with them."""

from __future__ import annotations

from .attributes import HA_PORT, Attribute, HaAttribute, HaMessage, HaMessageType, HaTrafficSelector, IkeSaId
from .codec import (
    MalformedHaMessage,
    NotRepresentable,
    UnknownAttribute,
    UnknownMessageType,
    UnknownVersion,
    build_message,
    parse_message,
    re_encode,
)
from .inbound import ExportedSession, HaLimits, HaReport, HaReportKind, HaTracker, read_ha_capture
from .outbound import NotExpressible, activation, deletion, heartbeat, message_id, messages_of, peer_moved, resync

__all__ = [
    "Attribute",
    "ExportedSession",
    "HA_PORT",
    "HaAttribute",
    "HaLimits",
    "HaMessage",
    "HaMessageType",
    "HaReport",
    "HaReportKind",
    "HaTracker",
    "HaTrafficSelector",
    "IkeSaId",
    "MalformedHaMessage",
    "NotExpressible",
    "NotRepresentable",
    "UnknownAttribute",
    "UnknownMessageType",
    "UnknownVersion",
    "activation",
    "build_message",
    "deletion",
    "heartbeat",
    "message_id",
    "messages_of",
    "parse_message",
    "peer_moved",
    "re_encode",
    "read_ha_capture",
    "resync",
]
