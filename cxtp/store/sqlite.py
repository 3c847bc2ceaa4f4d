"""The embedded store: one SQLite file, one process that has it open.

What :meth:`SqliteStore.put_many` has returned from survives kill -9 and power loss: WAL with synchronous=FULL
syncs the log before a commit is done.  The database is held exclusively, so that its WAL index lives in this
process's memory: no shared-memory file that a full disk could tear (SIGBUS), and no second writer of any kind.
Addresses, states and generations are readable in the file; contexts are not (:mod:`cxtp.store.sealing`).
"""

from __future__ import annotations

import fcntl
import hmac
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import LocalError, StaleGeneration, StoreError, StoreFull
from ..messages import IPAddress
from ..private_files import PathLike, sync_directory
from .records import SessionRecord, SessionState
from .sealing import STORE_ID_OCTETS, StoreKey

APPLICATION_ID = 0x43585450
"""In the SQLite header (PRAGMA application_id): "CXTP" in ASCII."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        # generation and transfer_id: 8 octets, big-endian, since SQLite's integers are signed
        """CREATE TABLE sessions (
            mn_address BLOB PRIMARY KEY,
            state TEXT NOT NULL,
            generation BLOB NOT NULL,
            peer TEXT NOT NULL,
            transfer_id BLOB,
            updated REAL NOT NULL,
            sealed BLOB NOT NULL
        )""",
    ),
    ("ALTER TABLE sessions ADD COLUMN refused_generation BLOB NOT NULL DEFAULT (x'0000000000000000')",),
    ("ALTER TABLE sessions ADD COLUMN standby TEXT NOT NULL DEFAULT ''",),
)
"""Statements that bring a store from schema n to n + 1, n being their index (PRAGMA user_version)."""

SCHEMA_VERSION = len(MIGRATIONS)

_JOURNAL_LIMIT = 64 * 1024 * 1024
"""Octets that the log keeps on disk once all of it is in the database."""

_PAGE = 256
"""Records that a walk over the store reads at a time."""

RECENT = 256
"""Records that stay opened beside their rows: as many as may be on the move at a time."""

_COLUMNS = "mn_address, state, generation, peer, transfer_id, updated, refused_generation, standby, sealed"
_SELECT = f"SELECT {_COLUMNS} FROM sessions WHERE mn_address = ?"
_UPSERT = f"""
    INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (mn_address) DO UPDATE SET state = excluded.state, generation = excluded.generation,
        peer = excluded.peer, transfer_id = excluded.transfer_id, updated = excluded.updated,
        refused_generation = excluded.refused_generation, standby = excluded.standby,
        sealed = excluded.sealed
    WHERE excluded.generation >= sessions.generation
