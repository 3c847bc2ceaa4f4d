"""What a strongSwan daemon has to be told so that a cxtp node stands beside it as the peer of its ``ha`` plugin.

Pure: ``cxtp gateway strongswan --print-config`` prints it, an operator puts it into /etc/strongswan.d.  Every value
stands in the text with its reason, for whoever changes it later has that file and not this one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import combinations
from pathlib import PurePath, PurePosixPath

from .errors import ConfigurationError

DAEMON_ADDRESS = IPv4Address("127.0.0.3")
"""Where the daemon's end of the link is: the higher one as a string, see :func:`strongswan_conf`."""

NODE_ADDRESS = IPv4Address("127.0.0.2")
"""Where ours is."""

VICI_SOCKET = PurePosixPath("/run/charon.vici")

REPLAY_WINDOW = 32
"""Packets: strongSwan's own default, written down because it has to be one value at all gateways."""

MAXIMUM_REPLAY_WINDOW = 4096
"""Packets, Linux's limit."""

MESSAGE_BUFFER = 24_576
"""Octets.  255 traffic selectors a side, as many as one CHILD_SA can have (RFC 7296, 3.13), are 19,890 of them; the
plugin's 2048 hold about 40 selectors of IPv6, and what is longer it throws away."""

_POOL_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PATH = re.compile(r"/[A-Za-z0-9_./-]+")
_POOL_HOST_BITS = range(3, 25)
_WIDTH = 100


@dataclass(frozen=True)
class StrongswanSettings:
    """The operator's part.

    ``daemon`` and ``node`` are the two ends of the link, ``pools`` the ranges of virtual IPs by the name that
    connections ask for, ``vici`` the daemon's control socket, ``replay_window`` packets.
    """

    daemon: IPv4Address = DAEMON_ADDRESS
    node: IPv4Address = NODE_ADDRESS
    pools: Mapping[str, IPv4Network | IPv6Network] = field(default_factory=dict)
    vici: PurePath = VICI_SOCKET
    replay_window: int = REPLAY_WINDOW

    def __post_init__(self) -> None:
        """Raises ConfigurationError where the daemon would do something else than what is meant."""
        self._check_link()
        for name, network in self.pools.items():
            _check_pool(name, network)
        for (one, first), (other, second) in combinations(self.pools.items(), 2):
            if first.version == second.version and first.overlaps(second):
                raise ConfigurationError(f"pools {one} and {other} have addresses in common: {first}, {second}")
        if _PATH.fullmatch(str(self.vici)) is None:
            raise ConfigurationError(f"{self.vici}: the vici socket is an absolute path of letters, digits and ._-")
        if not 0 < self.replay_window <= MAXIMUM_REPLAY_WINDOW:
            raise ConfigurationError(f"a replay window of {self.replay_window}: 1 to {MAXIMUM_REPLAY_WINDOW} packets")

    def _check_link(self) -> None:
        for address in (self.daemon, self.node):
            if not address.is_loopback:
                raise ConfigurationError(
                    f"{address} is no IPv4 loopback address: ha messages carry keys in the clear, and stay on this "
                    "machine (IPv6 has one loopback address only, and the link needs two)"
                )
        if str(self.daemon) <= str(self.node):
            raise ConfigurationError(
                f"the daemon's address {self.daemon} has to come after the node's, {self.node}, as a string: else the "
                "plugin takes the node for the owner of segment 1, and serves no pool"
            )


def _check_pool(name: str, network: IPv4Network | IPv6Network) -> None:
    if _POOL_NAME.fullmatch(name) is None:
        raise ConfigurationError(f"a pool's name is of letters, digits, _ and -: not {name!r}")
    bits = network.max_prefixlen - network.prefixlen
    if bits not in _POOL_HOST_BITS:
        smallest, largest = (network.max_prefixlen - limit for limit in (_POOL_HOST_BITS[0], _POOL_HOST_BITS[-1]))
        raise ConfigurationError(f"pool {name}: {network} is not between /{largest} and /{smallest} (the plugin's)")


def strongswan_conf(settings: StrongswanSettings = StrongswanSettings()) -> str:
    """A strongswan.conf snippet, for charon and charon-systemd (which reads ``charon`` too), with the reasons."""
    lines = [*_comment(_HEAD.format(daemon=settings.daemon, node=settings.node)), "", "charon {"]
    lines += _setting(1, "replay_window", settings.replay_window, _WINDOW)
    lines += ["    plugins {", "        ha {"]
    for name, value, reason in _HA:
        lines += _setting(3, name, value.format(settings=settings, buffer=MESSAGE_BUFFER), reason)
    lines += _pools(settings.pools)
    lines += ["        }", "        vici {", "            load = yes"]
    lines += _setting(3, "socket", f"unix://{settings.vici}", _VICI)
    lines += ["        }", "        kernel-netlink {"]
    lines += _setting(3, "load", "yes", _KERNEL)
    return "\n".join([*lines, "        }", "    }", "}"]) + "\n"


