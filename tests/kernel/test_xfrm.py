"""SAs, policies and events of the real kernel: ours against iproute2's, and what only netlink can do."""

from __future__ import annotations

import errno
import re
import select
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from cxtp.adapters.xfrm import (
    INFINITE,
    Algorithm,
    AsyncEvent,
    AsyncEventFlag,
    Direction,
    EventsLost,
    ExtendedReplayState,
    Group,
    Lifetime,
    Mark,
    Migration,
    Mode,
    PolicyTemplate,
    ReplayState,
    SaFlag,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Usage,
    XfrmClient,
    XfrmError,
    XfrmEvent,
    XfrmEvents,
    requests,
)
from cxtp.adapters.xfrm import events as told
from kernel.network import Network

GCM = "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128"
CBC = "auth-trunc hmac(sha256) 0x" + "33" * 32 + " 128 enc cbc(aes) 0x" + "22" * 16
CHACHA = "aead rfc7539esp(chacha20,poly1305) 0x" + "44" * 36 + " 128"
OPTIONS = {
    "gcm": f"proto esp spi 0x100 mode tunnel reqid 7 replay-window 32 {GCM}",
    "cbc": f"proto esp spi 0x100 mode transport {CBC} sel proto udp sport 5 dport 6",
    "chacha20": f"proto esp spi 0x100 mode tunnel flag af-unspec {CHACHA}",
    "esn": f"proto esp spi 0x100 mode tunnel flag esn replay-window 128 replay-seq 7 replay-seq-hi 5 replay-oseq 8 "
    f"replay-oseq-hi 6 {GCM}",
    "encap": f"proto esp spi 0x100 mode tunnel encap espinudp 4500 4501 0.0.0.0 {GCM}",
    "counters": f"proto esp spi 0x100 mode tunnel replay-window 32 replay-seq 0x49 replay-oseq 0x50 {GCM}",
    "limits": f"proto esp spi 0x100 mode tunnel limit byte-soft 1000000 limit packet-hard 5000 "
    f"limit time-hard 600 {GCM}",
    "marks": f"proto esp spi 0x100 mode tunnel mark 0x5 mask 0xff output-mark 0x9 if_id 0x77 {GCM}",
    "extra": f"proto esp spi 0x100 mode tunnel extra-flag dont-encap-dscp {GCM}",
    "ipcomp": "proto comp spi 0x100 mode transport comp deflate",
    "null": "proto esp spi 0x100 mode transport auth-trunc hmac(sha1) 0x" + "55" * 20 + ' 96 enc cipher_null ""',
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b")
    yield made
    made.close()


@pytest.fixture
def client(network: Network) -> Iterator[XfrmClient]:
    for name in network.names:
        with XfrmClient(name) as other:
            other.do(requests.flush_policies())
            other.do(requests.flush_security_associations())
    with XfrmClient("a") as made:
        yield made


def ip(network: Network, *lines: str) -> None:
    with network.inside("a"):
        done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def shown(network: Network, what: str = "state") -> str:
    """iproute2's text, without the times of day and the numbers that the kernel gives policies."""
    return re.sub(r"(add|use) [-0-9: ]+|index \d+", r"\1", network.run("a", "ip", "-s", "-d", "xfrm", what))


def esp(network: Network, version: int = 4, **more: object) -> SecurityAssociation:
    values: dict[str, object] = {
        "source": network.address("a", version),
        "destination": network.address("b", version),
        "spi": 0x100,
        "aead": Algorithm("rfc4106(gcm(aes))", bytes([0x11]) * 20, 128),
        **more,
    }
    return SecurityAssociation(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_iproute2_made_is_made_again_alike(
    network: Network, client: XfrmClient, name: str, version: int
) -> None:
    a, b = network.address("a", version), network.address("b", version)
    ip(network, f"xfrm state add src {a} dst {b} {OPTIONS[name]}")
    (theirs,) = client.security_associations()
    text = shown(network)
    client.delete(theirs.identifier)
    assert client.security_associations() == []
    client.add(theirs)
    (ours,) = client.security_associations()
    assert replace(ours, usage=Usage()) == replace(theirs, usage=Usage())
    assert shown(network) == text
    assert client.security_association(ours.identifier) == ours


def test_what_was_made_last_is_listed_first(network: Network, client: XfrmClient) -> None:
    """Which SAs of one second are the newer pair, cxtp.kernel_learning knows by this alone."""
    for spi in (0x300, 0x100, 0x200):
        client.add(esp(network, spi=spi))
    client.update(esp(network, spi=0x100, lifetime=Lifetime(hard_packets=1000)))
    assert [sa.spi for sa in client.security_associations()] == [0x200, 0x100, 0x300]


def test_a_replay_state_goes_in_and_comes_out(network: Network, client: XfrmClient) -> None:
    usage = Usage(octets=9000, packets=90, add_time=1_700_000_000)
    client.add(esp(network, window_field=32, replay=ReplayState(80, 100, 0xF0F0F0F1), usage=usage))
    (found,) = client.security_associations()
    assert found.replay == ReplayState(80, 100, 0xF0F0F0F1)
    assert found.usage == usage
    text = shown(network)
    assert "anti-replay context: seq 0x64, oseq 0x50, bitmap 0xf0f0f0f1" in text
    assert "9000(bytes), 90(packets)" in text
    event = client.async_event(found.identifier)
    assert (event.replay, event.usage) == (found.replay, usage)
    client.set_async_event(replace(event, replay=ReplayState(81, 101, 3), usage=replace(usage, packets=91)))
    assert "anti-replay context: seq 0x65, oseq 0x51, bitmap 0x00000003" in (text := shown(network))
    assert "91(packets)" in text


def test_an_extended_replay_state_goes_in_and_comes_out(network: Network, client: XfrmClient) -> None:
    state = ExtendedReplayState(8, 7, 6, 5, 128, (1, 2, 0xFFFFFFFF, 0x80000000))
    client.add(esp(network, flags=SaFlag.ESN, replay=state))
    (found,) = client.security_associations()
    assert (found.replay, found.replay_window) == (state, 128)
    assert (state.outbound, state.inbound) == (6 << 32 | 8, 5 << 32 | 7)
    text = shown(network)
    assert "seq-hi 0x5, seq 0x7, oseq-hi 0x6, oseq 0x8" in text
    assert "80000000 ffffffff 00000002 00000001" in re.sub(r"\s+", " ", text)
    later = replace(state, outbound_low=9, bitmap=(4, 3, 2, 1))
    event = AsyncEvent(found.identifier, found.source, replay=later)
    client.set_async_event(event)
    assert client.async_event(found.identifier).replay == later
    for wrong in (replace(later, bitmap=(1, 2)), replace(later, window=4000)):
        with pytest.raises(XfrmError) as caught:
            client.set_async_event(replace(event, replay=wrong))
        assert caught.value.number == errno.EINVAL
        assert "setting the counters of SA 00000100" in str(caught.value)
    assert client.async_event(found.identifier).replay == later


def test_errors_are_their_requests_own(network: Network, client: XfrmClient) -> None:
    one, other = esp(network), esp(network, spi=0x200)
    unknown = replace(esp(network, spi=0x300), aead=Algorithm("rfc4106(rot13)", b"secret key octets!!!", 128))
    results = client.execute(
        [
            requests.add_security_association(one),
            requests.add_security_association(one),
            requests.add_security_association(unknown),
            requests.delete_security_association(esp(network, spi=0x999).identifier),
            requests.add_security_association(other),
        ]
    )
    assert [result and result.name for result in results] == [None, "EEXIST", "ENOSYS", "ESRCH", None]
    assert "deleting SA 00000999" in str(results[3])
    assert all("secret" not in str(result) for result in results)
    assert sorted(sa.spi for sa in client.security_associations()) == [0x100, 0x200]
    many = [requests.add_security_association(esp(network, spi=0x1000 + number)) for number in range(300)]
    assert client.execute(many) == [None] * 300
    assert len(client.security_associations()) == 302


def test_the_kernels_own_words_are_told(network: Network, client: XfrmClient) -> None:
    wrong = replace(esp(network), other=((21, b"\1"),))  # a mark has 8 octets
    with pytest.raises(XfrmError) as caught:
        client.add(wrong)
    assert caught.value.detail
    assert caught.value.detail in str(caught.value)


def test_a_namespace_is_named_and_ours_is_left_alone(network: Network, client: XfrmClient) -> None:
    client.add(esp(network))
    with XfrmClient() as here, XfrmClient("b") as other:
        assert here.security_associations() == other.security_associations() == []
    for name in ("none-of-that-name", "../a"):
        with pytest.raises(XfrmError):
            XfrmClient(name)


def policies(network: Network) -> tuple[SecurityPolicy, SecurityPolicy]:
    a, b = network.ipv4("a"), network.ipv4("b")
    template = PolicyTemplate(50, Mode.TRANSPORT, a, b)
    out = SecurityPolicy(Direction.OUT, 0, 100, 0, Selector(a, 32, b, 32), (template,))
    back = replace(template, source=b, destination=a)
    return out, replace(out, direction=Direction.IN, selector=Selector(b, 32, a, 32), templates=(back,))


def test_policies(network: Network, client: XfrmClient) -> None:
    out, inward = policies(network)
    out = replace(out, mark=Mark(5, 255), interface_id=9)
    client.add_policy(out)
    client.add_policy(inward)
    text = shown(network, "policy")
    assert "mark 0x5/0xff" in text
    assert "if_id 0x9" in text
    found = client.policy(out.identifier)
    assert replace(found, index=0, usage=Usage(), kind=None) == out
    with pytest.raises(XfrmError) as caught:
        client.add_policy(inward)
    assert caught.value.name == "EEXIST"
    client.update_policy(replace(inward, priority=7))
    assert client.policy(inward.identifier).priority == 7
    client.delete_policy(out.identifier)
    client.delete_policy(inward.identifier)
    assert "dir" not in shown(network, "policy")


def wait_for(events: XfrmEvents, kind: type, seconds: float = 10) -> tuple[object, list[XfrmEvent]]:
    seen: list[XfrmEvent] = []
    while not any(isinstance(event, kind) for event in seen):
        ready, _, _ = select.select([events], [], [], seconds)
        assert ready, f"no {kind.__name__} among {seen}"
        seen += events.read()
    return next(event for event in seen if isinstance(event, kind)), seen


def test_sequence_numbers_are_told_as_traffic_flows(network: Network, client: XfrmClient) -> None:
    client.add(esp(network))
    client.add_policy(policies(network)[0])
    events = XfrmEvents([Group.ASYNC_EVENTS], "a")
    with network.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(8):
            sender.sendto(b"x", (str(network.ipv4("b")), 9))
    event, _ = wait_for(events, AsyncEvent)
    events.close()
    assert isinstance(event, AsyncEvent)
    assert isinstance(event.replay, ReplayState)
    assert event.identifier.spi == 0x100
    assert event.replay.outbound >= 2
    assert event.flags & AsyncEventFlag.BY_REPLAY
    assert event.usage is not None
    assert "oseq 0x8" in shown(network)


def test_changes_are_told(network: Network, client: XfrmClient) -> None:
    events = XfrmEvents(namespace="a")
    sa = esp(network)
    client.add(sa)
    client.update(sa)
    client.add_policy(policies(network)[0])
    client.delete_policy(policies(network)[0].identifier)
    client.delete(sa.identifier)
    client.do(requests.flush_policies())
    added, updated, with_policy, without, deleted, *_ = events.read()
    assert isinstance(added, told.SecurityAssociationAdded)
    assert isinstance(updated, told.SecurityAssociationAdded)
    assert (added.sa.aead, added.updated, updated.updated) == (sa.aead, False, True)
    assert isinstance(with_policy, told.PolicyAdded)
    assert isinstance(without, told.PolicyDeleted)
    assert isinstance(without.policy, SecurityPolicy)
    assert replace(without.policy, usage=Usage()) == replace(with_policy.policy, usage=Usage())
    assert isinstance(deleted, told.SecurityAssociationDeleted)
    assert deleted.identifier == sa.identifier
    assert deleted.sa is not None
    assert deleted.sa.aead == sa.aead
    client.add(replace(sa, lifetime=replace(sa.lifetime, hard_add_seconds=1)))
    expired, _ = wait_for(events, told.SecurityAssociationExpired)
    assert isinstance(expired, told.SecurityAssociationExpired)
    assert (expired.sa.spi, expired.hard) == (0x100, True)
    assert events.drain() in (True, False)
    assert events.read() == []
    events.close()


def test_lost_events_are_told(network: Network, client: XfrmClient) -> None:
    events = XfrmEvents(namespace="a", receive_buffer=4096)
    many = [requests.add_security_association(esp(network, spi=0x1000 + number)) for number in range(100)]
    assert client.execute(many) == [None] * 100
    seen = events.read()
    events.close()
    assert EventsLost() in seen
    assert len(seen) < 100


def test_a_tunnel_migrates_with_its_sequence_numbers(network: Network, client: XfrmClient) -> None:
    a, b, new = network.ipv4("a"), network.ipv4("b"), ip_address("10.9.0.77")
    client.add(esp(network, mode=Mode.TUNNEL, request_id=3, replay=ReplayState(41, 0, 0)))
    template = PolicyTemplate(50, Mode.TUNNEL, a, b, request_id=3)
    inner = Selector(ip_address("10.1.0.0"), 24, ip_address("10.3.0.1"), 32)
    policy = SecurityPolicy(Direction.OUT, 0, 100, 0, inner, (template,))
    client.add_policy(policy)
    client.migrate(policy.identifier, [Migration(a, b, new, b, request_id=3)])
    (sa,) = client.security_associations()
    assert (sa.source, sa.destination, sa.spi, sa.replay) == (new, b, 0x100, ReplayState(41, 0, 0))
    assert client.policy(policy.identifier).templates[0].source == new
    assert f"src {new} dst {b}" in shown(network)
    with pytest.raises(XfrmError):
        client.migrate(policy.identifier, [])
    assert sa.lifetime.hard_octets == INFINITE
