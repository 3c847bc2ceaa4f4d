"""The SQLite store: as a dict that lasts, and everything that can be wrong with its file."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxtp.errors import LocalError, StaleGeneration, StoreError
from cxtp.messages import EncodedContext
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import APPLICATION_ID, RECENT, SCHEMA_VERSION, SqliteStore

KEY = StoreKey(bytes(range(32)))
ADDRESSES = [ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "::ffff:192.0.2.1", "::")]


def make(number: int = 0, generation: int = 1, data: bytes = b"key", **changes: object) -> SessionRecord:
    record = SessionRecord(
        mn_address=IPv4Address(0xC000_0200 + number),
        state=SessionState.OWNED,
        generation=generation,
        contexts=(EncodedContext(0xFF01, data), EncodedContext(0xFF02, data + b"2", 1)),
        updated=1000.0 + number,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore.open(path, KEY) as store:
        yield store


def edit(path: Path, *statements: str) -> None:
    """What another program does to a store that is closed."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


# --- as a dict that lasts ------------------------------------------------------------------------------------------


def test_put_get_delete(store: SqliteStore) -> None:
    record = make(peer="gw-b", transfer_id=(1 << 64) - 1, generation=(1 << 64) - 1)
    assert store.get(record.mn_address) is None
    store.put(record)
    assert store.get(record.mn_address) == record
    assert store.count() == 1
    assert store.delete_many([record.mn_address, IPv4Address("198.51.100.1")]) == 1
    assert store.get(record.mn_address) is None
    assert store.count() == 0


def test_an_ipv4_address_is_not_its_ipv6_twin(store: SqliteStore) -> None:
    store.put(make())
    assert store.get(IPv6Address("::ffff:192.0.2.0")) is None


def test_everything_is_there_after_closing(path: Path) -> None:
    records = [make(n, data=bytes([n])) for n in range(5)]
    with SqliteStore.open(path, KEY) as store:
        store.put_many(records)
    with SqliteStore.open(path, KEY) as store:
        assert list(store.records()) == records


