"""Run the harnesses under atheris: ``python -m fuzz [TARGET...] [--inputs N]`` (with ``tests`` on PYTHONPATH).

Each target is a process of its own with a share of the inputs; what libFuzzer counted is printed.  Exit status 1 where
a target failed: its input is kept, and tests/fuzz/corpus/TARGET/ is the place for it once the fault is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

SHARES = {"message": 40, "context": 20, "icmp": 12, "sctp-notification": 8, "xfrm": 6, "ha-message": 6, "roles": 5,
          "ha-session": 1, "packet": 1, "context-file": 0.5, "capture": 0.5}  # fmt: skip
"""Per cent of the inputs: what is taken from strangers and costs little gets the most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(SHARES)} (default: all)")
    parser.add_argument("--inputs", type=int, default=10_000_000, help="in all targets together (default %(default)s)")
    parser.add_argument("--work", type=Path, default=Path(".soak"), help="directory of the growing corpus")
    if sys.argv[1:2] == ["--child"]:
        return fuzz(sys.argv[2], sys.argv[3:])
    arguments = parser.parse_args()
    targets = arguments.targets or list(SHARES)
    unknown = set(targets) - set(SHARES)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzz: atheris is not installed: pip install 'cxtp[fuzz]'", file=sys.stderr)
        return 3
    total = sum(SHARES[target] for target in targets)
    failed = [t for t in targets if not run(t, round(arguments.inputs * SHARES[t] / total), arguments.work)]
    return 1 if failed else 0


def run(target: str, inputs: int, work: Path) -> bool:
    """One target's process; prints a line, and the failing input's name where there is one."""
    corpus, crashes = work / target, work / "crashes"
    corpus.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    committed = Path(__file__).parent / "corpus" / target
    options = [
        f"-runs={inputs}", "-timeout=5", "-rss_limit_mb=4096", "-print_final_stats=1", "-close_fd_mask=1",
        f"-artifact_prefix={crashes}/{target}-", "-max_len=8192", str(corpus), str(committed),
    ]  # fmt: skip
    if sys.stderr.isatty():
        print(f"{target}: {inputs:,} inputs ...", file=sys.stderr)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--child", target, *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=os.environ,
    )  # fmt: skip
    match = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    executed = int(match[1]) if match else 0
    seconds = time.monotonic() - started
    added = len(list(corpus.iterdir()))
    verdict = "nothing but values and typed errors" if done.returncode == 0 else "FAILED"
    rate = executed / max(seconds, 0.001)
    print(f"{target}: {executed:,} inputs, {seconds:.0f} s, {rate:,.0f}/s, corpus {added}: {verdict}", flush=True)
    if done.returncode != 0:
        print(done.stderr[-4000:], flush=True)
    return done.returncode == 0


def fuzz(target: str, options: list[str]) -> int:
    """In the child: never returns while all is well."""
    import atheris

    with atheris.instrument_imports(include=["cxtp", "contexts", "construct"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
