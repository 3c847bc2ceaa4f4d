"""Namespaces with charon processes for the strongSwan benchmarks: many clients in one daemon, and gateways a and b."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

SHARED, GATEWAY = "10.9.0.100", "gateway.example"
INSIDE = "10.100.0.1"
"""Behind whichever gateway has a session."""

SUITE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16"
_PORT = 7777
_OPTIONS = "install_routes = no"


def address(number: int) -> str:
    """The client's of one session."""
    return str(IPv4Address("10.64.0.1") + number)


def client_connections(count: int) -> dict[str, Any]:
    """By name, as vici takes them; connection and child are named alike."""
    made = {}
    for number in range(count):
        made[f"c{number}"] = {
            "version": "2",
            "mobike": "no",
            "proposals": [SUITE],
            "local_addrs": [address(number)],
            "remote_addrs": [SHARED],
            "local": {"auth": "psk", "id": f"c{number}.example"},
            "remote": {"auth": "psk", "id": GATEWAY},
            "children": {f"c{number}": {"esp_proposals": [ESP], "remote_ts": ["10.100.0.0/16"]}},
        }
    return made


def gateway_connections() -> dict[str, Any]:
    """One for all clients."""
    return {
        "rw": {
            "version": "2",
            "mobike": "no",
            "proposals": [SUITE],
            "unique": "never",
            "local_addrs": [SHARED],
            "remote_addrs": ["%any"],
            "local": {"auth": "psk", "id": GATEWAY},
            "remote": {"auth": "psk", "id": "%any"},
            "children": {"net": {"esp_proposals": [ESP], "local_ts": ["10.100.0.0/16"]}},
        }
    }


class Lab:
    """Namespaces client, a and b, ``count`` addresses at the client, and daemons as they are asked for."""

    def __init__(self, count: int) -> None:
        from kernel.network import Network

        self.count = count
        self.network = Network("client", "a", "b")
        self.directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
        self._daemons: list[Any] = []
        self.ip("client", [f"addr add {address(number)}/32 dev eth0" for number in range(count)])
        self.ip("client", [f"route add {INSIDE}/32 via {SHARED}"])
        for name in ("a", "b"):
            # By one neighbour: a table of a thousand is not what is measured.
            self.ip(name, ["route add 10.64.0.0/16 via 10.9.0.1", f"addr add {INSIDE}/32 dev lo"])
        self.ip("a", [f"addr add {SHARED}/24 dev eth0"])

    def daemon(self, name: str, ha: str = "", *, standby: bool = False) -> Any:
        """Started, its connections loaded; what ran there before is gone, and so is its kernel's state.

        ``ha``: strongswan.conf for that plugin; ``standby``: another daemon has the segment.
        """
        from kernel.strongswan import Charon

        self.end(name)
        load = client_connections(self.count) if name == "client" else gateway_connections()
        made = Charon(
            self.network, name, self.directory, ha=ha, load=load, options=_OPTIONS, log_level=1,
            credentials=[("load_shared", {"type": "IKE", "data": b"one secret for all"})],
        )  # fmt: skip
        self._daemons.append(made)
        made.launch()
        made.ready()
        if not standby:
            made.active()
        return made

    def running(self, name: str) -> Any:
        """The daemon there."""
        return next(daemon for daemon in self._daemons if daemon.name == name)

    def end(self, *names: str) -> None:
        """Killed, and nothing left in the kernel."""
        for daemon in [daemon for daemon in self._daemons if daemon.name in names]:
            daemon.kill()
            self._daemons.remove(daemon)
            self.ip(daemon.name, ["xfrm state flush", "xfrm policy flush"])

    def close(self) -> None:
        """All of it."""
        self.end("client", "a", "b")
        self.network.close()
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)

    def child_sas(self, name: str) -> set[str]:
        """SPIs of the ESP SAs towards clients that the kernel has."""
        lines = self.network.run(name, "ip", "xfrm", "state").split("src ")
        return {line.split("spi ")[1].split()[0] for line in lines if "dst 10.64." in line and "proto esp" in line}

    def give_address(self, name: str, old: str) -> None:
        """The shared one, from one gateway to the other."""
        self.ip(old, [f"addr del {SHARED}/24 dev eth0"])
        self.ip(name, [f"addr add {SHARED}/24 dev eth0"])
        self.ip("client", ["neigh flush dev eth0"])

    def answers(self, name: str) -> int:
        """How many clients get an echo through their CHILD_SA from that gateway."""
        with self.network.inside(name):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found = 0
        with server:
            server.bind((INSIDE, _PORT))
            server.settimeout(1)
            for number in range(self.count):
                with self.network.inside("client"):
                    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                with client:
                    client.bind((address(number), 0))
                    client.settimeout(1)
                    client.sendto(b"echo", (INSIDE, _PORT))
                    try:
                        server.sendto(*server.recvfrom(100))
                        found += client.recv(100) == b"echo"
                    except TimeoutError:
                        continue
        return found

    def ip(self, name: str, lines: list[str]) -> None:
        """iproute2's commands, in a namespace."""
        with self.network.inside(name):
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def ike_sas(daemon: Any) -> dict[str, int]:
    """How many there are, by state."""
    found: dict[str, int] = {}
    for _, sa in daemon.ike_sas():
        found[sa["state"]] = found.get(sa["state"], 0) + 1
    return found


def total(daemon: Any) -> int:
    """How many IKE_SAs there are: quick to ask."""
    with daemon.control() as session:
        return int(session.stats()["ikesas"]["total"])


def processor_seconds(daemon: Any) -> float:
    """Spent by the daemon so far."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def establish(client: Any, numbers: list[int], at_once: int) -> list[float]:
    """Seconds that each took, IKE_SA_INIT and IKE_AUTH with its first CHILD_SA."""
    waiting, took, failed = list(numbers), list[float](), list[str]()

    def work() -> None:
        with client.control() as session:
            while waiting and not failed:
                name = f"c{waiting.pop()}"
                began = time.perf_counter()
                try:
                    list(session.initiate({"child": name, "ike": name, "timeout": "60000"}))
                except Exception as error:  # a thread's own would be lost
                    failed.append(f"{name}: {error}")
                took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"not established: {failed[0]}")
    return took
