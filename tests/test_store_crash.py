"""kill -9 in the midst of a stream of puts: all that was acknowledged is there, nothing is half there."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore

# Batch n writes all its sessions with generation n, then says so.  A context's octets follow from (session,
# generation), so that the parent knows what must be there.
WRITER = """
import hashlib, os, sys
from ipaddress import IPv4Address
from cxtp.messages import EncodedContext
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore

path, first, sessions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = SqliteStore.open(path, StoreKey(bytes(32)))
for generation in range(first, 1 << 32):
    store.put_many(
        SessionRecord(
            mn_address=IPv4Address(n), state=SessionState.FROZEN, generation=generation, updated=float(generation),
            contexts=(EncodedContext(0xFF01, hashlib.sha512(b"%d %d" % (n, generation)).digest() * (1 + n)),),
        )
        for n in range(sessions)
    )
    os.write(1, b"%d\\n" % generation)
"""


def check(path: Path, sessions: int, acknowledged: int) -> int:
    """The generation that all sessions have: the last acknowledged one, or the one that was under way."""
    with SqliteStore.open(path, StoreKey(bytes(32))) as store:
        records = {int(record.mn_address): record for record in store.records()}
    assert set(records) == set(range(sessions))
    [generation] = {record.generation for record in records.values()}
    assert generation in (acknowledged, acknowledged + 1)
    for n, record in records.items():
        assert record.updated == generation
        assert record.contexts[0].data == hashlib.sha512(b"%d %d" % (n, generation)).digest() * (1 + n)
    return generation


@pytest.mark.parametrize("seed", range(10))
def test_killed_in_the_midst_of_puts(tmp_path: Path, seed: int) -> None:
    choices = random.Random(seed)
    path, sessions, generation = tmp_path / "db", choices.randint(1, 40), 0
    for _ in range(2):  # the second time over what the first one left
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(generation + 1), str(sessions)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout is not None
        for _ in range(choices.randint(1, 60)):
            last = writer.stdout.readline()
            assert last
        time.sleep(choices.uniform(0, 0.02))  # an acknowledgement alone always meets the writer at the same point
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()  # acknowledged before the signal came
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        generation = check(path, sessions, int(rest[-1] if rest else last))


def test_killed_while_it_holds_the_lock_leaves_a_store_that_opens(tmp_path: Path) -> None:
    program = (
        "import os, sys; from cxtp.store.sealing import StoreKey; from cxtp.store.sqlite import SqliteStore\n"
        "store = SqliteStore.open(sys.argv[1], StoreKey(bytes(32))); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "db"]).returncode == -signal.SIGKILL
    with SqliteStore.open(tmp_path / "db", StoreKey(bytes(32))) as store:
        assert store.get(IPv4Address("192.0.2.1")) is None
