"""The simulator's sweeps and their page: gain against window size and arrival rate, the price and what it spends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from exporters.measure.curves import Curves
from exporters.replay.evaluate import Predicted
from exporters.replay.html_page import BLUE, GREEN, GREY, figure, page, table
from exporters.replay.simulation import Result, Scenario, Traffic, ask, poisson, simulate

WINDOW_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RATES = (0.5, 2.0, 10.0, 50.0, 250.0, 1000.0)
_SWEEP_REQUESTS = 3000


def write_report(path: Path, predicted: Predicted, measured: Curves, scenario: Scenario, result: Result) -> None:
    """Write the page of a simulation, its sweeps included."""
    by_size, price = by_window_size(predicted, measured, scenario)
    by_rate = by_arrival_rate(predicted, measured, scenario)
    headline = (
        f"<p class=big>{result.requests:,} requests: {100 * result.gain:+.1f} points over uniform, "
        f"{result.used_tokens_per_query:.1f} tokens used a query ({result.spend:.1%} of what was granted), wait "
        f"{1000 * result.mean_wait:.1f} ms, p99 {1000 * result.p99_wait:.1f} ms.</p>"
    )
    parts = [
        f"<h1>Simulation: {scenario.policy}, {scenario.tokens_per_query} tokens a query</h1>",
        headline,
        figure(_sizes(by_size, price), "Gain against the size of windows that always fill; the price needs none."),
        figure(_rates(by_rate), "Gain and wait against the arrival rate: windows closed by age, and the price."),
        figure(_spending(result), "What was used a query so far, and the price, over time."),
        table(
            ["window size", "envelope, points", "price, points"],
            [[str(size), f"{100 * gain:+.1f}", f"{100 * price:+.1f}"] for size, gain in by_size],
        ),
        table(
            ["requests a second", "envelope, points", "its window", "its mean wait, ms", "price, points"],
            [
                [f"{rate:g}", f"{100 * window.gain:+.1f}", f"{window.mean_window:.1f}",
                 f"{1000 * window.mean_wait:.1f}", f"{100 * priced.gain:+.1f}"]
                for rate, window, priced in by_rate
            ],
        ),
    ]  # fmt: skip
    path.write_text(page("Simulation", parts))


def by_window_size(predicted: Predicted, measured: Curves, scenario: Scenario) -> tuple[list[tuple[int, float]], float]:
    """Gain of the envelope over full windows of each size, and of the price."""
    traffic = _traffic(measured, 100.0)
    base = replace(scenario, policy="envelope", adaptive=False, window_seconds=1e9, bank_requests=0.0, replicas=1)
    found = [
        (size, simulate(predicted, measured, traffic, replace(base, window_size=size)).gain) for size in WINDOW_SIZES
    ]
    return found, simulate(predicted, measured, traffic, replace(scenario, policy="price", replicas=1)).gain


def by_arrival_rate(predicted: Predicted, measured: Curves, scenario: Scenario) -> list[tuple[float, Result, Result]]:
    """The envelope's windows as set, and the price, at each arrival rate."""
    found = []
    for rate in RATES:
        traffic = _traffic(measured, rate)
        window, priced = (
            simulate(predicted, measured, traffic, replace(scenario, policy=policy)) for policy in ("envelope", "price")
        )
        found.append((rate, window, priced))
    return found


def _traffic(measured: Curves, rate: float) -> Traffic:
    rng = np.random.default_rng(0)
    return Traffic(poisson(_SWEEP_REQUESTS, rate, rng), ask(measured.accuracy, _SWEEP_REQUESTS, "shuffled", rng))


def _sizes(found: list[tuple[int, float]], price: float) -> Figure:
    drawing = Figure(figsize=(8, 3.2))
    axis = drawing.subplots()
    axis.plot([size for size, _ in found], [100 * gain for _, gain in found], "o-", color=BLUE, label="envelope")
    axis.axhline(100 * price, color=GREEN, label="price")
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("requests a window")
    axis.set_ylabel("points over uniform")
    axis.legend(frameon=False)
    return drawing


def _rates(found: list[tuple[float, Result, Result]]) -> Figure:
    drawing = Figure(figsize=(8, 3.2))
    gain, wait = drawing.subplots(1, 2)
    rates = [rate for rate, _, _ in found]
    gain.plot(rates, [100 * window.gain for _, window, _ in found], "o-", color=BLUE, label="envelope")
    gain.plot(rates, [100 * priced.gain for _, _, priced in found], "o-", color=GREEN, label="price")
    gain.set_ylabel("points over uniform")
    gain.legend(frameon=False)
    wait.plot(rates, [1000 * window.mean_wait for _, window, _ in found], "o-", color=BLUE)
    wait.plot(rates, [1000 * priced.mean_wait for _, _, priced in found], "o-", color=GREEN)
    wait.set_ylabel("mean wait, ms")
    for axis in (gain, wait):
        axis.set_xscale("log")
        axis.set_xlabel("requests a second")
    drawing.tight_layout()
    return drawing


def _spending(result: Result) -> Figure:
    drawing = Figure(figsize=(8, 3.2))
    spent, price = drawing.subplots(1, 2)
    times, means, prices = ([point[at] for point in result.trace] for at in range(3))
    spent.plot(times, means, color=BLUE)
    spent.set_ylabel("tokens a query so far")
    price.plot(times, prices, color=GREEN)
    price.set_ylabel("price, accuracy a token")
    for axis in (spent, price):
        axis.set_xlabel("seconds")
    drawing.tight_layout()
    return drawing
