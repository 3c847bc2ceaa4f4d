#!/usr/bin/python3 -BSE
"""A hook for ``cxtp gateway``: the sessions' local addresses are this machine's while it has sessions of theirs.

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
from contextlib import contextmanager

INTERFACE = os.environ.get("CXTP_INTERFACE", "eth0")
DIRECTORY = os.environ.get("CXTP_VIRTUAL_ADDRESSES", "/run/cxtp-virtual-address")
ALL_NODES = "ff02::1"


def main() -> None:
    event, session = sys.argv[1], json.load(sys.stdin)
    for address in local_addresses(session):
        with sessions_of(address) as users:
            if event == "activated":
                users.add(session["mn_address"])
                take(address, INTERFACE)
            elif event == "released":
                users.discard(session["mn_address"])
                if not users:
                    ip(delete(address, INTERFACE), may_fail=True)


def local_addresses(session):
    return sorted({ends["local"] for ends in session["associations"] + session["ike_sas"]})


@contextmanager
def sessions_of(address):
    """The peers of the sessions that use the address here, to read and change, while no other hook does."""
    os.makedirs(DIRECTORY, exist_ok=True)
    with open(os.path.join(DIRECTORY, address), "a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        users = set(file.read().split())
        yield users
        file.truncate(0)
        file.write("\n".join(sorted(users)))


def take(address: str, interface: str) -> None:
    """It is this machine's now, and the neighbours know."""
    duplicates = " nodad" if ":" in address else ""
    ip(f"addr replace {full(address)} dev {interface}{duplicates}")
    announce(address, interface)


def delete(address: str, interface: str) -> str:
    return f"addr del {full(address)} dev {interface}"


def full(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"


def ip(*lines: str, may_fail: bool = False, program: str = "ip") -> None:
    """iproute2's commands, one after the other, in one process."""
    reader, writer = os.pipe()
    os.write(writer, "".join(line + "\n" for line in lines).encode())
    os.close(writer)
    files = [(os.POSIX_SPAWN_DUP2, reader, 0)]
    if may_fail:
        files.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    child = os.posix_spawnp(program, [program, "-force", "-batch", "-"], os.environ, file_actions=files)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if status and not may_fail:
        sys.exit(f"{program} failed: {'; '.join(lines)}")


def announce(address: str, interface: str) -> None:
    with open(f"/sys/class/net/{interface}/address", encoding="ascii") as file:
        ethernet = bytes.fromhex(file.read().strip().replace(":", ""))
    if ":" in address:
        own = socket.inet_pton(socket.AF_INET6, address)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as neighbours:
            neighbours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            scope = socket.if_nametoindex(interface)
            # type 136, override flag; the option with our link-layer address.  The kernel fills the checksum in.
            advertisement = bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + own + bytes([2, 1]) + ethernet
            neighbours.sendto(advertisement, (ALL_NODES, 0, 0, scope))
        return
    own = socket.inet_pton(socket.AF_INET, address)
    body = bytes([0, 1, 8, 0, 6, 4, 0, 1]) + ethernet + own + bytes(6) + own
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as neighbours:
        neighbours.bind((interface, 0))
        neighbours.send(b"\xff" * 6 + ethernet + b"\x08\x06" + body)


if __name__ == "__main__":
    main()
