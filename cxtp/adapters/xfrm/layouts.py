"""The structures of NETLINK_XFRM (linux/netlink.h, linux/xfrm.h), box by box.

Lengths, flags and counters are in the machine's own byte order; addresses, SPIs and ports in the network's.
"""

from __future__ import annotations

import sys

from construct import Bytes, Int8ub, Int16ub, Int16ul, Int32sb, Int32sl, Int32ub, Int32ul, Int64ub, Int64ul, Struct
from construct import Padding as _Padding

_LITTLE = sys.byteorder == "little"
U16 = Int16ul if _LITTLE else Int16ub
U32 = Int32ul if _LITTLE else Int32ub
S32 = Int32sl if _LITTLE else Int32sb
U64 = Int64ul if _LITTLE else Int64ub

ADDRESS = Bytes(16)

MESSAGE_HEADER = Struct("length" / U32, "type" / U16, "flags" / U16, "sequence" / U32, "port" / U32)

ATTRIBUTE_HEADER = Struct("length" / U16, "type" / U16)

SELECTOR = Struct(
    "destination" / ADDRESS,
    "source" / ADDRESS,
    "destination_port" / Int16ub,
    "destination_port_mask" / Int16ub,
    "source_port" / Int16ub,
    "source_port_mask" / Int16ub,
    "family" / U16,
    "destination_prefix" / Int8ub,
    "source_prefix" / Int8ub,
    "protocol" / Int8ub,
    _Padding(3),
    "interface" / S32,
    "user" / U32,
)

IDENTIFIER = Struct("destination" / ADDRESS, "spi" / Int32ub, "protocol" / Int8ub, _Padding(3))

LIFETIME_CONFIGURED = Struct(
    "soft_octets" / U64,
    "hard_octets" / U64,
    "soft_packets" / U64,
    "hard_packets" / U64,
    "soft_add_seconds" / U64,
    "hard_add_seconds" / U64,
    "soft_use_seconds" / U64,
    "hard_use_seconds" / U64,
)

LIFETIME_CURRENT = Struct("octets" / U64, "packets" / U64, "add_time" / U64, "use_time" / U64)

SECURITY_ASSOCIATION = Struct(
    "selector" / SELECTOR,
    "identifier" / IDENTIFIER,
    "source" / ADDRESS,
    "lifetime" / LIFETIME_CONFIGURED,
    "current" / LIFETIME_CURRENT,
    "replay_window_errors" / U32,
    "replay_errors" / U32,
    "integrity_errors" / U32,
    "sequence" / U32,
    "request_id" / U32,
    "family" / U16,
    "mode" / Int8ub,
    "replay_window" / Int8ub,
    "flags" / Int8ub,
    _Padding(7),
)

SECURITY_ASSOCIATION_ID = Struct(
    "destination" / ADDRESS, "spi" / Int32ub, "family" / U16, "protocol" / Int8ub, _Padding(1)
)

ASYNC_EVENT_ID = Struct(
    "identifier" / SECURITY_ASSOCIATION_ID, "source" / ADDRESS, "flags" / U32, "request_id" / U32
)

SA_EXPIRE = Struct("sa" / Bytes(SECURITY_ASSOCIATION.sizeof()), "hard" / Int8ub, _Padding(7))

POLICY = Struct(
    "selector" / SELECTOR,
    "lifetime" / LIFETIME_CONFIGURED,
    "current" / LIFETIME_CURRENT,
    "priority" / U32,
    "index" / U32,
    "direction" / Int8ub,
    "action" / Int8ub,
    "flags" / Int8ub,
    "share" / Int8ub,
    _Padding(4),
)

POLICY_ID = Struct("selector" / SELECTOR, "index" / U32, "direction" / Int8ub, _Padding(3))

POLICY_EXPIRE = Struct("policy" / Bytes(POLICY.sizeof()), "hard" / Int8ub, _Padding(7))

TEMPLATE = Struct(
    "identifier" / IDENTIFIER,
    "family" / U16,
    _Padding(2),
    "source" / ADDRESS,
    "request_id" / U32,
    "mode" / Int8ub,
    "share" / Int8ub,
    "optional" / Int8ub,
    _Padding(1),
    "authentication_algorithms" / U32,
    "encryption_algorithms" / U32,
    "compression_algorithms" / U32,
)

MIGRATION = Struct(
    "old_destination" / ADDRESS,
    "old_source" / ADDRESS,
    "new_destination" / ADDRESS,
    "new_source" / ADDRESS,
    "protocol" / Int8ub,
    "mode" / Int8ub,
    _Padding(2),
    "request_id" / U32,
    "old_family" / U16,
    "new_family" / U16,
)

MAPPING = Struct(
    "identifier" / SECURITY_ASSOCIATION_ID,
    "request_id" / U32,
    "old_source" / ADDRESS,
    "new_source" / ADDRESS,
    "old_source_port" / Int16ub,
    "new_source_port" / Int16ub,
)

MARK = Struct("value" / U32, "mask" / U32)

ALGORITHM = Struct("name" / Bytes(64), "key_bits" / U32)

ALGORITHM_WITH_ICV = Struct("name" / Bytes(64), "key_bits" / U32, "icv_bits" / U32)

ENCAPSULATION = Struct(
    "type" / U16, "source_port" / Int16ub, "destination_port" / Int16ub, _Padding(2), "original_address" / ADDRESS
)

REPLAY = Struct("outbound" / U32, "inbound" / U32, "bitmap" / U32)

REPLAY_ESN = Struct(
    "bitmap_words" / U32,
    "outbound_low" / U32,
    "inbound_low" / U32,
    "outbound_high" / U32,
    "inbound_high" / U32,
    "window" / U32,
)

POLICY_TYPE = Struct("kind" / Int8ub, _Padding(5))  # an octet, 16 bits and an octet that nobody uses, as C aligns them
