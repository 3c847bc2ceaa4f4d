"""The strongSwan test bed itself: each kind of session comes up, carries traffic, and is exported as the kernel has it.

Also what docs/strongswan.md and the printed configuration say of the daemon: its segment, its end, its pools.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from cxtp.adapters.strongswan_ha import (
    HA_PORT,
    Attribute,
    ExportedSession,
    HaMessage,
    HaMessageType,
    IkeSaId,
    activation,
    build_message,
    deletion,
    heartbeat,
)
from cxtp.adapters.strongswan_ha.link import HaLink
from cxtp.adapters.strongswan_vici import Daemon, ha_version
from cxtp.adapters.xfrm import XfrmClient
from cxtp.kernel_learning import keys_of
from cxtp.strongswan_config import DAEMON_ADDRESS, NODE_ADDRESS
from cxtp.strongswan_contexts import identifiers
from kernel.strongswan import Bed, bed, until
from kernel.strongswan_kinds import KINDS, Kind


class Listener:
    """Our end of A's link.  It says nothing by itself."""

    def __init__(self, made: Bed) -> None:
        self.bed, self.messages = made, list[HaMessage]()
        with made.gateways["a"].control() as session:
            version = ha_version(session.version()["version"].decode())
        with made.network.inside("a"):
            self.link = HaLink(NODE_ADDRESS, DAEMON_ADDRESS, version, heard=self.messages.append)

    def session(self, kind: Kind) -> ExportedSession | None:
        self.link.receive()
        return self.link.tracker.session_of(kind.client)

    def wait(self, kind: Kind) -> ExportedSession:
        def whole() -> bool:
            found = self.session(kind)
            return found is not None and len(children(found)) == kind.children

        until(whole, f"{kind.name} whole: {self.link.tracker.reports}")
        found = self.session(kind)
        assert found is not None
        return found


def children(session: ExportedSession) -> list[IpsecSaContext]:
    return [context for context in session.contexts if isinstance(context, IpsecSaContext)]


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    with bed(gateways=("a", "b")) as started:
        yield started


@pytest.fixture(scope="module")
def listener(made: Bed) -> Iterator[Listener]:
    told = Listener(made)
    yield told
    told.link._socket.close()


def up(made: Bed, kind: Kind) -> None:
    if kind.name not in {name for name, _ in made.client.ike_sas()}:
        for number in range(kind.children):
            made.client.initiate(kind.child(number))


def down(made: Bed, kind: Kind, *, force: bool = False) -> None:
    if kind.name in {name for name, _ in made.client.ike_sas()}:
        made.client.terminate(ike=kind.name, force=force)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_up_and_exported_with_the_kernels_keys(made: Bed, listener: Listener, name: str) -> None:
    kind = KINDS[name]
    up(made, kind)
    for number in range(kind.children):
        made.echo(kind, "a", child=number)
    exported = listener.wait(kind)
    (ike_sa,) = [context for context in exported.contexts if isinstance(context, IkeSaContext)]
    (told,) = [sa for own, sa in made.gateways["a"].ike_sas() if own == name]
    assert told["state"] == "ESTABLISHED"
    assert f"{ike_sa.spis.initiator:016x}" == told["initiator-spi"]
    assert f"{ike_sa.spis.responder:016x}" == told["responder-spi"]
    assert told["remote-id"] == kind.identity
    assert told.get("remote-vips", []) == ([str(made.ends(kind)[0])] if kind.virtual else [])
    with made.network.inside("a"), XfrmClient() as client:
        kernel = {sa.identifier: sa for sa in client.security_associations()}
    restored = RestoredSession.restore(exported.contexts)
    for context in children(exported):
        out, back = (kernel[identifier] for identifier in identifiers(context))
        keys = restored.ipsec_keys(context.inbound_spi)
        # charon derived the kernel's keys, we ours from its messages alone
        assert (keys.outbound_encryption, keys.outbound_integrity) == keys_of(out)
        assert (keys.inbound_encryption, keys.inbound_integrity) == keys_of(back)
        assert out.usage.packets >= 5
        assert back.usage.packets >= 5
        assert (out.encapsulation is not None) is kind.encap
        assert (context.ipcomp is not None) is kind.ipcomp
        assert context.proposal.extended_sequence_numbers is (name == "esn")
    assert not listener.link.tracker.withheld()
    assert made.errors() == {}


