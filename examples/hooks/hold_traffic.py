#!/usr/bin/python3 -BSE
"""A hook for ``cxtp gateway linux`` with which a planned move loses no packet: the old gateway holds what comes, and
passes it on to the new one.

    cxtp gateway linux ... --on-releasing hold_traffic.py --on-activated hold_traffic.py --on-released hold_traffic.py

It does what virtual_address.py does, which has to lie beside it, for the sessions' local addresses at CXTP_INTERFACE
(eth0); and for the hosts behind the gateways as well: CXTP_INSIDE_INTERFACE is where they are, and
CXTP_INSIDE_ADDRESSES are the addresses that they have as their router.  Both gateways are on one link, on either side.

*releasing*   Packets of the session that come to an interface are turned aside, as they come in (tc, ingress), into a
              queue that is plugged (sch_plug): from the peer's address to the local one, and from the local traffic
              selectors to the remote ones.  Then the session's last packets leave, and it moves.
*activated*   The new gateway takes the addresses, but says nothing of them while the old one still answers for them.
*released*    The old gateway asks who else answers for them now.  Once somebody does, what is held goes there, in its
              order, and what still comes goes there too; then this gateway has the addresses no more.  The new one sees
              that, and tells the neighbours.  So no later packet overtakes those that were held, which would fall out
              of the anti-replay window then (RFC 4303, 3.4.3).

Where the session stays (*activated* at the gateway that held it), what is held goes up into this gateway's own stack;
with strict reverse path filtering (rp_filter 1) the kernel would not take it.  What the gateway's own programs send in
between is not held: they get an error, as from any closed policy.  A session's packets go on from the old gateway to
the new one until it comes back, so that sessions behind one address can leave one by one.

State is in /run/cxtp-hold, or the directory that CXTP_HOLD names.  Needs sch_plug, sch_tbf, cls_flower, cls_matchall,
act_mirred, act_pedit, act_skbedit and veth: any distribution's kernel has them.
"""

import fcntl
import json
import os
import select
import socket
import sys
import time
from contextlib import contextmanager

from virtual_address import INTERFACE, announce, delete, full, ip, local_addresses, sessions_of

DIRECTORY = os.environ.get("CXTP_HOLD", "/run/cxtp-hold")
INSIDE = os.environ.get("CXTP_INSIDE_INTERFACE", "")
INSIDE_ADDRESSES = os.environ.get("CXTP_INSIDE_ADDRESSES", "").split()

QUEUE_OCTETS = 256 << 20
"""Of memory that the packets of one session may take while they are held."""
RELEASE_RATE = int(os.environ.get("CXTP_RELEASE_RATE", "50000"))
"""Packets per second at which what was held goes on: not so fast that the new gateway's receive queues run over."""
PATIENCE = 5.0
"""Seconds until the new gateway answers for the addresses, or the old one does so no more."""
ASK_EVERY = 0.05
SILENCE = 1.0
"""Seconds without an answer after which nobody else has an address.  A machine under load answers late, and whoever
speaks too early has packets overtake those that are held; what comes in this time is passed on by the old gateway."""
SETTLE = 0.02
"""Seconds in which the kernel is done with a packet that it has taken already."""
FIRST_PREFERENCE = 20_000
"""Of our tc filters; each session has two, one per IP version: some 20,000 sessions."""


