"""Who owns what: each change on disk before it is told, one after the other, and undone where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import MN, opaque, owned, recorded_contexts, without_parameter

from contexts.base import decode, encode
from contexts.ipsec import IpsecSaContext
from contexts.values import SequenceNumbers
from cxtp.constants import StatusCode
from cxtp.errors import LocalError, RemoteError, StoreError, StoreFull, UnsupportedAlgorithm
from cxtp.messages import EncodedContext
from cxtp.roles.events import ContextsReceived, Peer, TransferAborted
from cxtp.sessions import SEQUENCE_RESERVE, Sessions
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore

OTHER = ip_address("192.0.2.200")
PEER = Peer(ip_address("127.0.0.2"), 5091, name="a", is_router=True)


class Kernel:
    """A sink that remembers; ``refuses`` is raised where something is installed."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.installed: list[SessionRecord] = []
        self.ceilings: list[SessionRecord] = []
        self.refuses = refuses
        self.reads: tuple[EncodedContext, ...] | None = None
        self.survived = False

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.installed.append(record)
        self.ceilings.append(ceiling)

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        self.installed = [other for other in self.installed if other.mn_address != record.mn_address]
        return record.contexts if self.reads is None else self.reads

    async def discard(self, record: SessionRecord) -> None:
        pass

    async def holds(self, record: SessionRecord) -> bool:
        return self.survived

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        self.ceilings.append(ceiling)


def open_store(directory: Path) -> SqliteStore:
    key_file = directory / "key"
    key = StoreKey.load(key_file) if key_file.exists() else StoreKey.create(key_file)
    return SqliteStore.open(directory / "sessions.db", key)


@asynccontextmanager
async def sessions(directory: Path, *sinks: Kernel) -> AsyncIterator[Sessions]:
    with open_store(directory) as store:
        opened = Sessions(store, lambda: 7.0, sinks)
        await opened.open()
        yield opened
        await opened.close()


def received(
    generation: int | None = 2,
    transfer_id: int | None = 77,
    *,
    contexts: tuple[EncodedContext, ...] | None = None,
    predictive: bool = False,
    activate: bool | None = None,
) -> ContextsReceived:
    return ContextsReceived(
        MN,
        recorded_contexts() if contexts is None else contexts,
        generation,
        transfer_id,
        predictive=predictive,
        activate=not predictive if activate is None else activate,
        peer=PEER,
    )


class Disk:
    """Puts from the ``first``-th on fail."""

    def __init__(self, patch: pytest.MonkeyPatch, first: int = 1) -> None:
        true_put, self.puts = SqliteStore.put_many, 0

        def put_many(store: SqliteStore, records: list[SessionRecord]) -> None:
            self.puts += 1
            if self.puts >= first:
                raise StoreFull("disk full")
            true_put(store, records)

        patch.setattr(SqliteStore, "put_many", put_many)


def known(current: Sessions) -> tuple[SessionState, int]:
    record = current.get(MN)
    assert record is not None
    return record.state, record.generation


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_session_is_out_of_use_before_it_is_frozen_on_disk_and_back_where_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            record = await current.load(MN, recorded_contexts())
            assert kernel.installed == [record]
            kernel.reads = record.contexts  # nothing was sent
            with monkeypatch.context() as patch:
                Disk(patch)
                with pytest.raises(StoreFull):
                    await current.freeze(MN, "b")
            (again,) = kernel.installed
            assert again.contexts == record.contexts
            assert known(current) == (SessionState.OWNED, 1)
            frozen = await current.freeze(MN, "b")
            assert (frozen.state, frozen.generation, frozen.peer) == (SessionState.FROZEN, 2, "b")
            assert current.get(MN) == frozen
            assert kernel.installed == []

    asyncio.run(main())


