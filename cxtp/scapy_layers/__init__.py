"""scapy layers of RFC 4067 and of the contexts it moves; importing this binds them to SCTP, UDP and ICMP.

Declared from the documents' boxes and from nothing else of ours, so that they are a second witness of cxtp.wire.
"""

from .contexts import CXTPContext, CXTPListener, CXTPManifest, CXTPReplica, context_of
from .messages import CTAA, CTAR, CTC, CTD, CTDR, CXTP, PCTD, CTReq, CXTPBlock, CXTPRequested, CXTPStatus, bind_ports

bind_ports()

__all__ = ["CTAA", "CTAR", "CTC", "CTD", "CTDR", "CXTP", "PCTD", "CTReq", "CXTPBlock", "CXTPRequested", "CXTPStatus"]
__all__ += ["CXTPContext", "CXTPListener", "CXTPManifest", "CXTPReplica", "bind_ports", "context_of"]
