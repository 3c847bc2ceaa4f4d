"""Group commit: many transfers, few syncs, and one that fails spoils no other."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import opaque, owned

from cxtp.errors import LocalError, StaleGeneration, StoreFull
from cxtp.store.records import SessionRecord
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore
from cxtp.store.writer import StoreWriter


def records(count: int) -> list[SessionRecord]:
    return [owned(ip_address(0x0A000001 + n), (opaque(100),), generation=5) for n in range(count)]


def opened(tmp_path: Path) -> SqliteStore:
    return SqliteStore.open(tmp_path / "sessions.db", StoreKey.create(tmp_path / "key"))


def test_what_waits_goes_into_one_commit(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)
            await asyncio.gather(*(writer.put(record) for record in records(300)))
            assert writer.commits <= 3  # the first alone, perhaps, and the rest together
            assert store.count() == 300
            await writer.close()

    asyncio.run(main())


def test_a_stale_record_fails_alone(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)
            fresh = records(10)
            await writer.put(fresh[4])
            batch = [*fresh[:4], owned(fresh[4].mn_address, (), generation=4), *fresh[5:]]
            outcomes = await asyncio.gather(*(writer.put(record) for record in batch), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None)] * 4 + [StaleGeneration] + [type(None)] * 5
            assert store.count() == 10
            assert store.get(fresh[4].mn_address) == fresh[4]
            await writer.close()

    asyncio.run(main())


def test_a_store_that_is_full_fails_all_that_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)

            def full(self: SqliteStore, records: object) -> None:
                raise StoreFull("disk full")

            with monkeypatch.context() as patch:
                patch.setattr(SqliteStore, "put_many", full)
                outcomes = await asyncio.gather(*(writer.put(r) for r in records(5)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreFull] * 5
            await writer.put(*records(2))
            assert store.count() == 2
            await writer.close()

    asyncio.run(main())


def test_whatever_fails_is_told_to_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours, not of the disk: nobody may wait for ever, since each who waits holds a session."""

    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)

            def broken(self: SqliteStore, records: object) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(SqliteStore, "put_many", broken)
                outcomes = await asyncio.gather(*(writer.put(r) for r in records(5)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 5
            await writer.put(*records(2))
            store.close()
            with pytest.raises(LocalError, match="is closed"):
                await writer.put(*records(1))
            await writer.close()

    asyncio.run(main())


def test_closing_finishes_what_was_asked_for_and_takes_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)
            puts = [asyncio.ensure_future(writer.put(record)) for record in records(600)]
            await asyncio.sleep(0)
            await writer.close()
            await asyncio.gather(*puts)
            assert store.count() == 600
            assert writer.commits < 600
            with pytest.raises(LocalError, match="closed"):
                await writer.put(*records(1))

    asyncio.run(main())


def test_one_who_stops_waiting_harms_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            writer = StoreWriter(store)
            puts = [asyncio.ensure_future(writer.put(record)) for record in records(20)]
            await asyncio.sleep(0)
            puts[7].cancel()
            outcomes = await asyncio.gather(*puts, return_exceptions=True)
            assert [type(o).__name__ for o in outcomes].count("CancelledError") == 1
            assert sum(outcome is None for outcome in outcomes) == 19
            await writer.close()
            assert store.count() == 20  # it was asked for

    asyncio.run(main())