def test_what_is_not_owned_can_not_be_frozen(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            with pytest.raises(LocalError, match="does not own"):
                await current.freeze(MN, "b")
            await current.load(MN, recorded_contexts())
            # Two at once: a mobile node's request and an operator's move.
            outcomes = await asyncio.gather(
                current.freeze(MN, "b"), current.freeze(MN, "c"), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [SessionRecord, LocalError]
            assert known(current) == (SessionState.FROZEN, 2)

    asyncio.run(main())


def test_only_the_answer_to_this_transfer_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            await current.load(MN, recorded_contexts())
            frozen = await current.freeze(MN, "b")
            stray = replace(frozen, transfer_id=(frozen.transfer_id or 0) ^ 1)
            assert current.transferred(MN, stray.transfer_id) is None
            assert current.transferred(MN, None) is None
            assert current.counters["answers_for_no_transfer"] == 2
            await current.release(stray)
            await current.reclaim(stray)
            assert current.get(MN) == frozen
            await current.reclaim(frozen)
            assert known(current) == (SessionState.OWNED, 2)
            assert [record.mn_address for record in kernel.installed] == [MN]
            again = await current.freeze(MN, "b")
            await current.release(again)
            record = current.get(MN)
            assert record is not None
            assert (record.state, record.generation, record.contexts) == (SessionState.RELEASED, 3, ())

    asyncio.run(main())


def test_loading_and_forgetting(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            with pytest.raises(LocalError, match="nothing is known"):
                await current.forget(MN)
            await current.load(MN, recorded_contexts())
            with pytest.raises(LocalError, match="already"):
                await current.load(MN, recorded_contexts())
            with pytest.raises(RemoteError, match="in use here by"):
                await current.load(OTHER, recorded_contexts())
            await current.freeze(MN, "b")
            with pytest.raises(LocalError, match="may be at b"):
                await current.forget(MN)
            await current.forget(MN, frozen=True)
            assert known(current) == (SessionState.RELEASED, 2)
            await current.load(OTHER, recorded_contexts())  # its SPIs are free
            with pytest.raises(RemoteError, match="SPI"):
                await current.load(MN, recorded_contexts())

    asyncio.run(main())


# --- arriving -------------------------------------------------------------------------------------------------------


def test_the_same_transfer_once_more_succeeds_and_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            for _ in range(2):
                verdict = await current.receive(received())
                assert verdict.accepted
                assert known(current) == (SessionState.OWNED, 2)
            assert len(kernel.installed) == 1

    asyncio.run(main())


def test_what_was_sent_ahead_and_activated_is_had(tmp_path: Path) -> None:
    """The previous router asks late: that its generation is lower by one is our own counting."""

    async def main() -> None:
        async with sessions(tmp_path) as current:
            assert (await current.receive(received(predictive=True))).accepted
            assert known(current) == (SessionState.STANDBY, 2)
            assert await current.activate(MN, 78) is StatusCode.NO_SUCH_CONTEXT
            assert await current.activate(MN, 77) is StatusCode.SUCCESS
            assert known(current) == (SessionState.OWNED, 3)
            assert (await current.receive(received(predictive=True))).accepted
            assert (await current.receive(received())).accepted
            assert known(current) == (SessionState.OWNED, 3)

    asyncio.run(main())


@pytest.mark.parametrize("state", list(SessionState))
def test_an_older_transfer_installs_nothing(tmp_path: Path, state: SessionState) -> None:
    async def main() -> None:
        with open_store(tmp_path) as store:
            store.put(owned(MN, recorded_contexts(), state=state, generation=5, transfer_id=1))
        async with sessions(tmp_path) as current:
            before = current.get(MN)
            verdict = await current.receive(received(4))
            assert [s.status for s in verdict.statuses] == [StatusCode.STALE]
            assert not verdict.accepted
            assert current.get(MN) == before

    asyncio.run(main())


def test_a_refusal_uses_the_generation_up_across_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        bad = (without_parameter(recorded_contexts()[0], 4), *recorded_contexts()[1:])
        async with sessions(tmp_path) as current:
            verdict = await current.receive(received(contexts=bad))
            assert not verdict.accepted
            assert verdict.statuses[0].status == StatusCode.MANDATORY_PARAMETER_MISSING
        async with sessions(tmp_path) as current:
            record = current.get(MN)
            assert record is not None
            assert (record.state, record.refused_generation) == (SessionState.RELEASED, 2)
            verdict = await current.receive(received())  # the same transfer, mended
            assert (verdict.accepted, verdict.statuses[0].status) == (False, StatusCode.INSTALL_FAILED)
            assert (await current.receive(received(3))).accepted

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LocalError("no"), StatusCode.INSTALL_FAILED),
        (UnsupportedAlgorithm("ENCR", 99), StatusCode.UNSUPPORTED_ALGORITHM),
    ],
)
def test_what_can_not_be_installed_is_given_back_on_disk(tmp_path: Path, error: Exception, status: StatusCode) -> None:
    async def main() -> None:
        first, second = Kernel(), Kernel(error)
        async with sessions(tmp_path, first, second) as current:
            verdict = await current.receive(received())
            assert (verdict.accepted, [s.status for s in verdict.statuses]) == (False, [status])
            assert known(current) == (SessionState.RELEASED, 2)
            assert first.installed == []  # in all sinks or in none
            with pytest.raises(type(error)):
                await current.load(OTHER, recorded_contexts())
            second.refuses = None
            await current.load(MN + 1, recorded_contexts())  # its SPIs are free, after either

    asyncio.run(main())


