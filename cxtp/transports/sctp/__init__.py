"""CXTP over SCTP, the kernel's own (RFC 4067, 3.1; RFC 9260; socket API: RFC 6458)."""

from .endpoint import SctpEndpoint, SctpSettings

__all__ = ["SctpEndpoint", "SctpSettings"]
