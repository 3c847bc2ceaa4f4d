"""Real strongSwan daemons in namespaces of the real kernel: a client, and gateways that share an address.

Every kind of session (KINDS) has a connection of its own at both ends and an address of its own at the client, so that
all can be up at once, each as one mobile node.  The gateways have the same connections and secrets; the address that
they share (SHARED) is at the first of them until a test moves it.  Files and logs are on tmpfs, for it is the disk
that a daemon waits for.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import vici

from cxtp.strongswan_config import StrongswanSettings, strongswan_conf

from .network import Network
from .strongswan_kinds import KINDS, SHARED, Credentials, Kind, connections, inner_addresses, secrets

PROGRAM = Path("/usr/lib/ipsec/charon")
PACKAGES = {
    PROGRAM: "strongswan-charon",
    Path("/usr/sbin/swanctl"): "strongswan-swanctl",
    Path("/usr/lib/ipsec/plugins/libstrongswan-ha.so"): "libcharon-extra-plugins",
    Path("/usr/lib/ipsec/plugins/libstrongswan-gcm.so"): "libstrongswan-standard-plugins",
    Path("/usr/lib/ipsec/plugins/libstrongswan-chapoly.so"): "libstrongswan-extra-plugins",
}
PLUGINS = (
    "random nonce drbg aes sha1 sha2 md5 hmac kdf gcm chapoly curve25519 openssl pem pkcs1 pkcs8 x509 pubkey "
    "constraints socket-default kernel-netlink vici eap-identity eap-md5"
)
"""All that the kinds need: with Debian's whole list a daemon takes ten times as long to start."""

POOL = {"p4": ip_network("10.3.0.0/24")}
ECHO_PORT = 7777
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x2_0000, 0x4000, 0x4_0000
_TMPFS = "/dev/shm"

_CONF = """
charon {{
    load = {plugins}
    {options}
    filelog {{
        log {{
            path = {log}
            time_format = %H:%M:%S
            time_add_ms = yes
            ike_name = yes
            flush_line = yes
            default = {low}
            cfg = {level}
            ike = {level}
        }}
    }}
    plugins {{
        vici {{
            socket = unix://{vici}
        }}
    }}
}}
"""


def require_strongswan() -> None:
    """Skip where it is not installed, in CI fail."""
    missing = sorted({package for path, package in PACKAGES.items() if not path.exists()})
    if missing:
        told = f"no strongSwan for the tests: apt-get install {' '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)