def test_who_owned_a_session_before_its_sender_does_not_own_it_again(tmp_path: Path) -> None:
    """A node that was taken over from, and does not know it, is offered the session and can't install it: the sender
    goes on under the generation of its offer, and nobody else has that one."""

    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            await current.load(MN, recorded_contexts())
            kernel.refuses = LocalError("no")
            verdict = await current.receive(received(5))
            assert not verdict.accepted
            assert known(current) == (SessionState.RELEASED, 5)

    asyncio.run(main())


def test_a_frozen_session_that_comes_back_and_can_not_be_installed_stays_frozen(tmp_path: Path) -> None:
    """S=0 is only true once the disk does not say OWNED any more."""

    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            await current.load(MN, recorded_contexts())
            frozen = await current.freeze(MN, "a")
            kernel.refuses = LocalError("no")
            verdict = await current.receive(received(frozen.generation + 1))
            assert not verdict.accepted
            assert known(current) == (SessionState.FROZEN, frozen.generation + 1)
            with pytest.raises(RemoteError, match="SPI"):
                await current.load(OTHER, recorded_contexts())

    asyncio.run(main())


def test_a_refusal_that_can_not_be_written_down_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OWNED is on disk, nothing can be installed, and that can't be told the disk: it is ours, and says what failed."""

    async def main() -> None:
        async with sessions(tmp_path, Kernel(LocalError("no"))) as current:
            with monkeypatch.context() as patch:
                disk = Disk(patch, first=2)
                verdict = await current.receive(received())
                assert disk.puts == 2
            assert (verdict.accepted, [s.status for s in verdict.statuses]) == (True, [StatusCode.INSTALL_FAILED])
            assert known(current) == (SessionState.OWNED, 2)

    asyncio.run(main())


def test_a_full_disk_refuses_and_frees_what_was_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            with monkeypatch.context() as patch:
                Disk(patch)
                verdict = await current.receive(received())
            assert [s.status for s in verdict.statuses] == [StatusCode.STORE_FAILED]
            assert not verdict.accepted
            assert current.get(MN) is None
            assert current.counters["store_failed"] == 2  # the session, and its refusal
            await current.load(OTHER, recorded_contexts())

    asyncio.run(main())


def test_two_sessions_with_one_spi_that_arrive_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            verdicts = await asyncio.gather(
                current.receive(received()), current.receive(replace(received(transfer_id=78), mn_address=OTHER))
            )
            assert [verdict.accepted for verdict in verdicts] == [True, False]
            assert [s.status for s in verdicts[1].statuses] == [StatusCode.SPI_COLLISION]

    asyncio.run(main())


