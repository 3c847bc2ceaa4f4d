"""Every number of the protocol, with the section that gives it.

Numbers of RFC 4067 (CXTP), RFC 4065 (its port and ICMP types), the IANA registries of IKEv2, and our own, each
under its heading.  Values that a peer may choose freely (feature profile types, status codes) are kept as plain
``int`` in messages: an unknown one survives.
"""

from __future__ import annotations

from enum import IntEnum

VERSION = 1
"""The protocol's version, 3 bits (RFC 4067, 2.2)."""

PORT = 5091
"""SCTP and UDP port of CXTP (RFC 4065, 2)."""

PAYLOAD_PROTOCOL_IDENTIFIER = 0x43585450
"""SCTP PPID: "CXTP" in ASCII; RFC 4067, 3.1 names it and gives no number (our decision 11)."""

ICMP_TYPE_IPV4 = 41
ICMP_TYPE_IPV6 = 150
"""ICMP types of the experimental mobility protocols (RFC 4065, 3 and 4)."""

ICMP_HOP_LIMIT = 255
"""Hop limit (TTL) that an ICMP-carried message is sent with and must arrive with (RFC 4067, 3.2)."""

MAXIMUM_MESSAGE = 65_535
"""Octets; the Length field has 16 bits (RFC 4067, 2.5)."""

MAXIMUM_BLOCK = 255 * 8
"""Octets of one Context Data Block; its Length counts 8-octet words in 8 bits (RFC 4067, 2.4)."""

TOKEN_LENGTH = 4
"""Octets of an authorization token (RFC 4067, 2.5.1)."""

NULL_TOKEN = bytes(TOKEN_LENGTH)
"""A CT-Req that carries it asks for the material to check the MN's token with (RFC 4067, 2.5.6)."""


class IcmpSubtype(IntEnum):
    """Subtype in the experimental mobility ICMP message (RFC 4065, 8)."""

    CARD = 0
    CXTP = 1


class MessageType(IntEnum):
    """Type, 5 bits (RFC 4067, 2.5.1 to 2.5.6)."""

    CONTEXT_TRANSFER_ACTIVATE_REQUEST = 1
    CONTEXT_TRANSFER_ACTIVATE_ACKNOWLEDGE = 2
    CONTEXT_TRANSFER_DATA = 3
    PREDICTIVE_CONTEXT_TRANSFER_DATA = 4
    CONTEXT_TRANSFER_DATA_REPLY = 5
    CONTEXT_TRANSFER_CANCEL = 6
    CONTEXT_TRANSFER_REQUEST = 7


class TokenAlgorithm(IntEnum):
    """Algorithm in a PCTD (RFC 4067, 2.5.3; RFC 4065, 7)."""

    HMAC_SHA1 = 1


class FeatureProfileType(IntEnum):
    """Context types.  0x0001 is IANA's (RFC 4065, 6); 0xFF00 and above are ours (decisions 2 and 12)."""

    RESERVED = 0x0000
    IPV6_MULTICAST_LISTENER = 0x0001
    CONTINUATION = 0xFF00
    IKE_SA = 0xFF01
    IPSEC_SA = 0xFF02
    TRANSFER_MANIFEST = 0xFF03
    REPLICA = 0xFF04


class StatusCode(IntEnum):
    """Status of one context type in a CTDR or CTAA.

    RFC 4067, 4 defines BAD_CHECKSUM alone; the others are ours (decision 13, docs/decisions.md).
    """

    SUCCESS = 0x00
    BAD_CHECKSUM = 0x01
    UNKNOWN_FEATURE_PROFILE_TYPE = 0x02
    MALFORMED = 0x03
    MANDATORY_PARAMETER_MISSING = 0x04
    UNSUPPORTED_ALGORITHM = 0x05
    INSTALL_FAILED = 0x06
    NO_SUCH_CONTEXT = 0x07
    NOT_AUTHORIZED = 0x08
    SPI_COLLISION = 0x09
    STALE = 0x0A
    UNSUPPORTED_PARAMETER = 0x0B
    NO_RESOURCES = 0x0C
    STORE_FAILED = 0x0D
    TIMED_OUT = 0x0E
    CANCELLED = 0x0F
    UNKNOWN_CONNECTION = 0x10


