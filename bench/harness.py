"""Times things against each other in one run: A B C A B C ..., so that a machine that drifts drifts for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """One benchmark's rows: a name, microseconds (median, minimum, maximum), and the ratio to its floor."""

    title: str
    rows: list[tuple[str, float, float, float, float | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, name: str, variants: Mapping[str, Callable[[], object]], *, floor: str, seconds: float) -> None:
        """Measure the variants in turn for about ``seconds`` and keep their ratios to the one named ``floor``."""
        times = interleaved(variants, seconds)
        base = statistics.median(times[floor])
        for variant, values in times.items():
            median = statistics.median(values)
            ratio = None if variant == floor else median / base
            self.rows.append((f"{name}, {variant}", median * 1e6, min(values) * 1e6, max(values) * 1e6, ratio))

    def plain(self) -> dict[str, Any]:
        """For JSON: each row's name, microseconds and ratio (None: the floor itself)."""
        names = ("name", "median", "minimum", "maximum", "ratio")
        return {
            "title": self.title,
            "rows": [dict(zip(names, row, strict=True)) for row in self.rows],
            "notes": self.notes,
        }

    def show(self) -> None:
        """A table on standard output."""
        print(f"\n{self.title}")
        width = max((len(row[0]) for row in self.rows), default=0)
        if self.rows:
            print(f"  {'':{width}}  {'median us':>10}  {'min':>10}  {'max':>10}  ratio to floor")
        for name, median, low, high, ratio in self.rows:
            shown = "floor" if ratio is None else f"{ratio:.1f}"
            print(f"  {name:{width}}  {median:10.1f}  {low:10.1f}  {high:10.1f}  {shown}")
        for note in self.notes:
            print(f"  {note}")


def interleaved(variants: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each variant, several samples each, taken in turn."""
    counts = {}
    for name, call in variants.items():
        call()  # warm
        started = time.perf_counter()
        call()
        once = max(time.perf_counter() - started, 1e-7)
        counts[name] = max(1, int(0.02 / once))
    times: dict[str, list[float]] = {name: [] for name in variants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(variants))]) < 3:
        for name, call in variants.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                call()
            times[name].append((time.perf_counter() - started) / counts[name])
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