"""


class SqliteStore:
    """Sessions by their mobile node's address; may be used from several threads, one call at a time runs.

    Every method raises :class:`StoreError` where the file fails, :class:`StoreFull` where there is no room (the
    store stays usable: nothing of that transaction was kept), :class:`LocalError` once the store is closed.
    """

    def __init__(self, path: Path, key: StoreKey, connection: sqlite3.Connection, lock_file: int) -> None:
        """Use :meth:`open`."""
        self.path = path
        self._key = key
        self._connection: sqlite3.Connection | None = connection
        self._lock_file = lock_file
        self._mutex = threading.RLock()
        self._store_id = b""
        self._recent: dict[bytes, tuple[tuple[Any, ...], SessionRecord]] = {}

    @classmethod
    def open(cls, path: PathLike, key: StoreKey) -> SqliteStore:
        """Open the store at ``path``, or make one there (mode 0600).

        Raises :class:`StoreError` if another process has it, the key is not the one it was made with, the file
        is no store or one of a newer version.
        """
        target = Path(os.path.realpath(path))  # two names of one file share its lock
        lock_file = _lock(target)
        try:
            connection = _connect(target)
            try:
                store = cls(target, key, connection, lock_file)
                store._prepare()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock_file)
            raise
        return store

    def _prepare(self) -> None:
        with self._guarded("open") as connection:
            # before anything is read: the WAL index then lives in memory
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            _check_ours(connection, self.path)
            for pragma in (
                "synchronous = FULL",
                "secure_delete = ON",
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "temp_store = MEMORY",
                f"journal_size_limit = {_JOURNAL_LIMIT}",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode not in ("wal", b"wal"):
                raise StoreError(f"{self.path}: this file system can't hold a write-ahead log; use a local one")
            _migrate(connection)
            self._store_id = self._check_key(connection)
        with self._translated("open"):
            sync_directory(self.path.parent)

    def _check_key(self, connection: sqlite3.Connection) -> bytes:
        """The store's identity; a new store gets one, and the check value of this key."""
        meta = {bytes(name): bytes(value) for name, value in connection.execute("SELECT name, value FROM meta")}
        if not meta:
            store_id = os.urandom(STORE_ID_OCTETS)
            meta = {b"store_id": store_id, b"key_check": self._key.check_value(store_id)}
            with _transaction(connection):
                connection.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [(name.decode(), value) for name, value in meta.items()]
                )
        store_id = meta.get(b"store_id", b"")
        if not hmac.compare_digest(meta.get(b"key_check", b""), self._key.check_value(store_id)):
            raise StoreError(f"{self.path} was made with another key: give the key file that belongs to it")
        return store_id

    def get(self, mn_address: IPAddress) -> SessionRecord | None:
        """The record of this address, or None; StoreError if it was damaged or changed."""
        with self._guarded("read") as connection:
            row = connection.execute(_SELECT, (mn_address.packed,)).fetchone()
            return None if row is None else self._recent_record(row)

    def header(self, mn_address: IPAddress) -> SessionRecord | None:
        """As :meth:`get`, less the contexts and without looking whether anybody changed it: cheap, for what decides
        nothing."""
        with self._guarded("read") as connection:
            row = connection.execute(_SELECT, (mn_address.packed,)).fetchone()
            return None if row is None else self._header(row)[0]

    def put(self, record: SessionRecord) -> None:
        """:meth:`put_many` of one."""
        self.put_many((record,))

    def put_many(self, records: Iterable[SessionRecord]) -> None:
        """Write all records in one transaction, durable on return: what may then be acknowledged.

        A record whose generation is lower than the stored one's raises :class:`StaleGeneration` (an equal one
        replaces it).  On any error nothing of the transaction is in the store.
        """
        records = tuple(records)
        rows = [self._row(record) for record in records]
        with self._guarded("write") as connection, _transaction(connection):
            for record, row in zip(records, rows, strict=True):
                if connection.execute(_UPSERT, row).rowcount == 0:
                    found = connection.execute("SELECT generation FROM sessions WHERE mn_address = ?", (row[0],))
                    stored = int.from_bytes(bytes(found.fetchone()[0]), "big")
                    raise StaleGeneration(record.mn_address, stored, record.generation)
        for record, row in zip(records, rows, strict=True):
            self._keep(tuple(item.encode() if isinstance(item, str) else item for item in row), record)

    def delete_many(self, mn_addresses: Iterable[IPAddress]) -> int:
        """Forget these sessions, in one transaction, durable on return; gives how many there were.

        Their pages are overwritten (secure_delete).  Their generations are forgotten too.
        """
        keys = [(mn_address.packed,) for mn_address in mn_addresses]
        with self._guarded("delete") as connection, _transaction(connection):
            for key in keys:
                self._recent.pop(*key, None)
            return sum(connection.execute("DELETE FROM sessions WHERE mn_address = ?", key).rowcount for key in keys)

    def records(
        self, on_damaged: Callable[[IPAddress | None, StoreError], None] | None = None
    ) -> Iterator[SessionRecord]:
        """Every record, in the order in which they first came; read a few at a time.

        The store may be written meanwhile: a record that changes during the walk is given as it was or as it is.
        A damaged record raises StoreError; with ``on_damaged`` it is told there (None: its address is damaged
        too) and the walk goes on.
        """
        last = -1
        while True:
            with self._guarded("read") as connection:
                rows = connection.execute(
                    f"SELECT rowid, {_COLUMNS} FROM sessions WHERE rowid > ? ORDER BY rowid LIMIT {_PAGE}", (last,)
                ).fetchall()
            for _, *row in rows:
                try:
                    record = self._record(row)
                except StoreError as error:
                    if on_damaged is None:
                        raise
                    on_damaged(_address(row[0]), error)
                    continue
                yield record
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def count(self) -> int:
        """How many records there are, of any state."""
        with self._guarded("read") as connection:
            (count,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
            return int(count)

    def close(self) -> None:
        """Give the file free for another process; closing twice does nothing."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            # failing (disk full), it leaves the log, which is as durable
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with suppress(sqlite3.Error):
                connection.close()
            os.close(self._lock_file)

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _row(self, record: SessionRecord) -> tuple[Any, ...]:
        return (
            record.mn_address.packed,
            record.state.value,
            record.generation.to_bytes(8, "big"),
            record.peer,
            None if record.transfer_id is None else record.transfer_id.to_bytes(8, "big"),
            float(record.updated),
            record.refused_generation.to_bytes(8, "big"),
            record.standby,
            self._key.seal(self._store_id, record),
        )

    def _record(self, row: Sequence[Any]) -> SessionRecord:
        header, sealed = self._header(row)
        return self._key.unseal(self._store_id, header, sealed)

    def _recent_record(self, row: tuple[Any, ...]) -> SessionRecord:
        """The same.  A move asks for its record several times: one whose row is what it was has been opened before."""
        known = self._recent.get(row[0])
        if known is not None and known[0] == row:
            return known[1]
        record = self._record(row)
        self._keep(row, record)
        return record

    def _keep(self, row: tuple[Any, ...], record: SessionRecord) -> None:
        with self._mutex:
            self._recent.pop(row[0], None)
            self._recent[row[0]] = row, record
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]

    def _header(self, row: Sequence[Any]) -> tuple[SessionRecord, bytes]:
        """All but the contexts, not authenticated; and those, sealed.

        Columns may hold anything: another program may have written them.
        """
        address, state, generation, peer, transfer_id, updated, refused_generation, standby, sealed = row
        mn_address = _address(address)
        if mn_address is None:
            raise StoreError(f"{self.path} holds a record whose address is damaged")
        try:
            header = SessionRecord(
                mn_address=mn_address,
                state=SessionState(str(state, "utf-8")),
                generation=_integer(generation),
                peer=str(peer, "utf-8"),
                transfer_id=None if transfer_id is None else _integer(transfer_id),
                updated=updated,
                refused_generation=_integer(refused_generation),
                standby=str(standby, "utf-8"),
            )
            octets = memoryview(sealed).tobytes()
        except (LocalError, TypeError, ValueError):
            raise StoreError(f"the record of {mn_address} is damaged or was changed outside of the store") from None
        return header, octets

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._translated(doing):
            if self._connection is None:
                raise LocalError(f"the store {self.path} is closed")
            yield self._connection

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _store_error(self.path, doing, error) from error


def _address(octets: object) -> IPAddress | None:
    if isinstance(octets, bytes) and len(octets) in (4, 16):
        return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)
    return None


def _integer(octets: object) -> int:
    if not isinstance(octets, bytes) or len(octets) != 8:
        raise ValueError
    return int.from_bytes(octets, "big")


def _store_error(path: Path, doing: str, error: Exception) -> StoreError:
    # sqlite_errorcode came with Python 3.11; SQLITE_FULL's text is fixed
    if "is full" in str(error):
        return StoreFull(
            f"disk full: could not {doing} {path}; make room on its file system, what was stored before is kept"
        )
    if "disk I/O error" in str(error):
        return StoreError(
            f"could not {doing} {path}: disk I/O error; see whether its disk is full, over quota or failing"
        )
    if "not a database" in str(error):
        return StoreError(f"{path} is no store of cxtp's: give another path, or move that file away")
    return StoreError(f"could not {doing} {path}: {error}")


def _lock(target: Path) -> int:
    """Hold ``target``'s lock file; the kernel lets it go when the process ends, however it ends."""
    name = f"{target}.lock"
    try:
        lock_file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{name} can't be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(lock_file, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock_file)
        raise StoreError(
            f"{target} is in use by process {holder} (lock file {name}): a store has one process at a time"
        ) from None
    except OSError as error:
        os.close(lock_file)
        raise _store_error(target, "lock", error) from error
    return lock_file


def _connect(target: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its log the database's mode; made here, no umask can widen it
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(target, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _store_error(target, "open", error) from error
    connection.text_factory = bytes  # a damaged text must not end a walk over the others
    return connection


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        return  # new
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is no store of cxtp's: give another path, or move that file away")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this cxtp knows up to {SCHEMA_VERSION}: use the newer cxtp"
        )


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= SCHEMA_VERSION:
        return
    with _transaction(connection):
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself after some errors
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