def test_a_router_without_manifests(tmp_path: Path) -> None:
    """No generation, no transfer identifier: taken where nothing is in use here, counted on from what is known."""

    async def main() -> None:
        async with sessions(tmp_path) as current:
            assert (await current.receive(received(None, None))).accepted
            assert known(current) == (SessionState.OWNED, 1)
            assert not (await current.receive(received(None, None))).accepted  # it may be anything
            await current.forget(MN)
            assert (await current.receive(received(None, None))).accepted
            assert known(current) == (SessionState.OWNED, 2)

    asyncio.run(main())


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_damaged_record_does_not_keep_the_others_from_being_served(tmp_path: Path) -> None:
    async def main() -> None:
        with open_store(tmp_path) as store:
            store.put_many([owned(OTHER, (opaque(50),)), owned(MN, recorded_contexts(), state=SessionState.FROZEN)])
            assert store._connection is not None
            store._connection.execute("UPDATE sessions SET peer = 'mallory' WHERE mn_address = ?", (OTHER.packed,))
        with open_store(tmp_path) as store:
            current = Sessions(store, lambda: 7.0)
            frozen = await current.open()
            assert [record.mn_address for record in frozen] == [MN]
            assert current.counters["damaged_records"] == 1
            with pytest.raises(StoreError):
                current.get(OTHER)
            await current.close()

    asyncio.run(main())


# --- the fence on sequence numbers ------------------------------------------------------------------------------------


def outbound(contexts: Iterable[EncodedContext]) -> set[int]:
    """The last sequence numbers that the IPsec_SAs may have sent."""
    decoded = [decode(context) for context in contexts]
    return {context.sequence_numbers.outbound for context in decoded if isinstance(context, IpsecSaContext)}


def standing_at(numbers: int) -> tuple[EncodedContext, ...]:
    """The recorded contexts, each SA having sent so many packets."""
    moved = []
    for context in map(decode, recorded_contexts()):
        if isinstance(context, IpsecSaContext):
            moved.append(encode(replace(context, sequence_numbers=SequenceNumbers(outbound=numbers))))
        else:
            moved.append(encode(context))
    return tuple(moved)


