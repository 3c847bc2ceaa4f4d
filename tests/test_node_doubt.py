"""What a node does while it can't know who has a session: never two owners, never none with the contexts."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import MN, PROTOCOL, Lab, lab, opaque, owned, recorded_contexts, until
from test_node import KEY, MobileNodePeer

from cxtp.errors import ConfigurationError, LocalError, StoreFull
from cxtp.messages import ContextRequest, ContextTransferActivateRequest, ContextTransferData, EncodedContext
from cxtp.node import MoveOvertaken, MoveRefused, MoveUnconfirmed, Node, NodeConfig
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sqlite import SqliteStore
from cxtp.token import compute_token
from cxtp.transports.endpoint import Endpoint, Peer, Receiver, Router
from cxtp.wire import build, parse

OWNED, FROZEN, STANDBY, RELEASED = SessionState.OWNED, SessionState.FROZEN, SessionState.STANDBY, SessionState.RELEASED


def write(nodes: Lab, name: str, state: SessionState, generation: int, transfer_id: int, peer: str) -> None:
    """What a node that was killed left behind."""
    store = nodes.open_store(name)
    contexts = () if state is RELEASED else recorded_contexts()
    store.put(owned(MN, contexts, state=state, generation=generation, transfer_id=transfer_id, peer=peer))
    store.close()


class FullFor:
    """A disk that takes no record of this state."""

    def __init__(self, patch: pytest.MonkeyPatch, node: Node, state: SessionState) -> None:
        true_put, self.refused = SqliteStore.put_many, 0

        def put_many(store: SqliteStore, records: list[SessionRecord]) -> None:
            if store is node.sessions.store and any(record.state is state for record in records):
                self.refused += 1
                raise StoreFull("disk full")
            true_put(store, records)

        patch.setattr(SqliteStore, "put_many", put_many)


def test_the_new_router_had_it_and_passed_it_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """a -> b: b commits, dies before it answers, comes back and gives it to c.  Then a asks again."""

    async def main() -> None:
        async with lab(tmp_path, "udp", ("a", "b", "c"), start=("c",)) as nodes:
            write(nodes, "a", FROZEN, 2, 77, "b")
            write(nodes, "b", OWNED, 2, 77, "a")
            await nodes.start("b")
            await nodes.nodes["b"].move(MN, "c")
            source = await nodes.start("a")
            await until(lambda: source.counters["TransferRefused"] >= 1)
            await until(lambda: "later owner" in caplog.text)
            assert nodes.states() == {"a": FROZEN, "b": RELEASED, "c": OWNED}
            with pytest.raises(MoveOvertaken, match="later owner"):
                await source.move(MN, "b")
            assert nodes.states() == {"a": FROZEN, "b": RELEASED, "c": OWNED}
            # An operator who sees it at c clears it away; it may come back here.
            with pytest.raises(LocalError, match="may be at b"):
                await source.sessions.forget(MN)
            await source.sessions.forget(MN, frozen=True)
            await nodes.nodes["c"].move(MN, "a")
            assert nodes.states() == {"a": OWNED, "b": RELEASED, "c": RELEASED}

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())


def test_it_came_back_before_its_departure_was_confirmed(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("a",)) as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())
            send = source.endpoint.send

            def unheard(octets: bytes, peer: Peer) -> None:
                """What a sends of it, and again, does not arrive: b would confirm it."""
                if not isinstance(parse(octets), ContextTransferData):
                    send(octets, peer)

            source.endpoint.send = unheard  # type: ignore[method-assign]
            moving = asyncio.create_task(source.move(MN, "b"))
            await until(lambda: nodes.states() == {"a": FROZEN})
            frozen = source.sessions.get(MN)
            assert frozen is not None
            assert frozen.transfer_id is not None
            write(nodes, "b", OWNED, frozen.generation, frozen.transfer_id, "a")
            # b asks nobody: it has the session, and its operator sends it back.
            target = await nodes.start("b")
            await target.move(MN, "a")
            with pytest.raises((LocalError, MoveUnconfirmed)):
                await moving
            assert nodes.states() == {"a": OWNED, "b": RELEASED}

    asyncio.run(main())


def test_a_confirmation_that_can_not_be_written_down_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())
            with monkeypatch.context() as patch:
                disk = FullFor(patch, source, RELEASED)
                with pytest.raises(StoreFull):
                    await source.move(MN, "b")
                assert disk.refused >= 1
                assert nodes.states() == {"a": FROZEN, "b": OWNED}
            await until(lambda: nodes.states() == {"a": RELEASED, "b": OWNED})

    asyncio.run(main())


def test_a_refusal_that_can_not_be_written_down_leaves_it_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())
            await nodes.nodes["b"].sessions.load(ip_address("192.0.2.200"), recorded_contexts())
            with monkeypatch.context() as patch:
                FullFor(patch, source, OWNED)
                with pytest.raises(StoreFull):
                    await source.move(MN, "b")
                assert nodes.states()["a"] is FROZEN
            await until(lambda: nodes.states()["a"] is OWNED)  # asked again, refused again
            nodes.check()

    asyncio.run(main())


def ctar(nodes: Lab, *, requested: tuple[ContextRequest, ...] = (), sequence_number: int = 1) -> bytes:
    """To the previous router, naming the new one."""
    return build(
        ContextTransferActivateRequest(
            mn_previous_address=MN,
            access_router_address=nodes.routers["b"].address,
            sequence_number=sequence_number,
            authorization_token=compute_token(KEY, MN, sequence_number, requested),
            requested=requested,
            acknowledge=True,
        )
    )


def test_a_request_when_the_disk_is_full_is_refused_and_the_next_one_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            with monkeypatch.context() as patch:
                disk = FullFor(patch, source, FROZEN)
                mobile.endpoint.send(ctar(nodes), mobile.peers["a"])
                await until(lambda: disk.refused == 1 and source.endpoint.counters["sent"] == 1)  # the CTAA
                assert nodes.states() == {"a": OWNED}
            mobile.endpoint.send(ctar(nodes, sequence_number=2), mobile.peers["a"])
            await until(lambda: nodes.states() == {"a": RELEASED, "b": STANDBY})
            await mobile.endpoint.close()

    asyncio.run(main())


def test_a_request_for_what_no_message_holds_leaves_the_session_in_use(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, [EncodedContext(0x7001, bytes(70_000))])
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            mobile.endpoint.send(ctar(nodes), mobile.peers["a"])
            await until(lambda: source.endpoint.counters["sent"] == 1)
            assert nodes.states() == {"a": OWNED}
            record = source.sessions.get(MN)
            assert record is not None
            assert record.generation == 2  # it was frozen, and taken back
            await mobile.endpoint.close()

    asyncio.run(main())


def test_a_request_that_does_not_name_the_whole_session_moves_nothing_of_it(tmp_path: Path) -> None:
    """What is not named is not sent (RFC 4067, 2.5.1); and what stayed behind would be lost with the tombstone."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            others = ((0x7777,), (0xFF01,), (0xFF01, 0xFF02, 0x7777))  # another, a part, and more than there is
            for number, types in enumerate(others, 1):
                request = ctar(nodes, requested=tuple(map(ContextRequest, types)), sequence_number=number)
                mobile.endpoint.send(request, mobile.peers["a"])
                await until(lambda number=number: source.endpoint.counters["sent"] == number)  # type: ignore[misc]
                assert nodes.states() == {"a": OWNED}
            whole = tuple(map(ContextRequest, (0xFF02, 0xFF01)))
            mobile.endpoint.send(ctar(nodes, requested=whole, sequence_number=9), mobile.peers["a"])
            await until(lambda: nodes.states() == {"a": RELEASED, "b": STANDBY})
            record = nodes.nodes["b"].sessions.get(MN)
            assert record is not None
            assert [context.feature_profile_type for context in record.contexts] == [0xFF01, 0xFF02]
            await mobile.endpoint.close()

    asyncio.run(main())


