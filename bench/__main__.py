"""``bench/run [--quick] [--json] [NAME ...]``: README.md has the names."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable

from . import codec, key_derivation
from .gateways import gateways
from .harness import Report
from .memory import memory
from .strongswan import COUNTS, strongswan
from .transfers import transfers


def main() -> None:
    """Run them and print each table as it ends."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    parser.add_argument("--quick", action="store_true", help="little time for each: shows that they run")
    parser.add_argument("--json", action="store_true", help="one object on standard output, times in microseconds")
    parser.add_argument("--sessions", type=int, help="sessions of the transfer and memory benchmarks")
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 1.0
    count = arguments.sessions or (20 if arguments.quick else 2000)
    benchmarks: dict[str, Callable[[], Report]] = {
        "messages": lambda: codec.messages(seconds),
        "contexts": lambda: codec.contexts(seconds),
        "keys": lambda: key_derivation.derivation(seconds),
        "negotiation": lambda: key_derivation.negotiation(seconds),
        "transfers": lambda: transfers(count),
        "memory": lambda: memory(count),
        "gateways": lambda: gateways(min(count, 500)),
        "strongswan": lambda: strongswan((count,) if arguments.sessions or arguments.quick else COUNTS),
    }
    unknown = set(arguments.names) - set(benchmarks)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}")
    machine = f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.machine()}"
    if arguments.json:
        results = {name: benchmarks[name]().plain() for name in arguments.names or benchmarks}
        print(json.dumps({"machine": machine, "benchmarks": results}, indent=1))
        return
    print(machine)
    for name in arguments.names or benchmarks:
        benchmarks[name]().show()


main()