class Side:
    """One interface: the addresses that move there, and what belongs to the session of what comes in."""

    def __init__(self, number, index, interface, addresses, matches):
        self.interface, self.addresses, self.matches = interface, addresses, matches
        self.queue, self.exit = f"hold{number}.{index}", f"free{number}.{index}"
        self._preference = FIRST_PREFERENCE + 2 * number

    def filters(self, action, verb="add"):
        """tc's commands for what is to become of the session's packets."""
        if any(":" in source for source, _ in self.matches):
            # Neighbours go on asking whether this gateway is there (RFC 4861, 7.3), and are not kept waiting.
            for handle, kind in enumerate((135, 136), 1):
                yield (
                    f"filter replace dev {self.interface} ingress protocol ipv6 pref {FIRST_PREFERENCE - 1} "
                    f"handle {handle} flower ip_proto icmpv6 type {kind} action pass"
                )
        for handle, (source, destination) in enumerate(self.matches, 1):
            yield (
                f"filter {verb} dev {self.interface} ingress protocol {'ipv6' if ':' in source else 'ip'} "
                f"pref {self._preference + (':' in source)} handle {handle} "
                f"flower src_ip {source} dst_ip {destination} {action}"
            )

    def queues(self):
        """A plug, which lets nothing through from the beginning, behind a token bucket that counts packets: each is as
        if it had the length of the largest."""
        largest = 1500
        burst = max(RELEASE_RATE // 100 * largest, 65_536)
        return [
            f"qdisc add dev {self.queue} root handle 1: tbf rate {RELEASE_RATE * largest * 8}bit mpu {largest} "
            f"burst {burst} limit {QUEUE_OCTETS}",
            f"qdisc add dev {self.queue} parent 1:1 handle 2: plug limit {QUEUE_OCTETS}",
            f"qdisc add dev {self.exit} clsact",
        ]

    def hurry(self):
        """Of the token bucket: no packet waits for it any more."""
        return f"qdisc change dev {self.queue} root handle 1: tbf rate 100gbit burst 64mb limit {QUEUE_OCTETS}"

    def open(self):
        return f"qdisc change dev {self.queue} parent 1:1 handle 2: plug release_indefinite"

    def no_filters(self):
        versions = {":" in source for source, _ in self.matches}
        return [f"filter del dev {self.interface} ingress pref {self._preference + six}" for six in versions]


def sides_of(session, number):
    found = session["associations"]
    outside = {(one["remote"], one["local"]) for one in found}
    sides = [Side(number, 0, INTERFACE, local_addresses(session), sorted(outside))]
    if INSIDE:
        inside = {
            (source, destination)
            for one in found
            for source in one["local_selectors"]
            for destination in one["remote_selectors"]
            if (":" in source) == (":" in destination)
        }
        versions = {":" in source for source, _ in inside}
        addresses = [address for address in INSIDE_ADDRESSES if (":" in address) in versions]
        sides.append(Side(number, 1, INSIDE, addresses, sorted(inside)))
    return sides


def main():
    event, session = sys.argv[1], json.load(sys.stdin)
    with numbered(session["mn_address"]) as (number, state):
        sides = sides_of(session, number)
        {"releasing": releasing, "activated": activated, "released": released}[event](session, sides, state)


# --- the three events -------------------------------------------------------------------------------------------------


def releasing(session, sides, state):
    if state.get("held"):
        return
    forget(sides, state)
    for side in sides:
        ip(
            f"link add name {side.queue} type veth peer name {side.exit}",
            f"link set dev {side.queue} addrgenmode none up",
            f"link set dev {side.exit} addrgenmode none up",
        )
    tc(*(f"qdisc add dev {side.interface} clsact" for side in sides), may_fail=True)  # it may be there
    state["held"] = True
    commands = []
    for side in sides:
        commands += side.queues()
        commands += side.filters(f"action mirred egress redirect dev {side.queue}")
    tc(*commands)
    time.sleep(SETTLE)


def activated(session, sides, state):
    if state.get("held"):  # it stays: what was held goes up here
        tc(
            *(f"filter add dev {side.exit} ingress matchall action skbedit ptype host pass" for side in sides),
            *(side.open() for side in sides),
        )
        drain(sides)
        tc(*(line for side in sides for line in side.no_filters()))
        remove_queues(sides)
        state.clear()
    forget(sides, state)
    taken = []
    meet({one["remote"] for one in session["associations"]})
    for side in sides:
        let_neighbours_wait(side.interface)
        for address in side.addresses:
            with sessions_of(address) as users:
                users.add(session["mn_address"])
                if not has(address, side.interface):
                    duplicates = " nodad" if ":" in address else ""
                    ip(f"addr add {full(address)} dev {side.interface}{duplicates}")
                    taken.append((address, side.interface))
    end = time.monotonic() + PATIENCE
    for address, interface in taken:
        while time.monotonic() < end and ask(address, interface, SILENCE):
            time.sleep(ASK_EVERY)
        announce(address, interface)


def released(session, sides, state):
    others = {}
    if state.get("held"):
        end = time.monotonic() + PATIENCE
        for side in sides:
            others[side] = [ask(address, side.interface, end - time.monotonic()) for address in side.addresses]
        pass_on(sides, {side: answers[0] for side, answers in others.items() if answers and all(answers)}, state)
    for side in sides:
        for address in side.addresses:
            with sessions_of(address) as users:
                users.discard(session["mn_address"])
                if not users:
                    ip(delete(address, side.interface), may_fail=True)
    if not all(map(all, others.values())):
        sys.exit("nobody answered for the session's addresses: what was held is lost")


def pass_on(sides, ways, state):
    """What is held goes to the other gateway, and then what comes too.  ``ways``: its link-layer address, by side."""
    actions = {
        side: f"action pedit ex munge eth src set {link_address(side.interface)} munge eth dst set {way} pipe "
        f"action mirred egress redirect dev {side.interface}"
        for side, way in ways.items()
    }
    tc(
        *(f"filter add dev {side.exit} ingress matchall {action}" for side, action in actions.items()),
        *(side.open() for side in ways),
    )
    drain(ways)
    tc(*(line for side, action in actions.items() for line in side.filters(action, "replace")))
    tc(*(line for side in sides if side not in ways for line in side.no_filters()), may_fail=True)
    remove_queues(sides)
    state.clear()
    state["passed on"] = True


def meet(remotes):
    """Know the next hops to the peers before the first packet goes there: the kernel would ask for them with the
    session's own address as its sender, and so tell them too early where that is now."""
    for remote in remotes:
        route = json.loads(output("ip", "-j", "route", "get", remote))[0]
        if route["dev"] == INTERFACE:
            hop = route.get("gateway", remote)
            found = ask(hop, INTERFACE, SILENCE)
            if found:
                ip(f"neigh replace {hop} lladdr {found} dev {INTERFACE} nud reachable")


def let_neighbours_wait(interface):
    """What was held comes at once, and is to wait here until its next hop's link-layer address is known: the kernel's
    own limit is some hundred packets."""
    for version in ("ipv4", "ipv6"):
        path = f"/proc/sys/net/{version}/neigh/{interface}/unres_qlen_bytes"
        if os.path.exists(path):
            with open(path, "w", encoding="ascii") as file:
                file.write(str(QUEUE_OCTETS))


def forget(sides, state):
    """The session's packets are this gateway's own again."""
    if state.pop("passed on", None):
        tc(*(line for side in sides for line in side.no_filters()), may_fail=True)


# --- queues -----------------------------------------------------------------------------------------------------------


def drain(sides):
    """Until the queues, which are open, are empty and remain so: nothing overtakes what is in them, or goes with them.

    A burst that comes when all that was held has gone would wait for the token bucket, and be there when the queue is
    removed."""
    until_empty(sides)
    tc(*(side.hurry() for side in sides))
    until_empty(sides)
    time.sleep(SETTLE)


def until_empty(sides):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(backlog(side.queue) for side in sides):
        time.sleep(0.005)


def backlog(device):
    """Packets that wait there."""
    return json.loads(output("tc", "-s", "-j", "qdisc", "show", "dev", device, "root"))[0]["qlen"]


def remove_queues(sides):
    ip(*(f"link del dev {side.queue}" for side in sides), may_fail=True)


def output(*command):
    """What a program prints."""
    reader, writer = os.pipe()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return text


def tc(*lines, may_fail=False):
    """tc's commands, one after the other, in one process."""
    if lines:
        ip(*lines, may_fail=may_fail, program="tc")


# --- who has an address -----------------------------------------------------------------------------------------------


def has(address, interface):
    """Whether it is this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def ask(address, interface, seconds):
    """The link-layer address of another machine that answers for an address; None where none does in this time."""
    asking = ask_neighbour if ":" in address else ask_arp
    end = time.monotonic() + seconds
    with asking(address, interface) as (question, wire, answer):
        while True:
            question()
            again = time.monotonic() + ASK_EVERY
            # However late this program comes to look, what has been answered is read.
            while select.select([wire], [], [], max(0.0, again - time.monotonic()))[0]:
                found = answer(wire.recv(2048))
                if found:
                    return found
            if time.monotonic() >= end:
                return None


@contextmanager
def ask_arp(address, interface):
    """RFC 5227, 2.1.1: a probe, with no sender address, changes nobody's table."""
    own = bytes.fromhex(link_address(interface).replace(":", ""))
    wanted = socket.inet_pton(socket.AF_INET, address)
    probe = bytes([0, 1, 8, 0, 6, 4, 0, 1]) + own + bytes(4) + bytes(6) + wanted
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
        wire.bind((interface, 0x0806))

        def answer(octets):
            body = octets[14:]
            is_reply = body[6:8] == bytes([0, 2]) and body[14:18] == wanted and body[8:14] != own
            return body[8:14].hex(":") if is_reply else None

        yield lambda: wire.send(b"\xff" * 6 + own + b"\x08\x06" + probe), wire, answer


@contextmanager
def ask_neighbour(address, interface):
    """RFC 4861, 7.2.2, from an own address: the answer comes to us alone."""
    own = bytes.fromhex(link_address(interface).replace(":", ""))
    wanted = socket.inet_pton(socket.AF_INET6, address)
    group = "ff02::1:ff" + f"{wanted[13]:02x}:{wanted[14]:02x}{wanted[15]:02x}"
    solicitation = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + wanted + bytes([1, 1]) + own
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as wire:
        scope = socket.if_nametoindex(interface)
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        wire.bind((link_local(interface), 0, 0, scope))

        def answer(octets):
            if octets[:1] != b"\x88" or octets[8:24] != wanted or octets[24:26] != b"\x02\x01":
                return None
            return octets[26:32].hex(":") if octets[26:32] != own else None

        yield lambda: wire.sendto(solicitation, (group, 0, 0, scope)), wire, answer


def link_local(interface):
    with open("/proc/net/if_inet6", encoding="ascii") as file:
        for line in file:
            digits, _, _, scope, _, name = line.split()
            if name == interface and scope == "20":
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
    sys.exit(f"{interface} has no link-local address")


def link_address(interface):
    with open(f"/sys/class/net/{interface}/address", encoding="ascii") as file:
        return file.read().strip()


# --- what is remembered -----------------------------------------------------------------------------------------------


@contextmanager
def numbered(mn_address):
    """The session's number, for its devices and filters, and what is known of it from earlier events."""
    with known() as numbers:
        if mn_address not in numbers:
            used = {number for number, _ in numbers.values()}
            numbers[mn_address] = next(number for number in range(len(used) + 1) if number not in used), {}
    number, state = numbers[mn_address]
    try:
        yield number, state
    finally:
        with known() as numbers:
            if state:
                numbers[mn_address] = number, state
            else:
                del numbers[mn_address]


@contextmanager
def known():
    """Number and state of all sessions that have any, to read and change, while no other hook does."""
    os.makedirs(DIRECTORY, exist_ok=True)
    with open(os.path.join(DIRECTORY, "sessions"), "a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        sessions = json.loads(file.read() or "{}")
        yield sessions
        file.truncate(0)
        json.dump(sessions, file)


if __name__ == "__main__":
    main()