def test_what_is_on_disk_lies_ahead_of_what_is_sent(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = Kernel()
        async with sessions(tmp_path, kernel) as current:
            await current.receive(received(contexts=standing_at(100)))
            (used,), (ceiling,) = kernel.installed, kernel.ceilings
            assert outbound(used.contexts) == {100}
            assert outbound(ceiling.contexts) == {100 + SEQUENCE_RESERVE}
            assert current.get(MN) == ceiling
            await current.raise_ceiling(MN, standing_at(5000))
            assert outbound(kernel.ceilings[-1].contexts) == {5000 + SEQUENCE_RESERVE}
            assert current.get(MN) == kernel.ceilings[-1]
            with pytest.raises(LocalError, match="older than what is on disk"):
                await current.raise_ceiling(MN, standing_at(4999))
            assert current.get(MN) == kernel.ceilings[-1]
            kernel.reads = standing_at(5007)
            frozen = await current.freeze(MN, "b")
            assert outbound(frozen.contexts) == {5007}  # exact again: nothing is sent any more
            with pytest.raises(LocalError):
                await current.raise_ceiling(MN, standing_at(5010))
            await current.reclaim(frozen)
            assert outbound(kernel.installed[-1].contexts) == {5007}
            assert current.get(MN) == kernel.ceilings[-1]

    asyncio.run(main())


def test_after_a_restart_a_session_goes_on_above_all_that_can_have_been_sent(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path, Kernel()) as current:
            await current.receive(received(contexts=standing_at(100)))
        for restarts in (1, 2):
            kernel = Kernel()
            async with sessions(tmp_path, kernel) as current:
                (used,) = kernel.installed
                assert outbound(used.contexts) == {100 + restarts * SEQUENCE_RESERVE}
                assert outbound(kernel.ceilings[-1].contexts) == {100 + (restarts + 1) * SEQUENCE_RESERVE}
                assert current.get(MN) == kernel.ceilings[-1]
        survivor = Kernel()
        survivor.survived = True
        async with sessions(tmp_path, survivor) as current:
            assert (survivor.installed, survivor.ceilings) == ([], [])

    asyncio.run(main())


def test_a_kernel_that_will_not_let_go_keeps_the_session_in_use(tmp_path: Path) -> None:
    class Stuck(Kernel):
        async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
            raise LocalError("busy")

    async def main() -> None:
        first, stuck = Kernel(), Stuck()
        async with sessions(tmp_path, first, stuck) as current:
            await current.load(MN, standing_at(100))
            with pytest.raises(LocalError, match="busy"):
                await current.freeze(MN, "b")
            assert known(current) == (SessionState.OWNED, 1)
            assert [record.mn_address for record in first.installed] == [MN]

    asyncio.run(main())


# --- refusals before all is here --------------------------------------------------------------------------------------


def aborted(generation: int, transfer_id: int = 77) -> TransferAborted:
    return TransferAborted(MN, transfer_id, StatusCode.TIMED_OUT, PEER, generation)


def test_a_transfer_that_timed_out_is_never_taken_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            verdict = await current.refuse(aborted(2))
            assert (verdict.accepted, [s.status for s in verdict.statuses]) == (False, [StatusCode.TIMED_OUT])
        async with sessions(tmp_path) as current:
            late = await current.receive(received(2))
            assert (late.accepted, [s.status for s in late.statuses]) == (False, [StatusCode.INSTALL_FAILED])
            assert (await current.receive(received(3, 78))).accepted

    asyncio.run(main())


def test_a_refusal_takes_nothing_away_and_says_what_the_records_know(tmp_path: Path) -> None:
    async def main() -> None:
        async with sessions(tmp_path) as current:
            await current.receive(received(2))
            assert (await current.refuse(aborted(2))).accepted  # it was had, whatever comes of it again
            frozen = await current.freeze(MN, "b")
            # An earlier transfer, had and passed on: to say no would give its sender the session back.
            verdict = await current.refuse(aborted(2))
            assert (verdict.accepted, [s.status for s in verdict.statuses]) == (False, [StatusCode.STALE])
            verdict = await current.refuse(aborted(9, 99))
            assert [s.status for s in verdict.statuses] == [StatusCode.TIMED_OUT]
            assert current.get(MN) == replace(frozen, refused_generation=9)
            assert not (await current.receive(received(9, 99))).accepted
            assert (await current.receive(received(10, 100))).accepted

    asyncio.run(main())


class Witness:
    """A listener that remembers, and lets nothing go while ``refuses`` is set."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refuses = False

    async def activated(self, record: SessionRecord) -> None:
        self.told.append(f"activated {record.generation}")

    async def releasing(self, record: SessionRecord) -> None:
        self.told.append(f"releasing {record.generation}")
        if self.refuses:
            raise LocalError("not now")

    async def released(self, record: SessionRecord) -> None:
        self.told.append(f"released {record.generation}")


def test_a_listener_is_told_before_a_session_leaves_and_may_keep_it(tmp_path: Path) -> None:
    async def main() -> None:
        kernel, witness = Kernel(), Witness()
        async with sessions(tmp_path, kernel) as current:
            current.listeners.append(witness)
            await current.load(MN, recorded_contexts())
            await asyncio.sleep(0)
            witness.refuses = True
            with pytest.raises(LocalError, match="not now"):
                await current.freeze(MN, "b")
            await asyncio.sleep(0)
            kept = current.get(MN)
            assert kept is not None
            assert kept.state is SessionState.OWNED
            assert len(kernel.installed) == 1
            witness.refuses = False
            frozen = await current.freeze(MN, "b")
            assert kernel.installed == []
            await current.release(frozen)
            assert witness.told == ["activated 1", "releasing 1", "activated 1", "releasing 1", "released 2"]

    asyncio.run(main())
