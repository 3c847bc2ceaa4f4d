"""The store's one writer: a thread that commits what many transfers ask for together.

A durable commit costs a disk sync however many records it has.  So the records of all transfers that wait while
one commit runs go into the next one (group commit): none is answered before it is on disk, and a thousand
transfers do not cost a thousand syncs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..errors import LocalError, StaleGeneration, StoreError
from .records import SessionRecord
from .sqlite import SqliteStore

BATCH = 512
"""Records of one commit, at most."""


class StoreWriter:
    """Durable writes for asyncio; reading goes to the store itself."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.commits = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cxtp-store")
        self._waiting: deque[tuple[tuple[SessionRecord, ...], asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def put(self, *records: SessionRecord) -> None:
        """Returns once the records are on disk.

        Raises StoreError where they are not, and none of them is; LocalError once it is closed.
        """
        if self._closed:
            raise LocalError("the store's writer is closed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, future))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())
        await future

    async def close(self) -> None:
        """Finish what was asked for, then end the thread."""
        self._closed = True
        if self._task is not None:
            await self._task
        self._executor.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = []
                size = 0
                while self._waiting and size < BATCH:
                    batch.append(self._waiting.popleft())
                    size += len(batch[-1][0])
                outcomes = await loop.run_in_executor(self._executor, self._outcomes, [put for put, _ in batch])
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if future.cancelled():
                        continue
                    if outcome is None:
                        future.set_result(None)
                    else:
                        future.set_exception(outcome)
        finally:
            self._task = None

    def _outcomes(self, batch: Sequence[tuple[SessionRecord, ...]]) -> Sequence[Exception | None]:
        """Of each put in the batch.  Whatever happens, each is answered: who waits for it holds a session."""
        try:
            return self._commit(batch)
        except Exception as error:
            return [error] * len(batch)

    def _commit(self, batch: Sequence[tuple[SessionRecord, ...]]) -> list[StoreError | None]:
        """All in one transaction; where that fails, each on its own, so that one can't spoil the others."""
        self.commits += 1
        try:
            self.store.put_many([record for records in batch for record in records])
        except StoreError as error:
            if len(batch) == 1 or not isinstance(error, StaleGeneration):
                return [error] * len(batch)
            return [outcome for records in batch for outcome in self._commit([records])]
        return [None] * len(batch)
