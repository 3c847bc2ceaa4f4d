"""What of a packet is ESP's or IKE's: how two hosts protect what they say to each other."""

from __future__ import annotations

from ..adapters.capture import IpPacket
from ..constants import NAT_TRAVERSAL_PORT, PAYLOAD_PROTOCOL_IDENTIFIER, PORT, VERSION
from ..wire import HEADER_OCTETS

_ESP, _UDP = 50, 17
_ESP_HEADER = 8
_CHUNK_AT, _IDENTIFIER_AT = 12, 24
_IDENTIFIER = PAYLOAD_PROTOCOL_IDENTIFIER.to_bytes(4, "big")
_IKE_PORT = 500
_IKE_HEADER = 28
_EXCHANGE_TYPE_AT = 18
_IKE_SA_INIT = 34


def esp_octets(packet: IpPacket) -> bytes | None:
    """An ESP packet from its SPI, raw or in UDP (RFC 3948); None for all else."""
    if packet.protocol == _ESP:
        return packet.payload if len(packet.payload) > 8 else None
    payload = packet.payload
    if packet.protocol != _UDP or len(payload) < 17 or not any(payload[8:12]):
        return None
    ports = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
    return payload[8:] if NAT_TRAVERSAL_PORT in ports else None


def shows_cxtp(esp: bytes) -> bool:
    """Whether ESP, from its SPI, has a CXTP message to be read behind its sequence number: NULL encryption (RFC 2410).

    In transport mode, or behind the header of a tunnel's inner packet.  Strict enough for no ciphertext to pass: the
    port and the payload protocol identifier, or the port and both lengths.
    """
    body = esp[_ESP_HEADER:]
    if body[:1] == b"\x45":
        body = body[20:]
    elif body[:1] and body[0] >> 4 == 6:
        body = body[40:]
    ports = (int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big"))
    if PORT not in ports or len(body) < 8 + HEADER_OCTETS:
        return False
    if body[_CHUNK_AT : _CHUNK_AT + 1] == b"\0" and body[_IDENTIFIER_AT : _IDENTIFIER_AT + 4] == _IDENTIFIER:
        return True
    length = int.from_bytes(body[4:6], "big")
    return body[8] >> 5 == VERSION and 8 < length <= len(body) and int.from_bytes(body[10:12], "big") == length - 8


def is_ike_sa_init(packet: IpPacket) -> bool:
    """Whether a UDP packet begins an IKE_SA (RFC 7296, 1.2), on port 500 or 4500."""
    payload = packet.payload
    ports = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
    if NAT_TRAVERSAL_PORT in ports:
        header = payload[12:] if not any(payload[8:12]) else b""  # behind the non-ESP marker (RFC 3948, 2.2)
    else:
        header = payload[8:] if _IKE_PORT in ports else b""
    return len(header) >= _IKE_HEADER and header[_EXCHANGE_TYPE_AT] == _IKE_SA_INIT