@pytest.mark.parametrize("restart", [False, True])
def test_a_mobile_node_that_does_not_come_does_not_cost_the_session(tmp_path: Path, restart: bool) -> None:
    """Sent ahead and confirmed: the previous router has nothing any more.  Whoever asks finds it at the new one."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("b",)) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            mobile.endpoint.send(ctar(nodes), mobile.peers["a"])
            await until(lambda: nodes.states() == {"a": RELEASED, "b": STANDBY})
            if restart:
                await nodes.stop("b")
                await nodes.start("b")
                assert nodes.states() == {"a": RELEASED, "b": OWNED}
            await until(lambda: nodes.states() == {"a": RELEASED, "b": OWNED})  # after CT_MAX_HANDOVER_TIME
            await nodes.nodes["b"].move(MN, "a")
            assert nodes.states() == {"a": OWNED, "b": RELEASED}
            await mobile.endpoint.close()

    asyncio.run(main())


def test_a_move_while_a_mobile_node_takes_its_session_along(tmp_path: Path) -> None:
    """Both at once: one of the two happens, and the other is told so."""

    async def main() -> None:
        async with lab(tmp_path, "udp", ("a", "b", "c"), start=("b", "c")) as nodes:
            source = await nodes.start("a", mobile_node_keys={MN: KEY})
            await source.sessions.load(MN, recorded_contexts())
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            mobile.endpoint.send(ctar(nodes), mobile.peers["a"])
            await until(lambda: source.counters["ActivationRequested"] == 1)
            with pytest.raises(LocalError):
                await source.move(MN, "c")
            await until(lambda: nodes.states() == {"a": RELEASED, "b": STANDBY})
            await mobile.endpoint.close()

    asyncio.run(main())


def test_ten_moves_of_one_session_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "tls", ("a", "b", "c")) as nodes:
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())
            outcomes = await asyncio.gather(
                *(source.move(MN, name) for name in "bc" * 5), return_exceptions=True
            )
            assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
            assert all(isinstance(outcome, LocalError) for outcome in outcomes if isinstance(outcome, Exception))
            nodes.check()
            assert sorted(nodes.states().values()) == [OWNED, RELEASED]

    asyncio.run(main())


def test_a_foreign_load_of_an_old_copy_is_not_taken_for_the_session(tmp_path: Path) -> None:
    """b knows a later owner than the copy that was loaded at a: a may not go on with it as if it were refused."""

    async def main() -> None:
        async with lab(tmp_path, "udp", start=("a",)) as nodes:
            write(nodes, "b", RELEASED, 9, 5, "c")
            await nodes.start("b")
            source = nodes.nodes["a"]
            await source.sessions.load(MN, recorded_contexts())
            with pytest.raises(MoveOvertaken):
                await source.move(MN, "b")
            assert nodes.states() == {"a": FROZEN, "b": RELEASED}
            nodes.check()

    asyncio.run(main())


def test_a_damaged_record_is_not_served_and_harms_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, "udp") as nodes:
            source = nodes.nodes["a"]
            other = ip_address("192.0.2.200")
            await source.sessions.load(MN, recorded_contexts())
            await source.sessions.load(other, [opaque(20)])
            assert source.sessions.store._connection is not None
            source.sessions.store._connection.execute(
                "UPDATE sessions SET peer = 'mallory' WHERE mn_address = ?", (MN.packed,)
            )
            mobile = MobileNodePeer(nodes)
            await mobile.endpoint.start()
            mobile.endpoint.send(ctar(nodes), mobile.peers["a"])
            await until(lambda: source.endpoint.counters["sent"] > 0)  # as if it were not here: it asks b
            await source.move(other, "b")
            assert nodes.states(other) == {"a": RELEASED, "b": OWNED}
            await mobile.endpoint.close()

    asyncio.run(main())


def test_two_routers_that_can_not_be_told_apart_are_refused(tmp_path: Path) -> None:
    here, there = ip_address("127.0.0.1"), ip_address("127.0.0.2")

    def endpoint(receiver: Receiver) -> Endpoint:
        class Nothing:
            reliable, maximum_message = True, 65_535

        return Nothing()  # type: ignore[return-value]

    for routers in ((Router("b", there), Router("c", there, 5092)), (Router("b", here), Router("b", there))):
        with pytest.raises(ConfigurationError, match="of its own"):
            Node(NodeConfig("a", routers, PROTOCOL), None, endpoint)  # type: ignore[arg-type]


def test_a_refused_move_says_why_and_where_the_session_is() -> None:
    refused = MoveRefused(MN, "b", ())
    assert str(refused) == "b refused 192.0.2.100: no reason given; the session stays here"
    assert "forget" in str(MoveOvertaken(MN, "b"))
