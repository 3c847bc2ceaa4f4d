"""The whole story: a client and its gateway negotiate and talk; gateway A's session moves to gateway B; the client goes
on talking to the same address, and does not notice.

The client's link and the gateways' link are one capture, as taken at the switch where all three meet.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext

from ..adapters.capture import PcapngWriter, PcapWriter
from ..constants import IKE_PORT, NAT_TRAVERSAL_PORT, NON_ESP_MARKER, PORT
from ..messages import IPAddress
from ..wire import internet_checksum
from .stage import BEGIN, GENERATION, Stage
from .vpn import Vpn

ESP = 50
ROUND_TRIP = 0.018
ENDS = {
    4: ("203.0.113.10", "192.0.2.10", "192.0.2.1", "192.0.2.2"),
    6: ("2001:db8:c::10", "2001:db8::10", "2001:db8::1", "2001:db8::2"),
}
PINGS = 5


class Story:
    """The client, the gateways' common address, and who has it."""

    def __init__(self, writer: PcapWriter, seed: int, *, version: int, udp: bool, transport: str) -> None:
        client, gateway, a, b = (ip_address(text) for text in ENDS[version])
        self.writer, self.udp = writer, udp
        self.machines = {"A": a, "B": b}
        self.client, self.gateway = client, gateway
        self.vpn = Vpn(seed, client, gateway, udp=udp)
        self.stage = Stage(writer, seed, (), version=version, transport=transport)
        self.link = Vpn(seed + 1, a, b)
        if transport == "esp":
            self.stage.link = self._protected
        self.now = BEGIN
        self.answers_at("A")

    def answers_at(self, name: str) -> None:
        """The gateways' address is this machine's."""
        self.name = name
        if isinstance(self.writer, PcapngWriter):
            self.writer.hardware[self.gateway] = self.machines[name]

    def ike(self, exchange: tuple[bytes, bytes], what: str, *, from_client: bool = True, first: bool = False) -> None:
        """Request and response."""
        marker = NON_ESP_MARKER if self.udp and not first else b""
        port = NAT_TRAVERSAL_PORT if self.udp and not first else IKE_PORT
        ends = (self.client, self.gateway) if from_client else (self.gateway, self.client)
        for (source, destination), octets in zip((ends, ends[::-1]), exchange, strict=True):
            self.writer.comment = f"{what}, by gateway {self.name}"
            self.writer.write_udp(self.now, source, port, destination, port, marker + octets)
            self.now += ROUND_TRIP / 2

    def pings(self, first: int, count: int = PINGS) -> None:
        """Each an echo request and its answer, sealed."""
        for number in range(first, first + count):
            request, answer = self.vpn.ping(number)
            self._esp(self.client, self.gateway, request, f"echo request {number}, to gateway {self.name}")
            self.now += ROUND_TRIP / 2
            self._esp(self.gateway, self.client, answer, f"echo reply {number}, by gateway {self.name}")
            self.now += 0.2 - ROUND_TRIP / 2

    def move(self, *, forgetful: bool = False) -> None:
        """From A to B by CXTP; B then knows what came in the CTD, and nothing else.  ``forgetful``: it begins to count
        anew, which breaks the session's security."""
        self.stage.contexts = self.vpn.contexts()
        self.stage.now = self.now
        self.stage.previous.previous.transfer(
            self.client, self.stage.new_peer, self.stage.contexts, GENERATION, self.now
        )
        self.stage.run()
        self.now = self.stage.now + 0.05
        self.answers_at("B")
        self.vpn.move_to(self.stage.contexts, forgetful=forgetful)

    def _esp(self, source: IPAddress, destination: IPAddress, octets: bytes, what: str) -> None:
        self.writer.comment = what
        if self.udp:
            port = NAT_TRAVERSAL_PORT
            self.writer.write_udp(self.now, source, port, destination, port, octets)
        else:
            self.writer.write_ip(self.now, source, destination, ESP, octets)

    def _protected(self, time: float, source: IPAddress, destination: IPAddress, octets: bytes) -> None:
        """A CXTP message in UDP, in ESP in transport mode between the gateways (RFC 4303, 3.1.1)."""
        sealed = self.link.protect(udp_datagram(source, destination, octets), from_client=source == self.link.client)
        self.writer.write_ip(time, source, destination, ESP, sealed)


def udp_datagram(source: IPAddress, destination: IPAddress, octets: bytes) -> bytes:
    """From and to CXTP's port, with its checksum."""
    head = struct.pack("!HHH", PORT, PORT, 8 + len(octets))
    pseudo = source.packed + destination.packed
    length = 8 + len(octets)
    pseudo += struct.pack("!xBH", 17, length) if source.version == 4 else struct.pack("!I3xB", length, 17)
    return head + struct.pack("!H", internet_checksum(pseudo + head + bytes(2) + octets) or 0xFFFF) + octets


def handover(
    writer: PcapWriter,
    seed: int,
    *,
    version: int = 4,
    udp: bool = False,
    transport: str = "sctp",
    forgetful: bool = False,
) -> tuple[IkeSaContext | IpsecSaContext, ...]:
    """Write it; gives the contexts that open what is in it."""
    story = Story(writer, seed, version=version, udp=udp, transport=transport)
    vpn = story.vpn
    story.ike(vpn.ike_sa_init(), "IKE_SA_INIT", first=True)
    story.ike(vpn.ike_auth(), "IKE_AUTH")
    story.pings(1)
    story.move(forgetful=forgetful)
    story.pings(1 + PINGS)
    story.ike(vpn.liveness(from_client=True), "liveness check by the client")
    story.ike(vpn.liveness(from_client=False), "liveness check by the gateway", from_client=False)
    old = vpn.child
    story.ike(vpn.rekey_child(), "CHILD_SA rekeyed", from_client=False)
    story.ike(vpn.delete_child(old), "the old CHILD_SA deleted", from_client=False)
    story.pings(1 + 2 * PINGS)
    story.stage.now = story.now
    story.stage.close()
    return (*vpn.all_contexts(), *story.link.all_contexts())
