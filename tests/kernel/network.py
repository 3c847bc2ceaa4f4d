"""Network namespaces on one switch, for tests in the real kernel; with as few processes as can be (they are slow)."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x4000_0000
_MS_BIND = 0x1000
_SIOCETHTOOL = 0x8946
_OFFLOADS = {"rx checksum": 0x15, "tx checksum": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_NAMED = Path("/run/netns")
_ETHERNET = 1
_EVERY_PROTOCOL = 3
_RECEIVE_BUFFER_FORCE = 33
_CAPTURE_OCTETS = 64 << 20  # the thread that writes them has to share the processor with all else


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class Network:
    """Namespaces ``names``, each with eth0 on one bridge: 10.9.0.1 and fd00:9::1 for the first, and so on.

    Those of ``inside`` have eth1 on another one, with 10.8.0.1 and fd00:8::1.
    """

    def __init__(self, *names: str, inside: tuple[str, ...] = ()) -> None:
        self.names = names
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._namespaces: dict[str, int] = {}
        for name in ("switch", *names):
            self._make(name)
        for link, net, members in ((0, 9, names), (1, 8, inside)):
            if members:
                bridge = f"bridge{link}"
                self._batch("switch", [f"link add name {bridge} type bridge mcast_snooping 0", f"link set {bridge} up"])
            for name in members:
                self._plug(name, names.index(name) + 1, link, net)

    def ipv4(self, name: str) -> IPv4Address:
        return IPv4Address("10.9.0.0") + self.names.index(name) + 1

    def ipv6(self, name: str) -> IPv6Address:
        return IPv6Address("fd00:9::") + self.names.index(name) + 1

    def address(self, name: str, version: int) -> IPv4Address | IPv6Address:
        """Its address of IP version 4 or 6."""
        return self.ipv4(name) if version == 4 else self.ipv6(name)

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread's new sockets are the namespace's."""
        _call("setns", self._namespaces[name], _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._home, _CLONE_NEWNET)

    def run(self, name: str, *command: str, check: bool = True) -> str:
        """A program in the namespace, to its end; gives what it printed."""
        with self.inside(name):
            done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def start(self, name: str, *command: str, **options: object) -> subprocess.Popen[str]:
        """A program in the namespace, that goes on."""
        with self.inside(name):
            return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload, no-any-return]

    def netem(self, name: str, *options: str) -> None:
        """What leaves the namespace suffers: ``"loss", "10%", "delay", "10ms", "5ms"``; no options: nothing."""
        if options:
            self.run(name, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *options)
        else:
            self.run(name, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)

    def set_link(self, name: str, *, up: bool) -> None:
        """Plug the cable in or pull it, at the switch: the namespace's own interface keeps its addresses."""
        self._batch("switch", [f"link set dev {name} {'up' if up else 'down'}"])

    @contextmanager
    def capture(self, name: str, path: Path) -> Iterator[Path]:
        """All that eth0 of the namespace sends and receives, into a pcap file that is complete afterwards."""
        with self.inside(name):
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        packets.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _CAPTURE_OCTETS)
        packets.bind(("eth0", _EVERY_PROTOCOL))
        packets.settimeout(0.05)
        stop = threading.Event()

        def write() -> None:
            with path.open("wb") as file:
                file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, _ETHERNET))
                while True:
                    try:
                        octets = packets.recv(262_144)
                    except TimeoutError:
                        if stop.is_set():
                            return
                        continue
                    now = time.time()
                    head = struct.pack("<IIII", int(now), int(now % 1 * 1e6), len(octets), len(octets))
                    file.write(head + octets)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield path
        finally:
            stop.set()
            thread.join()
            packets.close()

    def close(self) -> None:
        """The namespaces go, and all that is in them."""
        for name, namespace in self._namespaces.items():
            os.close(namespace)
            _LIBC.umount2(str(_NAMED / name).encode(), 2)
            (_NAMED / name).unlink(missing_ok=True)
        os.close(self._home)

    def _make(self, name: str) -> None:
        """A namespace, also known by its name to ``ip netns``."""
        _NAMED.mkdir(exist_ok=True)
        named = _NAMED / name
        named.touch()

        def unshare() -> None:
            _call("unshare", _CLONE_NEWNET)
            _call("mount", b"/proc/thread-self/ns/net", str(named).encode(), None, _MS_BIND, None)

        thread = threading.Thread(target=unshare)
        thread.start()
        thread.join()
        self._namespaces[name] = os.open(named, os.O_RDONLY)

    def _plug(self, name: str, number: int, link: int, net: int) -> None:
        interface, port = f"eth{link}", f"{name}-inside" if link else name
        self._batch(
            "switch",
            [
                f"link add name {port} type veth peer name {interface} netns {name}",
                f"link set dev {port} master bridge{link} up",
            ],
        )
        self._batch(
            name,
            [
                "link set lo up",
                f"addr add 10.{net}.0.{number}/24 dev {interface}",
                f"addr add fd00:{net}::{number:x}/64 dev {interface} nodad",
                f"link set {interface} up",
            ],
        )
        with self.inside(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for command in _OFFLOADS.values():  # so that captures show what the wire would carry
                value = array.array("B", struct.pack("=II", command, 0))
                request = struct.pack("16sP8x", interface.encode(), value.buffer_info()[0])
                try:
                    fcntl.ioctl(control, _SIOCETHTOOL, request)
                except OSError:
                    continue

    def _batch(self, name: str, lines: list[str]) -> None:
        with self.inside(name):
            done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"ip, in {name}: {done.stderr}")


@contextmanager
def without_net_admin() -> Iterator[None]:
    """This thread may not change networks (capabilities(7)) for a while."""
    header, words = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert _LIBC.capget(header, words) == 0
    effective = words[0]
    words[0] = effective & ~(1 << 12)  # CAP_NET_ADMIN
    assert _LIBC.capset(header, words) == 0
    try:
        yield
    finally:
        words[0] = effective
        assert _LIBC.capset(header, words) == 0
