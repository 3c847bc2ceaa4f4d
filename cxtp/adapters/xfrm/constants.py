"""Numbers of linux/netlink.h and linux/xfrm.h."""

from __future__ import annotations

from enum import IntEnum, IntFlag

AF_INET, AF_INET6 = 2, 10
ESP, AH, IPCOMP = 50, 51, 108
INFINITE = (1 << 64) - 1
"""XFRM_INF: a limit of a lifetime in octets or packets that is none.  (For seconds, 0 is none.)"""
LARGEST_WINDOW = 4096
"""XFRMA_REPLAY_ESN_MAX, in packets."""


class MessageType(IntEnum):
    """XFRM_MSG_, and netlink's own."""

    NO_OPERATION = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4
    NEW_SA = 0x10
    DELETE_SA = 0x11
    GET_SA = 0x12
    NEW_POLICY = 0x13
    DELETE_POLICY = 0x14
    GET_POLICY = 0x15
    ALLOCATE_SPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDATE_POLICY = 0x19
    UPDATE_SA = 0x1A
    POLICY_EXPIRE = 0x1B
    FLUSH_SA = 0x1C
    FLUSH_POLICY = 0x1D
    NEW_ASYNC_EVENT = 0x1E
    GET_ASYNC_EVENT = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    MAPPING = 0x26


class HeaderFlag(IntFlag):
    """NLM_F_."""

    REQUEST = 0x1
    MULTIPLE = 0x2
    ACKNOWLEDGE = 0x4
    DUMP_INTERRUPTED = 0x10
    REPLACE = 0x100  # in requests; the next two share their numbers in answers
    CAPPED = 0x100
    EXTENDED = 0x200
    DUMP = 0x300
    EXCLUSIVE = 0x200
    CREATE = 0x400


class AttributeType(IntEnum):
    """XFRMA_."""

    AUTHENTICATION = 1
    ENCRYPTION = 2
    COMPRESSION = 3
    ENCAPSULATION = 4
    TEMPLATES = 5
    SECURITY_ASSOCIATION = 6
    POLICY = 7
    SECURITY_CONTEXT = 8
    LIFETIME_CURRENT = 9
    REPLAY = 10
    REPLAY_THRESHOLD = 11
    TIMER_THRESHOLD = 12
    SOURCE_ADDRESS = 13
    CARE_OF_ADDRESS = 14
    LAST_USED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    AEAD = 18
    AUTHENTICATION_TRUNCATED = 20
    MARK = 21
    PADDING_TO = 22
    REPLAY_ESN = 23
    EXTRA_FLAGS = 24
    ALIGNMENT = 27
    OFFLOAD = 28
    OUTPUT_MARK = 29
    OUTPUT_MARK_MASK = 30
    INTERFACE_ID = 31
    MAPPING_THRESHOLD = 32


class Group(IntEnum):
    """XFRMNLGRP_: what their members are told."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    ASYNC_EVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


class SaFlag(IntFlag):
    """XFRM_STATE_, of an SA."""

    NO_ECN = 1
    DECAPSULATE_DSCP = 2
    NO_PATH_MTU_DISCOVERY = 4
    WILDCARD_RECEIVE = 8
    ICMP = 16
    ANY_FAMILY = 32
    ALIGN_4 = 64
    ESN = 128


class AsyncEventFlag(IntFlag):
    """XFRM_AE_: what an event holds, and why it came."""

    REPLAY_THRESHOLD = 1
    REPLAY = 2
    LIFETIME = 4
    TIMER_THRESHOLD = 8
    BY_REPLAY = 16
    BY_TIMER = 32
    BY_UPDATE = 64
