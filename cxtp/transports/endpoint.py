"""What every transport endpoint gives the node, and what it is told.

An endpoint moves whole messages between this node and peers; it decides nothing.  It counts what it drops under
a name, and it never queues without a limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, Union

from ..constants import PORT
from ..errors import ConfigurationError
from ..messages import IPAddress
from ..roles.events import Peer as Peer  # whom endpoints speak of: their users need not know the roles

Receiver = Callable[[bytes, Peer], None]
"""Called with each message that arrived and whom it came from."""

@dataclass(frozen=True)
class AssociationUp:
    """A connection or association with a router stands."""

    peer: Peer


@dataclass(frozen=True)
class AssociationLost:
    """It is gone, and with it, maybe, what was under way in either direction.  ``reason`` is for people."""

    peer: Peer
    reason: str


@dataclass(frozen=True)
class SendFailed:
    """The transport says that messages to this router were not delivered: ``messages`` of them."""

    peer: Peer
    reason: str
    messages: int = 1


TransportEvent = Union[AssociationUp, AssociationLost, SendFailed]

EventReceiver = Callable[[TransportEvent], None]
"""Called with what became of associations.  It decides nothing: the roles ask again whatever was lost."""


def no_events(event: TransportEvent) -> None:
    """For who does not want to know."""


_WITH_PORT = re.compile(r"(?:\[(?P<bracketed>[^]]*)\]|(?P<plain>[^:]*)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Router:
    """A router that we know: its name (as in its certificate) and where it listens."""

    name: str
    address: IPAddress
    port: int = PORT

    @classmethod
    def parse(cls, text: str) -> Router:
        """``NAME=ADDRESS[:PORT]``, an IPv6 address in brackets where a port follows."""
        name, equals, rest = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"peer {text!r}: write NAME=ADDRESS or NAME=ADDRESS:PORT")
        address, port = parse_socket_address(rest)
        return cls(name, address, port)


def peers_of(routers: Sequence[Router], *, reliable: bool) -> dict[str, Peer]:
    """Those whom roles speak with, by name.  Raises ConfigurationError where two share a name or an address."""
    if not len({router.name for router in routers}) == len({router.address for router in routers}) == len(routers):
        raise ConfigurationError("each router needs a name and an address of its own: CXTP knows it by both")
    return {
        router.name: Peer(router.address, router.port, name=router.name, reliable=reliable, is_router=True)
        for router in routers
    }


def parse_socket_address(text: str, default_port: int = PORT) -> tuple[IPAddress, int]:
    """``ADDRESS[:PORT]`` or ``[ADDRESS]:PORT``.  Raises ConfigurationError; names are not looked up."""
    match = _WITH_PORT.fullmatch(text)
    host, port = (match["bracketed"] or match["plain"], int(match["port"])) if match else (text, default_port)
    if match is None and text.startswith("[") and text.endswith("]"):
        host = text[1:-1]
    try:
        if port > 65535:
            raise ValueError(port)
        return ip_address(host), port
    except ValueError:
        raise ConfigurationError(f"{text!r} is no IP address with an optional port") from None


class Endpoint(Protocol):
    """One transport of a node."""

    reliable: bool
    """Messages arrive, in order and once, while the connection lives."""
    maximum_message: int
    """Octets of the largest message that it carries."""
    counters: Counter[str]

    async def start(self) -> None:
        """Listen.  Raises TransportError with the address and the system's reason."""

    def send(self, octets: bytes, peer: Peer) -> None:
        """Send, or queue, or drop and count; never blocks, never raises for the network's sake."""

    def obstacle(self, peer: Peer) -> str | None:
        """Why nothing can be carried to or from this peer at present, such as a path without protection; None: it
        can, for all that is known here."""

    async def close(self) -> None:
        """Stop; what is queued may be lost."""


def refuse_cleartext_off_loopback(address: IPv4Address | IPv6Address, allowed: bool, what: str) -> None:
    """Contexts hold keys: in the clear they may not leave this machine unless asked for by name."""
    if not address.is_loopback and not allowed:
        raise ConfigurationError(
            f"{what} {address} is off loopback and UDP is cleartext: session keys would cross the network. "
            "Use the TLS transport, or say --allow-cleartext-keys-on-the-network where ESP protects the path"
        )