def test_what_the_daemon_made_of_its_configuration(made: Bed, listener: Listener) -> None:
    daemon = made.gateways["a"]
    log = daemon.log()
    assert "starting HA heartbeat, delay 1000ms, timeout 2100ms" in log
    assert "loaded HA pool 'p4' 10.3.0.0/24 (254 addresses)" in log
    # Nobody spoke to it: it took its segment by itself, once.
    assert "no heartbeat received, taking all segments" in log
    assert log.count("HA segment 1 activated, now active: 1") == 1
    assert "requesting HA resynchronization" not in log

    def beats() -> list[HaMessage]:
        listener.link.receive()
        return [message for message in listener.messages if message.type is HaMessageType.STATUS]

    heard = len(beats())
    until(lambda: len(beats()) > heard + 1, "the daemon says that it lives")
    assert beats()[-1].all(Attribute.SEGMENT) == (1,)
    # What we say changes nothing: it stays where it is, and its sessions too.
    listener.link.send([heartbeat(listener.link.version)])
    daemon.wait_for("received heartbeat, reenabling watchdog")
    daemon.wait_for("no heartbeat received, taking all segments", 2)
    assert daemon.log().count("HA segment 1 ") == 1
    assert "PASSIVE" not in daemon.log()


def frame(made: Bed, payload: bytes) -> bytes:
    """As from the node's address to the daemon's, but from the network."""
    (there,) = re.findall(r"link/ether (\S+)", made.network.run("a", "ip", "-o", "link", "show", "eth0"))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, socket.IPPROTO_UDP, 0,
                         NODE_ADDRESS.packed, DAEMON_ADDRESS.packed)  # fmt: skip
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    ethernet = bytes.fromhex(there.replace(":", "")) + bytes(6) + b"\x08\0"
    return ethernet + header + struct.pack("!HHHH", HA_PORT, HA_PORT, 8 + len(payload), 0) + payload