_updates = st.builds(
    SessionRecord,
    mn_address=st.sampled_from(ADDRESSES),
    state=st.sampled_from(SessionState),
    generation=st.sampled_from([0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
    contexts=st.lists(st.builds(EncodedContext, st.integers(0, 0xFFFF), st.binary(max_size=9)), max_size=2).map(tuple),
    peer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    transfer_id=st.none() | st.integers(0, (1 << 64) - 1),
    updated=st.floats(0, 1e15) | st.integers(0, 1 << 40).map(float),
)
_steps = st.one_of(
    st.lists(_updates, max_size=4).map(lambda records: ("put", records)),
    st.lists(st.sampled_from(ADDRESSES), max_size=3).map(lambda addresses: ("delete", addresses)),
    st.just(("reopen", [])),
)


def put_in_model(
    model: dict[object, SessionRecord], records: list[SessionRecord]
) -> dict[object, SessionRecord] | None:
    """The model with the records, None where one is stale."""
    changed = dict(model)
    for record in records:
        if record.mn_address in changed and record.generation < changed[record.mn_address].generation:
            return None
        changed[record.mn_address] = record
    return changed


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(_steps, max_size=8))
def test_behaves_as_a_dict_that_refuses_stale_records(steps: list[tuple[str, list]]) -> None:
    model: dict[object, SessionRecord] = {}
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore.open(Path(directory, "db"), KEY)
        for step, arguments in steps:
            if step == "put":
                changed = put_in_model(model, arguments)
                if changed is None:
                    with pytest.raises(StaleGeneration):
                        store.put_many(arguments)
                else:
                    store.put_many(arguments)
                    model = changed
            elif step == "delete":
                assert store.delete_many(arguments) == len({a for a in arguments if model.pop(a, None)})
            else:
                store.close()
                store = SqliteStore.open(Path(directory, "db"), KEY)
            assert {record.mn_address: record for record in store.records()} == model
            assert store.count() == len(model)
            assert [store.get(address) for address in ADDRESSES] == [model.get(address) for address in ADDRESSES]
        store.close()


def test_a_stale_record_undoes_its_whole_transaction(store: SqliteStore) -> None:
    store.put_many([make(1, generation=5), make(2, generation=5)])
    with pytest.raises(StaleGeneration) as caught:
        store.put_many([make(1, generation=6), make(3), make(2, generation=4)])
    assert (caught.value.mn_address, caught.value.stored, caught.value.offered) == (IPv4Address("192.0.2.2"), 5, 4)
    assert sorted(record.generation for record in store.records()) == [5, 5]
    store.put(make(2, generation=5, state=SessionState.RELEASED))  # an equal generation replaces
    found = store.get(IPv4Address("192.0.2.2"))
    assert found is not None
    assert found.state is SessionState.RELEASED


def test_a_walk_goes_on_while_the_store_is_written(store: SqliteStore) -> None:
    store.put_many(make(n) for n in range(700))
    seen = []
    for record in store.records():
        seen.append(record.mn_address)
        store.delete_many([record.mn_address])
    assert seen == [make(n).mn_address for n in range(700)]
    assert store.count() == 0


def test_threads_may_share_a_store(store: SqliteStore) -> None:
    def work(thread: int) -> None:
        for number in range(20):
            store.put(make(thread * 20 + number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 80


def test_after_close(path: Path) -> None:
    store = SqliteStore.open(path, KEY)
    store.close()
    store.close()
    for call in (store.count, lambda: store.put(make()), lambda: next(store.records())):
        with pytest.raises(LocalError, match="closed"):
            call()


def test_commits_are_synced(store: SqliteStore) -> None:
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
    assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)


# --- the files -----------------------------------------------------------------------------------------------------


def test_no_key_is_in_any_file(tmp_path: Path) -> None:
    secret = bytes(range(128, 192)) + b"SK_d, SK_ai"
    path = tmp_path / "db"
    store = SqliteStore.open(path, KEY)
    store.put_many(make(n, data=secret, peer="gateway-in-the-clear") for n in range(50))

    def contents() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    opened = contents()
    store.delete_many([make(0).mn_address])
    store.close()
    closed = contents()
    assert {"db", "db-wal", "db.lock"} == set(opened)
    assert b"gateway-in-the-clear" in opened["db-wal"]  # the records are really in these files
    assert b"gateway-in-the-clear" in closed["db"]
    for octets in (*opened.values(), *closed.values()):
        for start in range(len(secret) - 8):
            assert secret[start : start + 8] not in octets
        assert KEY.octets[:8] not in octets


def test_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with SqliteStore.open(path, KEY) as store:
            store.put(make())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db.lock": 0o600}


def test_wrong_key(path: Path) -> None:
    SqliteStore.open(path, KEY).close()
    with pytest.raises(StoreError, match="another key") as caught:
        SqliteStore.open(path, StoreKey(bytes(32)))
    assert KEY.octets.hex() not in str(caught.value)
    SqliteStore.open(path, KEY).close()  # and the lock is free again


def test_second_opener_in_this_process(path: Path, store: SqliteStore) -> None:
    link = path.parent / "other-name.db"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StoreError, match=f"{path} is in use by process {os.getpid()} .*{path}.lock"):
            SqliteStore.open(name, KEY)
    store.put(make())  # the first one is not harmed


def test_second_opener_in_another_process(path: Path, store: SqliteStore) -> None:
    program = (
        "import sys; from cxtp.errors import StoreError; from cxtp.store.sealing import StoreKey\n"
        "from cxtp.store.sqlite import SqliteStore\n"
        "try: SqliteStore.open(sys.argv[1], StoreKey(bytes(range(32))))\n"
        "except StoreError as error: print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    assert f"in use by process {os.getpid()}" in output
    assert f"{path}.lock" in output


def test_another_program_can_not_write_an_open_store(path: Path, store: SqliteStore) -> None:
    other = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("DELETE FROM sessions")
    other.close()
    store.put(make())


def test_newer_schema(path: Path) -> None:
    SqliteStore.open(path, KEY).close()
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION + 1}"):
        SqliteStore.open(path, KEY)


def test_a_store_of_schema_1_is_migrated(path: Path) -> None:
    record = make()
    with SqliteStore.open(path, KEY) as store:
        store.put(record)
    columns = ("refused_generation", "standby")  # schemas 2 and 3
    edit(path, *(f"ALTER TABLE sessions DROP COLUMN {name}" for name in columns), "PRAGMA user_version = 1")
    with SqliteStore.open(path, KEY) as store:
        assert store.get(record.mn_address) == record
        refused = replace(record, refused_generation=1 << 63, standby="b")
        store.put(refused)
        assert store.get(record.mn_address) == refused
    edit(path, "UPDATE sessions SET standby = ''")
    with SqliteStore.open(path, KEY) as store, pytest.raises(StoreError, match="changed outside"):
        store.get(record.mn_address)
    edit(path, "UPDATE sessions SET standby = 'b'")
    edit(path, "UPDATE sessions SET refused_generation = x'0000000000000000'")
    with SqliteStore.open(path, KEY) as store, pytest.raises(StoreError, match="changed outside"):
        store.get(record.mn_address)


def test_the_file_says_what_it_is(path: Path) -> None:
    SqliteStore.open(path, KEY).close()
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[60:64], "big") == SCHEMA_VERSION  # SQLite's file format, 1.3: user version
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID  # application id


