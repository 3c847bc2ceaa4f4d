"""cxtp: live IPsec sessions move from one VPN gateway to another (RFC 4067)."""

__version__ = "0.1.0"