def until(holds: Callable[[], object], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Charon:
    """One daemon, unmodified.  ``vici``: its control socket."""

    def __init__(
        self,
        network: Network,
        name: str,
        directory: Path,
        *,
        ha: str = "",
        load: Mapping[str, Any] | None = None,
        credentials: Iterable[tuple[str, Mapping[str, Any]]] = (),
        options: str = "",
        log_level: int = 2,
    ) -> None:
        """``ha``: a strongswan.conf for the plugin, "" without it; ``load``: connections as vici takes them;
        ``credentials``: vici's commands; ``options``: lines of strongswan.conf's section charon; ``log_level`` of
        what IKE and the plugin say, all else at most 1."""
        self.network, self.name, self.directory = network, name, directory
        self.ha, self.connections, self.credentials = ha, dict(load or {}), list(credentials)
        self.vici, self._log = directory / f"{name}.vici", directory / f"{name}.log"
        self._conf = directory / f"{name}.conf"
        self._plugins = PLUGINS + (" ha" if ha else "")
        self._options, self._log_level = options, log_level
        self._process: subprocess.Popen[str] | None = None

    def write(self) -> None:
        text = _CONF.format(
            plugins=self._plugins, options=self._options, log=self._log, vici=self.vici, level=self._log_level,
            low=min(1, self._log_level),
        )  # fmt: skip
        if self.ha:
            (self.directory / f"{self.name}-ha.conf").write_text(self.ha)
            text += f"include {self.directory}/{self.name}-ha.conf\n"
        self._conf.write_text(text)

    def start(self) -> None:
        """And wait until it serves."""
        self.launch()
        self.ready()
        self.active()

    def launch(self) -> None:
        assert self._process is None
        self._log.unlink(missing_ok=True)
        self.write()
        self._process = self.network.start(
            self.name, str(PROGRAM), env={**os.environ, "STRONGSWAN_CONF": str(self._conf)}, preexec_fn=_own_run,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ready(self) -> None:
        """It can be asked, and has its connections."""
        until(self._answers, f"{self.name}'s vici socket; its log:\n{self.log()}", 60)
        self.load(self.connections, self.credentials)

    def active(self) -> None:
        """It has its segment, and with it its pools: from the first word of a node on, or when none came for 2.1 s."""
        if self.ha:
            self.wait_for("HA segment 1 activated")

    def load(self, connections: Mapping[str, Any], credentials: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
        """More connections, by vici."""
        with self.control() as session:
            for command, value in credentials:
                getattr(session, command)(dict(value))
            for name, connection in connections.items():
                session.load_conn({name: connection})

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: the kernel keeps what it has."""
        self._end(signal.SIGKILL)

    def log(self) -> str:
        """Since it was started last."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def has_logged(self, pattern: str, count: int = 1) -> bool:
        return len(re.findall(pattern, self.log())) >= count

    def wait_for(self, pattern: str, count: int = 1, seconds: float = 20) -> None:
        """Until its log has it so many times."""
        told = f"{pattern} in {self.name}'s log:\n"
        end = time.monotonic() + seconds
        while not self.has_logged(pattern, count):
            assert time.monotonic() < end, told + self.log()
            time.sleep(0.02)

    @contextmanager
    def control(self) -> Iterator[Any]:
        """A vici session of one's own."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(self.vici))
        with connection:
            yield vici.Session(connection)

    def initiate(self, child: str, ike: str | None = None) -> None:
        """A CHILD_SA, and the IKE_SA where there is none.  Raises vici's CommandException."""
        with self.control() as session:
            for _ in session.initiate({"child": child, "timeout": "20000", **({"ike": ike} if ike else {})}):
                pass

    def rekey(self, **selection: str) -> None:
        """``ike`` or ``child`` by name."""
        with self.control() as session:
            session.rekey(selection)

    def terminate(self, *, force: bool = False, **selection: str) -> None:
        """``force``: without waiting for what the peer says."""
        how = {"force": "yes", "timeout": "-1"} if force else {"timeout": "20000"}
        with self.control() as session:
            for _ in session.terminate({**selection, **how}):
                pass

    def ike_sas(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and what vici's list-sas tells, as text."""
        with self.control() as session:
            return [(name, _plain(sa)) for item in session.list_sas() for name, sa in item.items()]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended:\n{self.log()}"
        try:
            with self.control() as session:
                return bool(session.version())
        except OSError:
            return False

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None
            self.vici.unlink(missing_ok=True)


def _own_run() -> None:
    """In the new process: a private /run, for its pid file."""
    if _LIBC.unshare(_CLONE_NEWNS) or _LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        os._exit(126)
    if _LIBC.mount(b"tmpfs", b"/run", b"tmpfs", 0, None):
        os._exit(126)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


class Bed:
    """A client and gateways, each a :class:`Charon`; ``kinds`` are loaded, nothing is up."""

    def __init__(self, network: Network, kinds: Sequence[Kind], gateways: Sequence[str], options: str = "") -> None:
        self.network, self.kinds, self.names = network, kinds, gateways
        self.directory = Path(tempfile.mkdtemp(prefix="charon-", dir=_TMPFS))
        credentials = Credentials.make(kinds)
        self.client = Charon(
            network, "client", self.directory, load=connections(kinds, at_client=True, credentials=credentials),
            credentials=secrets(kinds, credentials, at_client=True), options=options,
        )  # fmt: skip
        self.gateways = {name: self._gateway(name, credentials, options) for name in gateways}

    def _gateway(self, name: str, credentials: Credentials, options: str) -> Charon:
        return Charon(
            self.network, name, self.directory,
            ha=strongswan_conf(StrongswanSettings(pools=POOL, vici=self.directory / f"{name}.vici")),
            load=connections(self.kinds, at_client=False, credentials=credentials),
            credentials=secrets(self.kinds, credentials, at_client=False), options=options,
        )  # fmt: skip

    def start(self) -> None:
        """Addresses, then all daemons at once."""
        lines = [f"addr add {address} dev lo" for kind in self.kinds for _, address in inner_addresses(kind)]
        for name in self.names:
            self._ip(name, list(dict.fromkeys(lines)))
        lines = []
        for kind in self.kinds:
            lines.append(f"addr add {kind.client}/{kind.width} dev eth0{' nodad' if kind.version == 6 else ''}")
            lines += [f"addr add {address} dev lo" for address, _ in inner_addresses(kind) if address]
        self._ip("client", lines)
        self.give_address(self.names[0])
        daemons = [self.client, *self.gateways.values()]
        for daemon in daemons:
            daemon.launch()
        for daemon in daemons:
            daemon.ready()
        for daemon in daemons:
            daemon.active()

    def give_address(self, name: str, old: str | None = None) -> None:
        """Both shared addresses, as a gateway's take-over does, with the neighbours told."""
        where = [f"{SHARED[4]}/24 dev eth0", f"{SHARED[6]}/64 dev eth0"]
        if old is not None:
            self._ip(old, [f"addr del {line}" for line in where])
        self._ip(name, [f"addr add {where[0]}", f"addr add {where[1]} nodad"])
        self._ip("client", ["neigh flush dev eth0"])

    def echo(self, kind: Kind, gateway: str, count: int = 5, child: int = 0) -> None:
        """So many datagrams through the CHILD_SA and back, one after another."""
        inside, outside = self.ends(kind, child)
        family = socket.AF_INET6 if ip_address(inside).version == 6 else socket.AF_INET
        with self.network.inside("client"):
            client = socket.socket(family, socket.SOCK_DGRAM)
        with self.network.inside(gateway):
            server = socket.socket(family, socket.SOCK_DGRAM)
        with client, server:
            client.bind((inside, 0))
            server.bind((outside, ECHO_PORT))
            for sock in (client, server):
                sock.settimeout(5)
            for number in range(count):
                octets = struct.pack("!I", number) + bytes(200)  # long enough for IPComp to be worth while
                client.sendto(octets, (outside, ECHO_PORT))
                received, source = server.recvfrom(1000)
                assert source[0] == inside
                server.sendto(received, source)
                assert client.recv(1000) == octets

    def ends(self, kind: Kind, child: int = 0) -> tuple[str, str]:
        """The inner addresses of the client (the virtual one once it has it) and of the gateways."""
        if kind.mode == "transport":
            return str(kind.client), str(SHARED[kind.version])
        inside, outside = inner_addresses(kind)[child]
        if kind.virtual:
            (sa,) = [sa for name, sa in self.client.ike_sas() if name == kind.name]
            inside = sa["local-vips"][0]
        return inside.partition("/")[0], outside.partition("/")[0]

    def errors(self) -> dict[str, int]:
        """What the kernels count as gone wrong, by namespace and name."""
        found = {}
        for name in ("client", *self.names):
            with self.network.inside(name):
                text = Path("/proc/thread-self/net/xfrm_stat").read_text()
            found |= {f"{name} {key}": int(n) for key, n in map(str.split, text.splitlines()) if int(n)}
        return found

    def close(self) -> None:
        for daemon in (self.client, *self.gateways.values()):
            daemon.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _ip(self, name: str, lines: Sequence[str]) -> None:
        with self.network.inside(name):
            done = subprocess.run(
                ["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False
            )
        assert done.returncode == 0, done.stderr


@contextmanager
def bed(
    kinds: Iterable[str] = tuple(KINDS), gateways: Sequence[str] = ("a", "b", "c"), options: str = ""
) -> Iterator[Bed]:
    """A bed with its own network, started; all ends with it."""
    require_strongswan()
    network = Network("client", *gateways)
    made = Bed(network, [KINDS[name] for name in kinds], gateways, options)
    try:
        made.start()
        yield made
    finally:
        made.close()
        network.close()