def test_files_that_are_no_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    foreign = tmp_path / "foreign.db"
    edit(foreign, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")
    before = foreign.read_bytes()
    for file in (text, foreign):
        with pytest.raises(StoreError, match="no store of cxtp"):
            SqliteStore.open(file, KEY)
    assert foreign.read_bytes() == before
    for name in (tmp_path, tmp_path / "no" / "directory" / "db"):
        with pytest.raises(StoreError):
            SqliteStore.open(name, KEY)


# --- rows that another program changed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "state = 'released'",
        "state = 'nonsense'",
        "state = 5",
        "state = CAST(x'ff' AS TEXT)",
        "generation = x'0000000000000002'",
        "generation = 2",
        "generation = x'01'",
        "peer = 'gw-x'",
        "peer = x'00'",
        "transfer_id = x'0000000000000000'",
        "transfer_id = 'text'",
        "updated = 1.0",
        "updated = 'soon'",
        "updated = -1.0",
        "sealed = x''",
        "sealed = 7",
        "sealed = 'text'",
        "sealed = zeroblob(28)",
        "sealed = substr(sealed, 1, length(sealed) - 1)",
        "mn_address = x'C0000263'",
        "mn_address = x'20010DB8000000000000000000000001'",
    ],
)
def test_a_changed_row_is_noticed_and_the_others_are_read(path: Path, change: str) -> None:
    with SqliteStore.open(path, KEY) as store:
        store.put_many([make(1), make(2), make(3)])
    edit(path, f"UPDATE sessions SET {change} WHERE mn_address = x'C0000202'")
    with SqliteStore.open(path, KEY) as store:
        with pytest.raises(StoreError, match="damaged"):
            list(store.records())
        damaged: list[object] = []
        kept = list(store.records(on_damaged=lambda address, error: damaged.append((address, type(error)))))
        assert kept == [make(1), make(3)]
        [(address, kind)] = damaged
        assert kind is StoreError
        with pytest.raises(StoreError, match=str(address)):
            store.get(address)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["x'0102'", "'a text'", "5", "NULL"])
def test_a_row_with_no_address(path: Path, address: str) -> None:
    with SqliteStore.open(path, KEY) as store:
        store.put_many([make(1), make(2)])
    edit(path, f"UPDATE sessions SET mn_address = {address} WHERE mn_address = x'C0000201'")
    with SqliteStore.open(path, KEY) as store:
        damaged: list[object] = []
        assert list(store.records(on_damaged=lambda address, error: damaged.append(address))) == [make(2)]
        assert damaged == [None]


@pytest.mark.parametrize("columns", ["sealed", "state, generation, peer, transfer_id, updated, sealed"])
def test_swapped_rows_are_noticed(path: Path, columns: str) -> None:
    with SqliteStore.open(path, KEY) as store:
        store.put_many([make(1, data=b"first"), make(2, data=b"second")])
    edit(
        path,
        "CREATE TEMP TABLE old AS SELECT * FROM sessions",
        f"UPDATE sessions SET ({columns}) = (SELECT {columns} FROM old WHERE old.mn_address != sessions.mn_address)",
    )
    with SqliteStore.open(path, KEY) as store:
        for number in (1, 2):
            with pytest.raises(StoreError, match="changed outside"):
                store.get(make(number).mn_address)


def test_a_row_of_another_store_is_noticed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with SqliteStore.open(tmp_path / name, KEY) as store:
            store.put(make())
    edit(
        tmp_path / "a",
        f"ATTACH '{tmp_path / 'b'}' AS b",
        "UPDATE sessions SET sealed = (SELECT sealed FROM b.sessions)",
    )
    with SqliteStore.open(tmp_path / "a", KEY) as store, pytest.raises(StoreError, match="changed outside"):
        store.get(make().mn_address)


@pytest.mark.parametrize("column", ["state = 'owned'", "generation = x'0000000000000009'", "peer = 'gw-z'"])
def test_what_was_opened_before_is_believed_only_while_its_row_is_the_same(store: SqliteStore, column: str) -> None:
    store.put(make(state=SessionState.FROZEN, peer="gw-b"))
    address = make().mn_address
    assert store.get(address) == store.get(address) == make(state=SessionState.FROZEN, peer="gw-b")
    connection = store._connection
    assert connection is not None
    connection.execute(f"UPDATE sessions SET {column}")
    with pytest.raises(StoreError, match="damaged or was changed"):
        store.get(address)
    store.delete_many([address])
    assert store.get(address) is None


def test_few_records_stay_opened(store: SqliteStore) -> None:
    records = [make(number) for number in range(RECENT + 10)]
    store.put_many(records)
    assert len(store._recent) == RECENT
    assert all(store.get(record.mn_address) == record for record in records)
    store.delete_many(record.mn_address for record in records)
    assert not store._recent
