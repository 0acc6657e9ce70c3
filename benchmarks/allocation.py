"""How long allocation takes: against a numpy argsort of the same segments, and as the number of requests grows.

``python -m benchmarks.allocation [--json F] [--plot F.svg]``. Medians over interleaved rounds in one process.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exporters.experiments.table import save
from scheduler_service.allocation import POLICIES, Curve, Problem, make_plan
from scheduler_service.allocation.envelope import envelope_segments
from scheduler_service.allocation.price import DualPrice

WINDOWS, WIDTH = 16, 16
POINTS = np.arange(WIDTH, WINDOWS * WIDTH + 1, WIDTH)
SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 7


def curves(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Curves like measured ones: a rise somewhere, noise, a height (n, 16)."""
    rng = np.random.default_rng(seed)
    middle, height = rng.uniform(0, 14, (count, 1)), rng.uniform(0.2, 1.0, (count, 1))
    rise = height / (1 + np.exp(-(np.arange(1, WINDOWS + 1)[None, :] - middle) * 0.8))
    found: NDArray[np.float64] = np.clip(rise + rng.normal(0, 0.01, (count, WINDOWS)), 0, 1)
    return found


def problem(count: int) -> Problem:
    """``count`` queries, 64 tokens each on average."""
    return Problem(POINTS, curves(count), np.full(count, 16), np.full(count, 256), 64 * count)


def seconds(*works: Callable[[], object], rounds: int = ROUNDS, inner: int = 1) -> list[float]:
    """Median time of each work; the works take turns, so that a slow phase of the machine slows all of them."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for at, work in enumerate(works):
            started = time.perf_counter()
            for _ in range(inner):
                work()
            taken[at].append((time.perf_counter() - started) / inner)
    return [statistics.median(times) for times in taken]


def against_argsort(count: int = 100_000) -> dict[str, float]:
    """The envelope on ``count`` queries beside a numpy argsort of its segments plus one pass over the curves."""
    whole = problem(count)
    slopes = np.random.default_rng(0).permutation(envelope_segments(whole).slope)

    def baseline() -> None:
        np.argsort(-slopes, kind="stable")
        np.diff(whole.accuracy, axis=1).max()

    ours, theirs = seconds(lambda: POLICIES["envelope"].allocate(whole), baseline)
    tracemalloc.start()
    POLICIES["envelope"].allocate(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "queries": count,
        "segments": len(slopes),
        "envelope_seconds": ours,
        "argsort_and_pass_seconds": theirs,
        "ratio": ours / theirs,
        "peak_bytes_a_query": peak / count,
    }


def small() -> dict[str, float]:
    """Microseconds of a window of 32, as allocated and as planned with guard and savings, and of a priced request."""
    window, known = problem(32), np.ones(32, dtype=bool)
    policy = POLICIES["envelope"]
    allocate, plan = seconds(lambda: policy.allocate(window), lambda: make_plan(policy, window, known), inner=200)
    rows = [Curve(tuple(POINTS.tolist()), tuple(row)) for row in curves(5_000).tolist()]

    def stream() -> None:
        pricing, balance = DualPrice(), 0.0
        for row in rows:
            balance += 64 - pricing.decide(row, 16, 256, 64.0, balance, max(0.0, balance + 48 + 640))

    (priced,) = seconds(stream)
    return {
        "window_of_32_allocate_us": 1e6 * allocate,
        "window_of_32_plan_us": 1e6 * plan,
        "priced_request_us": 1e6 * priced / len(rows),
    }


def growth() -> list[dict[str, float]]:
    """Seconds of each policy against the number of queries."""
    found = []
    for count in SIZES:
        whole = problem(count)
        rounds = ROUNDS if count <= 10_000 else 3
        envelope, uniform = seconds(
            partial(POLICIES["envelope"].allocate, whole),
            partial(POLICIES["uniform"].allocate, whole),
            rounds=rounds,
        )
        entry = {"queries": float(count), "envelope": envelope, "uniform": uniform}
        if count <= 10_000:
            (entry["greedy"],) = seconds(partial(POLICIES["greedy"].allocate, whole), rounds=3)
        if count <= 100:
            (entry["exact"],) = seconds(partial(POLICIES["exact"].allocate, whole), rounds=3)
        found.append(entry)
    return found


def growth_figure(found: list[dict[str, float]]) -> Figure:
    """Time against queries, both logarithmic."""
    drawing = Figure(figsize=(7, 3.6))
    axis = drawing.subplots()
    for name in ("envelope", "greedy", "exact", "uniform"):
        points = [(entry["queries"], entry[name]) for entry in found if name in entry]
        axis.loglog(*zip(*points, strict=True), "o-", markersize=3, label=name)
    axis.set_xlabel("queries")
    axis.set_ylabel("seconds")
    axis.legend(frameon=False)
    return drawing


def main(
    json_out: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the plot of time against queries goes, an .svg.")] = None,
) -> None:
    """Measure allocation."""
    grown = growth()
    found = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
        "against_argsort": against_argsort(),
        "small": small(),
        "growth": grown,
    }
    typer.echo(json.dumps(found, indent=1))
    if json_out is not None:
        json_out.write_text(json.dumps(found, indent=1) + "\n")
    if plot is not None:
        save(growth_figure(grown), plot)


if __name__ == "__main__":
    typer.run(main)