# --- IKEv2 and IPsec, by IANA's "Internet Key Exchange Version 2 (IKEv2) Parameters" --------------------------


class EncryptionAlgorithm(IntEnum):
    """Transform type 1, ENCR."""

    TRIPLE_DES = 3
    NULL = 11
    AES_CBC = 12
    AES_CTR = 13
    AES_CCM_8 = 14
    AES_CCM_12 = 15
    AES_CCM_16 = 16
    AES_GCM_8 = 18
    AES_GCM_12 = 19
    AES_GCM_16 = 20
    NULL_AUTH_AES_GMAC = 21
    CHACHA20_POLY1305 = 28


class PseudorandomFunction(IntEnum):
    """Transform type 2, PRF."""

    HMAC_SHA1 = 2
    AES128_XCBC = 4
    HMAC_SHA2_256 = 5
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7
    AES128_CMAC = 8


class IntegrityAlgorithm(IntEnum):
    """Transform type 3, INTEG."""

    NONE = 0
    HMAC_SHA1_96 = 2
    AES_XCBC_96 = 5
    AES_CMAC_96 = 8
    HMAC_SHA2_256_128 = 12
    HMAC_SHA2_384_192 = 13
    HMAC_SHA2_512_256 = 14


class KeyExchangeMethod(IntEnum):
    """Transform type 4, once "Diffie-Hellman group" (renamed by RFC 9370)."""

    NONE = 0
    MODP_1024 = 2
    MODP_1536 = 5
    MODP_2048 = 14
    MODP_3072 = 15
    MODP_4096 = 16
    MODP_6144 = 17
    MODP_8192 = 18
    ECP_256 = 19
    ECP_384 = 20
    ECP_521 = 21
    CURVE25519 = 31
    CURVE448 = 32
    ML_KEM_512 = 35
    ML_KEM_768 = 36
    ML_KEM_1024 = 37


class IdentificationType(IntEnum):
    """ID Type of an Identification payload (RFC 7296, 3.5)."""

    IPV4_ADDR = 1
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class IpCompTransform(IntEnum):
    """IPCOMP transform IDs (RFC 7296, 3.10.1)."""

    OUI = 1
    DEFLATE = 2
    LZS = 3
    LZJH = 4


class SecurityProtocol(IntEnum):
    """IKEv2 Security Protocol Identifiers (RFC 7296, 3.3.1)."""

    IKE = 1
    AH = 2
    ESP = 3


class TrafficSelectorType(IntEnum):
    """TS Type (RFC 7296, 3.13.1)."""

    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8


class IkeExchange(IntEnum):
    """Exchange Type in the IKE header (RFC 7296, 3.1; RFC 9242)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_INTERMEDIATE = 43


class IkePayload(IntEnum):
    """Next Payload values that are told apart here (RFC 7296, 3.2; RFC 7383)."""

    NONE = 0
    SECURITY_ASSOCIATION = 33
    KEY_EXCHANGE = 34
    IDENTIFICATION_INITIATOR = 35
    IDENTIFICATION_RESPONDER = 36
    CERTIFICATE = 37
    CERTIFICATE_REQUEST = 38
    AUTHENTICATION = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TRAFFIC_SELECTOR_INITIATOR = 44
    TRAFFIC_SELECTOR_RESPONDER = 45
    ENCRYPTED = 46
    CONFIGURATION = 47
    EXTENSIBLE_AUTHENTICATION = 48
    ENCRYPTED_FRAGMENT = 53


IKE_PORT = 500
NAT_TRAVERSAL_PORT = 4500
"""UDP ports of IKEv2, the second for NAT traversal (RFC 7296, 2.23; RFC 3948)."""

NON_ESP_MARKER = bytes(4)
"""Stands before an IKE message on the NAT-traversal port (RFC 3948, 2.2)."""
