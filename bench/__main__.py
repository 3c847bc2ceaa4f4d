"""``bench/run [--quick] [NAME ...]``: messages contexts keys negotiation transfers."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable

from . import codec, key_derivation
from .harness import Report
from .transfers import transfers


def main() -> None:
    """Run them and print each table as it ends."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    parser.add_argument("--quick", action="store_true", help="little time for each: shows that they run")
    parser.add_argument("--sessions", type=int, help="sessions of the transfer benchmark")
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 1.0
    count = arguments.sessions or (20 if arguments.quick else 2000)
    benchmarks: dict[str, Callable[[], Report]] = {
        "messages": lambda: codec.messages(seconds),
        "contexts": lambda: codec.contexts(seconds),
        "keys": lambda: key_derivation.derivation(seconds),
        "negotiation": lambda: key_derivation.negotiation(seconds),
        "transfers": lambda: transfers(count),
    }
    unknown = set(arguments.names) - set(benchmarks)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.machine()}")
    for name in arguments.names or benchmarks:
        benchmarks[name]().show()


main()
