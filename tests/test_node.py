"""Nodes join roles, transport and store: whole moves, and what is left when one fails."""

from __future__ import annotations

import asyncio
import random
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import MN, Lab, arrived_whole, lab, opaque, owned, recorded_contexts, until

from cxtp.errors import LocalError, StoreFull
from cxtp.messages import ContextTransferActivateRequest, EncodedContext, IPAddress
from cxtp.node import MoveRefused, MoveUnconfirmed
from cxtp.roles.events import DropReason, Peer
from cxtp.roles.mobile_node import MobileNode
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sqlite import SqliteStore
from cxtp.transports.udp import UdpEndpoint
from cxtp.wire import build, parse

both_transports = pytest.mark.parametrize("transport", ["udp", "tls"])


@both_transports
def test_a_session_moves_and_moves_back_and_on(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with lab(tmp_path, transport, ("a", "b", "c")) as nodes:
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            for source, target in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")):
                report = await nodes.nodes[source].move(MN, target)
                assert report.contexts == 2
                nodes.check()
                states = nodes.states()
                assert states.pop(target) is SessionState.OWNED
                assert set(states.values()) == {SessionState.RELEASED}
            record = nodes.nodes["b"].sessions.get(MN)
            # a generation for the load and one for each change of owner
            assert record is not None
            assert record.generation == 5
            sent = recorded_contexts()
            assert [c.data[: len(o.data)] for c, o in zip(record.contexts, sent, strict=True)] == [o.data for o in sent]
            given_away = nodes.nodes["a"].sessions.get(MN)
            assert given_away is not None
            assert given_away.contexts == ()

    asyncio.run(main())


@both_transports
def test_no_answer_leaves_the_session_frozen_until_the_same_move_is_confirmed(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with lab(tmp_path, transport, start=("a",)) as nodes:
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            with pytest.raises(MoveUnconfirmed, match="stays frozen"):
                await nodes.nodes["a"].move(MN, "b")
            assert nodes.states() == {"a": SessionState.FROZEN}
            frozen = nodes.nodes["a"].sessions.get(MN)
            await nodes.start("b")
            await nodes.nodes["a"].move(MN, "b")
            assert nodes.states() == {"a": SessionState.RELEASED, "b": SessionState.OWNED}
            arrived = nodes.nodes["b"].sessions.get(MN)
            assert frozen is not None
            assert arrived is not None
            assert arrived.transfer_id == frozen.transfer_id

    asyncio.run(main())


def test_a_frozen_session_goes_to_no_other_router(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", ("a", "b", "c"), start=("a", "c")) as nodes:
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            with pytest.raises(MoveUnconfirmed):
                await nodes.nodes["a"].move(MN, "b")
            with pytest.raises(LocalError, match="may be at b"):
                await nodes.nodes["a"].move(MN, "c")
            assert nodes.states() == {"a": SessionState.FROZEN}

    asyncio.run(main())


def test_a_node_asks_after_its_frozen_sessions_when_it_starts(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            store = nodes.open_store("a")
            store.put(
                owned(MN, recorded_contexts(), state=SessionState.FROZEN, generation=2, peer="b", transfer_id=77)
            )
            store.close()
            await nodes.start("a")
            await until(lambda: nodes.states() == {"a": SessionState.RELEASED, "b": SessionState.OWNED})

    asyncio.run(main())


def test_the_new_router_died_between_its_commit_and_its_answer(tmp_path: Path) -> None:
    """The previous router asks again, and is told again: one owner, the same transfer."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=()) as nodes:
            transfer = {"generation": 2, "transfer_id": 77}
            for name, changes in (
                ("a", {**transfer, "state": SessionState.FROZEN, "peer": "b"}),
                ("b", {**transfer, "peer": "a"}),
            ):
                store = nodes.open_store(name)
                store.put(owned(MN, recorded_contexts(), **changes))
                store.close()
            await nodes.start("b")
            await nodes.start("a")
            await until(lambda: nodes.states()["a"] is SessionState.RELEASED)
            assert nodes.states()["b"] is SessionState.OWNED

    asyncio.run(main())


def test_a_late_copy_of_a_refused_transfer_installs_nothing(tmp_path: Path) -> None:
    """The refusal used the generation up, on disk: a new router that forgot all else still refuses."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("a",)) as nodes:
            await nodes.start("b", sinks=[Refusing()])
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            with pytest.raises(MoveRefused, match="INSTALL_FAILED"):
                await nodes.nodes["a"].move(MN, "b")
            record = nodes.nodes["a"].sessions.get(MN)
            assert record is not None
            assert record.state is SessionState.OWNED
            late = nodes.nodes["a"].router.previous.transfer
            await nodes.stop("b")
            await nodes.start("b")
            # The same transfer once more, as a delayed datagram would bring it.
            peer, now = nodes.nodes["a"]._peers["b"], time.monotonic()
            late(MN, peer, record.contexts, record.generation, now, record.transfer_id)
            nodes.nodes["a"]._pump()
            await until(lambda: nodes.nodes["a"].counters["TransferRefused"] > 1)
            assert nodes.states() == {"a": SessionState.OWNED, "b": SessionState.RELEASED}

    asyncio.run(main())


class Refusing:
    """A sink whose kernel knows no such algorithm."""

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        raise LocalError("no such algorithm in this kernel")

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        return record.contexts

    async def discard(self, record: SessionRecord) -> None:
        pass

    async def holds(self, record: SessionRecord) -> bool:
        return False

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        pass


@both_transports
def test_an_spi_in_use_is_refused_and_the_session_stays(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with lab(tmp_path, transport) as nodes:
            other = ip_address("192.0.2.200")
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            await nodes.nodes["b"].sessions.load(other, recorded_contexts())
            with pytest.raises(MoveRefused, match="SPI_COLLISION"):
                await nodes.nodes["a"].move(MN, "b")
            assert nodes.states()["a"] is SessionState.OWNED
            nodes.check()
            # and it can go elsewhere, or there later
            await nodes.nodes["b"].sessions.forget(other)
            await nodes.nodes["a"].move(MN, "b")
            assert nodes.states()["b"] is SessionState.OWNED

    asyncio.run(main())


def test_contexts_of_unknown_types_are_kept_reported_and_passed_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", ("a", "b", "c")) as nodes:
            contexts = (*recorded_contexts(), opaque(100))
            await nodes.nodes["a"].sessions.load(MN, contexts)
            await nodes.nodes["a"].move(MN, "b")
            await nodes.nodes["b"].move(MN, "c")
            record = nodes.nodes["c"].sessions.get(MN)
            assert record is not None
            assert record.contexts[-1] == contexts[-1]

    asyncio.run(main())


@both_transports
@pytest.mark.parametrize("octets", [60_000, 300_000])
def test_sessions_of_many_octets_move_whole(tmp_path: Path, transport: str, octets: int) -> None:
    async def main() -> None:
        async with lab(tmp_path, transport) as nodes:
            contexts = (*recorded_contexts(), *(opaque(20_000, 0x7000 + n) for n in range(octets // 20_000)))
            await nodes.nodes["a"].sessions.load(MN, contexts)
            report = await nodes.nodes["a"].move(MN, "b")
            assert report.octets > octets
            record = nodes.nodes["b"].sessions.get(MN)
            assert record is not None
            assert arrived_whole(record.contexts, contexts)

    asyncio.run(main())


@both_transports
def test_many_sessions_move_at_once_with_few_commits(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with lab(tmp_path, transport) as nodes:
            source, target = nodes.nodes["a"], nodes.nodes["b"]
            addresses = [ip_address(f"10.0.{n // 250}.{n % 250 + 1}") for n in range(200)]
            for address in addresses:
                await source.sessions.load(address, [opaque(500)])
            before = source.sessions.writer.commits
            await asyncio.gather(*(source.move(address, "b") for address in addresses))
            for address in addresses:
                assert nodes.states(address) == {"a": SessionState.RELEASED, "b": SessionState.OWNED}
            # FROZEN and RELEASED: two records each
            assert source.sessions.writer.commits - before < 2 * len(addresses)
            assert target.sessions.writer.commits < len(addresses)

    asyncio.run(main())


def test_a_store_that_fails_before_sending_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())

            def full(self: SqliteStore, records: object) -> None:
                raise StoreFull("disk full")

            with monkeypatch.context() as patch:
                patch.setattr(SqliteStore, "put_many", full)
                with pytest.raises(StoreFull):
                    await source.move(MN, "b")
            assert source.endpoint.counters["sent"] == 0
            assert nodes.states() == {"a": SessionState.OWNED}

    asyncio.run(main())


KEY = bytes(range(16))


class MobileNodePeer:
    """A mobile node on loopback: the role over a UDP socket."""

    def __init__(self, nodes: Lab) -> None:
        self.role = MobileNode(random.Random(5), nodes.protocol)
        others = list(nodes.routers.values())
        self.endpoint = UdpEndpoint((ip_address(f"{nodes.subnet}.99"), 5091), others, self._received)
        self.peers = {r.name: Peer(r.address, r.port, name=r.name, is_router=True) for r in others}
        self.events: list[object] = []

    def _received(self, octets: bytes, peer: Peer) -> None:
        self.role.receive(parse(octets), peer, asyncio.get_running_loop().time())
        while (event := self.role.next_event()) is not None:
            self.events.append(event)

    def activate(self, key: bytes, *, predictive: bool) -> list[ContextTransferActivateRequest]:
        now = asyncio.get_running_loop().time()
        self.role.activate(MN, self.peers["a"], self.peers["b"], now, key, predictive=predictive)
        sent = self.role.to_send(now)
        for outgoing in sent:
            self.endpoint.send(build(outgoing.message), outgoing.peer)
        return [o.message for o in sent if isinstance(o.message, ContextTransferActivateRequest)]


@pytest.mark.parametrize("predictive", [False, True])
def test_a_mobile_node_takes_its_session_along(tmp_path: Path, predictive: bool) -> None:
    """Flow 5.3 over UDP: CTAR with a true token, to both routers or to the new one alone."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            requests = mobile.activate(KEY, predictive=predictive)
            assert all(request.requested == () for request in requests)  # none named: all are asked for (2.5.1)
            await until(lambda: nodes.states().get("b") is SessionState.OWNED)
            await until(lambda: nodes.states()["a"] is SessionState.RELEASED)
            await until(lambda: bool(mobile.events))
            record = nodes.nodes["b"].sessions.get(MN)
            assert record is not None
            assert arrived_whole(record.contexts, recorded_contexts())
            await mobile.endpoint.close()

    asyncio.run(main())


def test_a_forged_token_moves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            mobile.activate(b"another key", predictive=False)
            await until(lambda: source.router.counters[DropReason.TOKEN_REFUSED] >= 1)
            assert nodes.states() == {"a": SessionState.OWNED}
            await mobile.endpoint.close()

    asyncio.run(main())


def test_a_replayed_ctar_is_ignored(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            (request,) = mobile.activate(KEY, predictive=False)
            target = nodes.nodes["b"]
            await until(lambda: nodes.states().get("b") is SessionState.OWNED)
            await until(lambda: nodes.states()["a"] is SessionState.RELEASED)
            await target.move(MN, "a")
            mobile.endpoint.send(build(request), mobile.peers["b"])
            await until(lambda: target.router.counters[DropReason.DUPLICATE_REQUEST] > 0)
            assert nodes.states() == {"a": SessionState.OWNED, "b": SessionState.RELEASED}
            await mobile.endpoint.close()

    asyncio.run(main())


@pytest.mark.parametrize(("keys", "state"), [({}, SessionState.OWNED), ({MN: KEY}, SessionState.STANDBY)])
def test_a_new_router_asks_for_a_session(
    tmp_path: Path, keys: dict[IPAddress, bytes], state: SessionState
) -> None:
    """Flow 5.2 with a null token: with a key of the mobile node's, that one has to come before anybody sends."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys=keys)
            await source.sessions.load(MN, recorded_contexts())
            await nodes.nodes["b"].request(MN, "a")
            await until(lambda: nodes.states() == {"a": SessionState.RELEASED, "b": state})
            nodes.check()

    asyncio.run(main())


def test_an_answer_stays_the_same_when_the_role_has_forgotten_it(tmp_path: Path) -> None:
    """The new router restarts after its commit, and the same transfer comes again: S=1, and no second install."""

    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            await nodes.nodes["a"].sessions.load(MN, recorded_contexts())
            await nodes.nodes["a"].move(MN, "b")
            record = nodes.nodes["b"].sessions.get(MN)
            assert record is not None
            await nodes.stop("b")
            await nodes.start("b")
            source = nodes.nodes["a"]
            source.router.previous.transfer(
                MN, source._peers["b"], recorded_contexts(), record.generation, time.monotonic(), record.transfer_id
            )
            source._pump()
            await until(lambda: source.counters["TransferConfirmed"] == 2)
            assert nodes.nodes["b"].counters["ContextsReceived"] == 0
            assert nodes.states() == {"a": SessionState.RELEASED, "b": SessionState.OWNED}

    asyncio.run(main())
