#!/usr/bin/python3 -SE
"""A hook for ``cxtp gateway linux``: the sessions' local addresses are this machine's while it has sessions of theirs.

    cxtp gateway linux ... --on-activated virtual_address.py --on-released virtual_address.py

The interface is eth0, or what the environment's CXTP_INTERFACE says.  With several sessions behind one address, it
leaves with the last of them: each session is a line in /run/cxtp-virtual-address/ADDRESS (or in the directory that
CXTP_VIRTUAL_ADDRESSES names).  Neighbours are told at once, by gratuitous ARP (RFC 5227, 3) or an unsolicited
Neighbor Advertisement (RFC 4861, 7.2.6).
"""

import fcntl
import json
import os
import socket
import sys

INTERFACE = os.environ.get("CXTP_INTERFACE", "eth0")
DIRECTORY = os.environ.get("CXTP_VIRTUAL_ADDRESSES", "/run/cxtp-virtual-address")
ALL_NODES = "ff02::1"


def main() -> None:
    event, session = sys.argv[1], json.load(sys.stdin)
    os.makedirs(DIRECTORY, exist_ok=True)
    for address in sorted({association["local"] for association in session["associations"]}):
        with open(os.path.join(DIRECTORY, address), "a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            users = set(file.read().split())
            if event == "activated":
                users.add(session["mn_address"])
                ip("replace", address)
                announce(address)
            else:
                users.discard(session["mn_address"])
                if not users:
                    ip("del", address)
            file.truncate(0)
            file.write("\n".join(sorted(users)))


def ip(action: str, address: str) -> None:
    full = f"{address}/128" if ":" in address else f"{address}/32"
    command = ["ip", "addr", action, full, "dev", INTERFACE]
    if action == "replace" and ":" in address:
        command.append("nodad")
    child = os.posix_spawnp("ip", command, os.environ)
    _, status = os.waitpid(child, 0)
    if status and action == "replace":
        sys.exit(f"ip addr {action} {full} dev {INTERFACE} failed")


def announce(address: str) -> None:
    with open(f"/sys/class/net/{INTERFACE}/address", encoding="ascii") as file:
        ethernet = bytes.fromhex(file.read().strip().replace(":", ""))
    if ":" in address:
        own = socket.inet_pton(socket.AF_INET6, address)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as neighbours:
            neighbours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            scope = socket.if_nametoindex(INTERFACE)
            # type 136, override flag; the option with our link-layer address.  The kernel fills the checksum in.
            advertisement = bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + own + bytes([2, 1]) + ethernet
            neighbours.sendto(advertisement, (ALL_NODES, 0, 0, scope))
        return
    own = socket.inet_pton(socket.AF_INET, address)
    body = bytes([0, 1, 8, 0, 6, 4, 0, 1]) + ethernet + own + bytes(6) + own
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as neighbours:
        neighbours.bind((INTERFACE, 0))
        neighbours.send(b"\xff" * 6 + ethernet + b"\x08\x06" + body)


main()