def test_the_link_can_not_be_reached_from_the_network(made: Bed, listener: Listener) -> None:
    daemon = made.gateways["a"]
    take, drop = activation([1], listener.link.version)
    with made.network.inside("client"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind(("eth0", 0))
        sock.send(frame(made, build_message(take)))
    time.sleep(0.5)
    assert not daemon.has_logged("remote node takes segment 1")
    listener.link.send([take, drop])  # by the link itself it is heard
    daemon.wait_for("remote node takes segment 1")
    daemon.wait_for("HA segment 1 activated", 2)


def test_who_can_stand_in_the_nodes_place(made: Bed) -> None:
    """While no node runs: anybody, unless the port is made a privileged one."""
    refused = []
    for start in (1024, HA_PORT + 1):
        with made.network.inside("b"):
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text(str(start))
            child = os.fork()
            if not child:
                _bind_as_nobody()
        refused.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert refused == [0, errno.EACCES]


def _bind_as_nobody() -> None:
    """In a process of its own, which ends with the error's number."""
    try:
        os.setresuid(65534, 65534, 65534)
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind((str(NODE_ADDRESS), HA_PORT))
    except OSError as error:
        os._exit(error.errno or 1)
    finally:
        os._exit(0)


def test_a_look_between_two_messages(made: Bed, listener: Listener) -> None:
    """B was told an IKE_ADD and nothing more: its list has an IKE_SA without addresses."""
    kind = KINDS["psk-gcm"]
    up(made, kind)
    (ike_sa,) = [sa for sa in listener.wait(kind).contexts if isinstance(sa, IkeSaContext)]
    (told,) = [
        message
        for message in listener.messages
        if message.type is HaMessageType.IKE_ADD
        and message.first(Attribute.IKE_ID) == IkeSaId(2, ike_sa.spis, ike_sa.initiator)
    ]
    with made.network.inside("b"):
        link = HaLink(NODE_ADDRESS, DAEMON_ADDRESS, listener.link.version)
    daemon = Daemon(made.gateways["b"].vici)
    try:
        link.send([told])
        until(lambda: asyncio.run(daemon.ike_sas()), "B lists it")
        (seen,) = asyncio.run(daemon.ike_sas())
        assert (seen.spis, seen.state) == (ike_sa.spis, "CONNECTING")
        assert seen.local_host.address.is_unspecified
        assert seen.remote_host.address == kind.client
        link.send([deletion(ike_sa.spis, ike_sa.initiator, listener.link.version)])
        until(lambda: not asyncio.run(daemon.ike_sas()), "it is gone")
    finally:
        daemon.close()
        link.close_socket()


@pytest.mark.parametrize(("pool", "given_out_again"), [("p4", True), ("own", False)])
def test_an_address_whose_session_was_let_go(made: Bed, listener: Listener, pool: str, given_out_again: bool) -> None:
    """The plugin's pool forgets it, and the next client gets what a moved one still uses; swanctl's pool keeps it for
    the identity that had it (docs/strongswan.md, virtual IPs)."""
    kinds, daemon = (KINDS["virtual-ip"], KINDS["eap"]), made.gateways["a"]
    with daemon.control() as session:
        session.load_pool({"own": {"addrs": "10.4.0.0/24"}})
    for kind in kinds:
        down(made, kind)
    daemon.load({kind.name: daemon.connections[kind.name] | {"pools": [pool]} for kind in kinds})
    until(lambda: not {kind.name for kind in kinds} & {name for name, _ in daemon.ike_sas()}, "nothing is left")
    for kind in kinds:
        up(made, kind)
        listener.wait(kind)
    first, second = kinds
    address = made.ends(first)[0]
    (ike_sa,) = [sa for sa in listener.wait(first).contexts if isinstance(sa, IkeSaContext)]
    listener.link.send([deletion(ike_sa.spis, ike_sa.initiator, listener.link.version)])
    until(lambda: first.name not in {name for name, _ in daemon.ike_sas()}, "it is let go")
    assert made.ends(first)[0] == address  # nobody told the client
    down(made, second)
    up(made, second)
    assert (made.ends(second)[0] == address) is given_out_again
    down(made, first, force=True)


@pytest.mark.parametrize("spoken_to", [False, True])
def test_how_it_ends(made: Bed, listener: Listener, spoken_to: bool) -> None:
    """SIGTERM: without a node beside it the clients are told, with one they hear nothing."""
    kind, daemon = KINDS["psk-gcm"], made.gateways["a"]
    if spoken_to:
        daemon.start()
        until(lambda: kind.name not in {name for name, _ in made.client.ike_sas()}, "it was told before")
    up(made, kind)
    made.echo(kind, "a")
    if spoken_to:
        listener.link.send([heartbeat(listener.link.version)])
        daemon.wait_for("reenabling watchdog")
    daemon.stop()
    told = "HA heartbeat active, dropping all segments" if spoken_to else "no HA heartbeat active, closing IKE_SAs"
    assert told in daemon.log()
    with made.network.inside("a"), XfrmClient() as client:
        assert not client.security_associations()  # the kernel's go with it
    if spoken_to:
        time.sleep(0.5)
        assert not made.client.has_logged(rf"{kind.name}\|\d+> received DELETE for IKE_SA", 2)
        assert kind.name in {name for name, _ in made.client.ike_sas()}
    else:
        made.client.wait_for(rf"{kind.name}\|\d+> received DELETE for IKE_SA")
