"""No room: a clear error, nothing half written, and a store that goes on once there is room again.

Three ways to have no room: SQLite's own page limit, a limit on the file's size (the kernel refuses the write),
and a file system that is full, in a mount namespace of its own where the machine lets us have one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cxtp.errors import StoreFull
from cxtp.messages import EncodedContext
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore

KEY = StoreKey(bytes(32))


def make(number: int, octets: int = 4000) -> SessionRecord:
    return SessionRecord(
        mn_address=IPv4Address(number),
        state=SessionState.OWNED,
        generation=1,
        contexts=(EncodedContext(0xFF01, bytes([number & 0xFF]) * octets),),
        updated=1.0,
    )


def test_database_at_its_page_limit(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "db", KEY) as store:
        connection = store._connection
        assert connection is not None
        store.put_many(make(n) for n in range(10))
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFull, match=r"disk full: could not write .*; make room"):
            store.put_many(make(n) for n in range(10, 20))
        assert list(store.records()) == [make(n) for n in range(10)]
        store.put(make(3))  # what needs no room can still be written
        assert store.delete_many([IPv4Address(0)]) == 1
        connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        store.put_many(make(n) for n in range(10, 20))
        assert store.count() == 19


# Fills the store, checks that it goes on reading, makes room in the way that argv[2] tells, checks that it goes on
# writing; the parent then opens what is left.
FILLER = """
import os, resource, sys
sys.path[:0] = sys.argv[4].split(os.pathsep)
from cxtp.errors import StoreError, StoreFull
from test_store_full import KEY, make
from cxtp.store.sqlite import SqliteStore

path, way, expected = sys.argv[1], sys.argv[2], int(sys.argv[3])
directory = os.path.dirname(path)
ballast = os.path.join(directory, "ballast")
if way == "disk":
    with open(ballast, "wb") as file:
        file.write(bytes(200_000))
store = SqliteStore.open(path, KEY)
if way == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
stored = 0
try:
    while stored < 10_000:
        store.put_many([make(stored), make(stored + 1)])
        stored += 2
    sys.exit("never full")
except StoreError as error:
    text = str(error)
    if way == "disk":
        assert isinstance(error, StoreFull), error
    assert "disk" in text and "full" in text and path in text, text
for _ in range(3):
    try:
        store.put_many([make(20_000, 200_000), make(20_001, 200_000)])
        sys.exit("there was room")
    except StoreError:
        pass
assert stored >= expected, stored
assert list(store.records()) == [make(n) for n in range(stored)]
if way == "disk":
    os.unlink(ballast)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
store.put_many([make(stored), make(stored + 1)])
assert list(store.records()) == [make(n) for n in range(stored + 2)]
store.close()
with SqliteStore.open(path, KEY) as store:
    assert list(store.records()) == [make(n) for n in range(stored + 2)]
print("held", stored + 2)
"""


def fill(command: list[str], path: Path, way: str) -> int:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    program = [sys.executable, "-c", FILLER, str(path), way, "10", paths]
    done = subprocess.run([*command, *program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    word, count = done.stdout.split()
    assert word == "held"
    return int(count)


def test_file_at_its_size_limit(tmp_path: Path) -> None:
    held = fill([], tmp_path / "db", "limit")
    with SqliteStore.open(tmp_path / "db", KEY) as store:
        assert list(store.records()) == [make(n) for n in range(held)]


@lru_cache(maxsize=1)
def unshare() -> tuple[str, ...]:
    """The command that gives a process mounts of its own, empty where the machine does not let us."""
    if shutil.which("unshare") is None:
        return ()
    for command in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
        probe = [*command, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return command
    return ()


def test_file_system_that_is_full(tmp_path: Path) -> None:
    if not unshare():
        pytest.skip("this machine allows no mount (the file size limit above is the real case then)")
    mounted = f'mount -t tmpfs -o size=800k none "{tmp_path}" && exec "$@"'
    assert fill([*unshare(), "sh", "-c", mounted, "sh"], tmp_path / "db", "disk") >= 12
    assert os.listdir(tmp_path) == []  # it really was another file system
