"""scapy layers of RFC 4067 and of the contexts it moves; importing this binds them to SCTP, UDP and ICMP.

Declared from the documents' boxes and from nothing else of ours, so that they are a second witness of cxtp.wire.
``CXTP(octets)`` shows what can be shown of anything; :func:`read_message` and :func:`read_context` refuse what a
receiver refuses.
"""

from . import rules  # noqa: F401  # what read_message and read_context demand is declared there
from .contexts import CXTPContext, CXTPListener, CXTPManifest, CXTPReplica, context_of
from .messages import (
    CTAA,
    CTAR,
    CTC,
    CTD,
    CTDR,
    CXTP,
    PCTD,
    CTReq,
    CXTPBlock,
    CXTPRequested,
    CXTPStatus,
    ExperimentalMobility,
    ExperimentalMobilityV6,
    bind_ports,
)
from .strict import Refused
from .verdict import read_context, read_message, whole_contexts

bind_ports()

__all__ = ["CTAA", "CTAR", "CTC", "CTD", "CTDR", "CXTP", "PCTD", "CTReq", "CXTPBlock", "CXTPRequested", "CXTPStatus"]
__all__ += ["CXTPContext", "CXTPListener", "CXTPManifest", "CXTPReplica", "bind_ports", "context_of"]
__all__ += ["ExperimentalMobility", "ExperimentalMobilityV6"]
__all__ += ["Refused", "read_context", "read_message", "whole_contexts"]
