"""The protocol, broken on purpose: each of these the simulation must find, within so many seeds.

A mutation replaces one function of the product, as a hurried implementer might have written it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from cxtp import admission, node, sessions
from cxtp.errors import LocalError
from cxtp.messages import IPAddress
from cxtp.roles import incoming_transfer, new_router, outgoing_transfer, previous_router
from cxtp.roles.events import ContextsReceived, TransferAborted, TransferUnconfirmed
from cxtp.store import writer
from cxtp.store.records import SessionRecord, SessionState

from .kernel import Kernel


@dataclass(frozen=True)
class Mutation:
    """``replacements`` are (owner, attribute, value); within ``seeds`` seeds of harsh worlds it is to be found."""

    what: str
    seeds: int
    replacements: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        with _patched(self.replacements):
            yield


@contextmanager
def _patched(replacements: tuple[tuple[Any, str, Any], ...]) -> Iterator[None]:
    if not replacements:
        yield
        return
    owner, name, value = replacements[0]
    with mock.patch.object(owner, name, value), _patched(replacements[1:]):
        yield


async def _freeze_on_disk_alone(self: sessions.Sessions, mn_address: IPAddress, peer: str) -> SessionRecord:
    """The kernel goes on sending."""
    async with self._alone(mn_address) as record:
        if record is None or record.state is not SessionState.OWNED:
            raise LocalError("not ours")
        transfer_id = self._random.getrandbits(32)
        generation = record.generation + 1
        frozen = replace(
            record, state=SessionState.FROZEN, generation=generation, peer=peer, transfer_id=transfer_id
        )
        await self._keep(frozen)
        return frozen


async def _freeze_in_the_kernel_alone(self: sessions.Sessions, mn_address: IPAddress, peer: str) -> SessionRecord:
    """The disk goes on saying OWNED: a restart takes it into use again."""
    async with self._alone(mn_address) as record:
        if record is None or record.state is not SessionState.OWNED:
            raise LocalError("not ours")
        stopped = await self._stop(record)
        transfer_id = self._random.getrandbits(32)
        generation = record.generation + 1
        await self._keep(replace(stopped, generation=generation, peer=peer, transfer_id=transfer_id))
        return replace(
            stopped, state=SessionState.FROZEN, generation=generation, peer=peer, transfer_id=transfer_id
        )


def _no_ceiling(self: sessions.Sessions, record: SessionRecord) -> SessionRecord:
    return record


async def _answer_first(self: node.Node, event: ContextsReceived) -> None:
    with suppress(LocalError):
        self.router.new.installed(event.mn_address, event.transfer_id, (), self.clock(), success=True)
    self._pump()
    await self.sessions.receive(event)


async def _put_later(self: writer.StoreWriter, *records: SessionRecord) -> None:
    """Acknowledged before it is on disk."""
    import asyncio

    self._waiting.append((records, asyncio.get_running_loop().create_future()))
    if self._task is None:
        self._task = asyncio.get_running_loop().create_task(self._drain())
    await asyncio.sleep(0)


def _all_is_new(
    held: SessionRecord | None, generation: int | None, transfer_id: int | None, *, predictive: bool
) -> admission.Standing:
    return admission.Standing.NEW


def _thaw_when_unconfirmed(self: node.Node, event: TransferUnconfirmed) -> None:
    """A timer decides: nobody answered, so it must still be ours."""
    record = self.sessions.transferred(event.mn_address, event.transfer_id)
    if record is not None:
        self._spawn(self.sessions.reclaim(record))


async def _release_at_once(self: node.Node, record: SessionRecord, key: bytes) -> None:
    """What was sent has arrived, surely."""
    self._transfer(record, key)
    await self.sessions.release(record)


async def _refuse_from_memory(self: sessions.Sessions, event: TransferAborted) -> admission.Verdict:
    return admission.Verdict(False, sessions.of_all(event.status))


def _any_reply_will_do(
    transfer: outgoing_transfer.OutgoingTransfer, reply: Any, config: Any, require_receipt: bool
) -> outgoing_transfer.Verdict:
    trigger = outgoing_transfer.Trigger.CONFIRM if reply.success else outgoing_transfer.Trigger.REFUSE
    return outgoing_transfer.Verdict(trigger)


async def _stale_is_a_no(self: node.Node, event: Any) -> None:
    record = self.sessions.transferred(event.mn_address, event.transfer_id)
    if record is not None:
        self._doubts.answered(event.mn_address)
        await self.sessions.reclaim(record)


def _forget_answers(self: new_router.NewRouter, answered: Any, peer: Any) -> None:
    return None


_judge: Callable[..., Any] = _any_reply_will_do

MUTATIONS = {
    "forget the freeze in the kernel": Mutation(
        "the previous router's kernel goes on sending", 10, ((sessions.Sessions, "freeze", _freeze_on_disk_alone),)
    ),
    "forget the freeze on disk": Mutation(
        "a restart takes a session into use that was sent", 10,
        ((sessions.Sessions, "freeze", _freeze_in_the_kernel_alone),),
    ),
    "skip the fence": Mutation(
        "after a loss of power the counters on disk are gone on from", 10,
        ((sessions.Sessions, "_ceiling", _no_ceiling), (Kernel, "enforces_ceiling", False)),
    ),
    "answer before storing": Mutation(
        "S=1 is sent, then the record is written", 10, ((node.Node, "_admit", _answer_first),)
    ),
    "acknowledge commits early": Mutation(
        "the store's writer does not wait for the disk", 10, ((writer.StoreWriter, "put", _put_later),)
    ),
    "drop the duplicate check": Mutation(
        "whatever comes is new", 40,
        ((admission, "stand", _all_is_new), (new_router.NewRouter, "_recorded", _forget_answers)),
    ),
    "thaw on a timer": Mutation(
        "an unconfirmed transfer is taken back", 10, ((node.Node, "_unconfirmed", _thaw_when_unconfirmed),)
    ),
    "release without an answer": Mutation(
        "contexts are forgotten once they are sent", 10, ((node.Node, "_send", _release_at_once),)
    ),
    "refuse from memory": Mutation(
        "S=0 is sent of a transfer that may still be taken after a restart", 250,
        ((sessions.Sessions, "refuse", _refuse_from_memory),),
    ),
    "believe any reply": Mutation(
        "a CTDR's receipt is not looked at", 80, ((previous_router, "judge_reply", _judge),)
    ),
    "answer from a record that is not yet true": Mutation(
        "a repetition is told S=1 while the kernel may still refuse", 80,
        ((incoming_transfer.IncomingTransfer, "waits_for_node", lambda self, peer, identity: False),),
    ),
    "take stale for a no": Mutation(
        "a router that knows a later owner gives the session back", 80, ((node.Node, "_refused", _stale_is_a_no),)
    ),
}
