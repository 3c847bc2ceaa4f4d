"""Packets from capture files (pcap, pcapng) and into them (pcap).

Reading goes up floor by floor, each a generator over the one below: :func:`read_packets` (link layer frames),
:func:`ip_packets` (whole IP packets, fragments put together), then :func:`udp_datagrams`, :func:`tcp_streams`,
:func:`sctp_data`, :func:`icmp_messages`.  What is in the file and yet not handed on (ARP, a packet cut by the
capture's snap length, a fragment whose others are missing ...) is counted by its reason in ``drops``, a Counter
that the caller may pass in; only a broken file raises (:class:`CaptureError`).  Who wants all of them in one pass
gives each IP packet to :func:`udp_datagram`, :func:`icmp_message`, :class:`TcpReader` and :class:`SctpReader`.
"""

from __future__ import annotations

from .association import SentData
from .files import CapturedPacket, CaptureError, read_packets
from .internet import IpPacket, ip_packets
from .pcapng import PcapngWriter
from .tcp import TcpData, TcpReader, tcp_streams
from .transport import (
    IcmpDatagram,
    SctpData,
    SctpReader,
    UdpDatagram,
    icmp_message,
    icmp_messages,
    sctp_data,
    udp_datagram,
    udp_datagrams,
)
from .writer import PcapWriter

__all__ = [
    "CaptureError",
    "CapturedPacket",
    "IcmpDatagram",
    "IpPacket",
    "PcapWriter",
    "PcapngWriter",
    "SctpData",
    "SctpReader",
    "SentData",
    "TcpData",
    "TcpReader",
    "UdpDatagram",
    "icmp_message",
    "icmp_messages",
    "ip_packets",
    "read_packets",
    "sctp_data",
    "tcp_streams",
    "udp_datagram",
    "udp_datagrams",
]
