"""strongSwan with ESP of its own (kernel-libipsec): nobody can read or set its sequence numbers.

The IKE_SA moves as ever.  The CHILD_SA's keys may not be used with numbers that start again, so that its traffic waits
until it is rekeyed, and the old keys send nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.gateways import numbers_on_the_wire
from kernel.network import Network
from kernel.strongswan import PLUGINS, Bed, require_strongswan
from kernel.strongswan_kinds import KINDS
from kernel.strongswan_nodes import nodes, until
from kernel.test_strongswan_gateway import agree, child_spis, spis

KIND = KINDS["nat"]  # it encapsulates in UDP alone


@pytest.fixture(scope="module")
def made() -> Iterator[Bed]:
    require_strongswan()
    network = Network("client", "a", "b")
    bed = Bed(network, [KIND], ("a", "b"), "delete_rekeyed_delay = 1\n    retransmit_timeout = 1")
    for gateway in bed.gateways.values():
        gateway._plugins = PLUGINS.replace("kernel-netlink", "kernel-libipsec kernel-netlink") + " ha"
    try:
        bed.start()
        yield bed
    finally:
        bed.close()
        network.close()


def test_a_session_is_rekeyed_where_its_numbers_can_not_be_set(made: Bed, tmp_path: Path) -> None:
    client = made.client

    async def main() -> None:
        async with nodes(made, tmp_path) as hosts:
            await asyncio.to_thread(client.initiate, KIND.child())
            await hosts.learned("a", KIND)
            made.echo(KIND, "a", count=5)
            ike_sa, old = spis(client, KIND), child_spis(client, KIND)
            (row,) = await hosts.rows("a", KIND)
            assert row["sent"] is None  # nobody knows
            with made.network.capture("client", tmp_path / "wire.pcap") as capture:
                await hosts.move(KIND, "a", "b")
                await until(lambda: child_spis(client, KIND).isdisjoint(old), "it is rekeyed")
                await agree(client, made.gateways["b"], KIND, 1)

                def passes() -> bool:
                    try:
                        made.echo(KIND, "b", count=1)
                    except (TimeoutError, OSError):
                        return False
                    return True

                await until(passes, "its traffic goes on")
                made.echo(KIND, "b", count=5)
            assert spis(client, KIND) == ike_sa
            # Under the old keys the new gateway sent nothing.
            ((inbound, _),) = old
            assert int(inbound, 16) not in numbers_on_the_wire(capture)
            await until(lambda: hosts.rows("b", KIND), "it is on record")
            assert hosts.replayed() == {}

    asyncio.run(main())