def _setting(depth: int, name: str, value: object, reason: str) -> list[str]:
    indent = "    " * depth
    return [*(indent + line for line in _comment(reason, _WIDTH - len(indent))), f"{indent}{name} = {value}"]


def _comment(text: str, width: int = _WIDTH) -> list[str]:
    lines = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["# " + line for line in textwrap.wrap(" ".join(paragraph.split()), width - 2)] + ["#"]
    return lines[:-1]


def _pools(pools: Mapping[str, IPv4Network | IPv6Network]) -> list[str]:
    if not pools:
        return []
    indent = "    " * 3
    lines = [*(indent + line for line in _comment(_POOLS, _WIDTH - len(indent))), indent + "pools {"]
    lines += [f"{indent}    {name} = {network}" for name, network in pools.items()]
    return [*lines, indent + "}"]


# --- the reasons ------------------------------------------------------------------------------------------------

_HEAD = """
strongSwan beside a cxtp node. Into /etc/strongswan.d/, on every gateway; the connections, their children and
their secrets are the same on all gateways, by the same names.

The link between the daemon ({daemon}) and the node ({node}), UDP port 4510, carries in the clear what the keys
of every IKE_SA and IPsec SA follow from (g^ir, nonces, SK_d). It is not to leave this machine: both ends are
loopback addresses, the kernel takes nothing from a network that comes from or goes to 127.0.0.0/8 (leave
net.ipv4.conf.*.route_localnet at 0), and the node refuses other addresses. What goes from node to node goes by
CXTP, protected.

Who can read it here: root, or who has CAP_NET_RAW in this network namespace. Both can as well read the keys
where the kernel and the daemon have them, so that the link opens no door to them. Port 4510 needs no privilege,
though: while the daemon runs and the node does not, any user's process could bind {node} and be told
everything; while the node runs and the daemon does not, it could bind {daemon} and speak as the daemon. On a
gateway with such users: sysctl net.ipv4.ip_unprivileged_port_start=4511.
"""

_WINDOW = """
Packets. The same on all gateways: the target's kernel gets the old gateway's window, and one is never made
smaller.
"""

_HA: tuple[tuple[str, str, str], ...] = (
    ("load", "yes", "The plugin is in Debian's libcharon-extra-plugins."),
    ("local", "{settings.daemon}", "The daemon's end: the higher one as a string, so that segment 1 is its own."),
    ("remote", "{settings.node}", "The node's end.  No 'secret': that would ask for an IKE_SA with the node."),
    (
        "segment_count",
        "1",
        "One: whether a session is here is decided by where it was moved, not by a hash of its peer's address.",
    ),
    (
        "monitor",
        "yes",
        """
        The node says that it is there once a second. With that, a daemon that is stopped (SIGTERM) goes without
        telling its clients to delete their SAs, so that another gateway can take them over; without the node it
        closes them, as it should. It has to be yes: it makes the daemon take its segment by itself 2.1 s after
        the start when no node is there (a gateway works without cxtp, pools too), and tell the node each second
        that it lives and is active. 'no' would not keep it from taking segments: the first word of the node
        starts the same watch.

        It takes nothing that it should not: a node never claims the segment, so the daemon has it from the
        first word or after 2.1 s of silence on, and silence later changes nothing. A session that is being
        handed over stays passive, whatever the watch does, for only a change of the segment makes sessions
        active.
        """,
    ),
    ("heartbeat_delay", "1000", "Milliseconds, as the node's own."),
    ("heartbeat_timeout", "2100", "Milliseconds: one word of the node's may be lost."),
    (
        "resync",
        "no",
        """
        The daemon would ask once, unconfirmed, a second after its start, whether the node is there or not. The
        node finds a new daemon by itself (over vici).
        """,
    ),
    (
        "fifo_interface",
        "no",
        "Whoever may write to the FIFO makes sessions passive and active: that is the node's part.",
    ),
    ("autobalance", "0", "Seconds; 0 is never: the segment is not given away to make things even."),
    (
        "buflen",
        "{buffer}",
        "Octets.  With its own 2048 the plugin drops the message of a CHILD_SA with more than some 40 selectors.",
    ),
)

_POOLS = """
Virtual IPs: names as in the connections' 'pools', which then must not stand in swanctl.conf's pools section. An
address that comes with a session is reserved here, where it is of one of these ranges.

Only for gateways whose sessions all move together. Here an address is free once its session has left, and the next
client gets what the moved one still uses. Where sessions move one by one: swanctl.conf's own pools, which keep an
address for the identity that had it, by the same names with another range at each gateway.
"""

_VICI = """
The node asks here what the daemon has, and whether it has the connection of a session that is to come. Who may
open the socket rules the daemon: leave it to root.
"""

_KERNEL = """
Kernel ESP. Not kernel-libipsec: its sequence numbers can be neither read nor set, so that after a move each
CHILD_SA has to be rekeyed before packets to the client arrive.
"""
