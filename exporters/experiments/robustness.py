"""What wrong predictions cost: noise in them, and questions mistaken for others."""

from __future__ import annotations

import numpy as np

from exporters.experiments.table import BUDGETS, Floats, Table, gains, points
from exporters.measure.curves import pearson, window_points
from exporters.predictors.ensemble import best_shrinkage
from scheduler_service.allocation import POLICIES, Problem
from scheduler_service.allocation.problem import accuracy_at


def noise(predicted: Floats, measured: Floats, seed: int = 0) -> Table:
    """Add a normal error of growing deviation to each question's log-odds curve, one draw a question; last, pure noise:
    every question gets another one's prediction.

    The second line of each pair shrinks the noisy curves toward the mean curve by the factor that fits one half of the
    questions best, applied to the other half and back: what a scheduler that measures its predictor does.
    """
    rng = np.random.default_rng(seed)
    inside = np.clip(predicted, 1e-3, 1 - 1e-3)
    odds = np.log(inside / (1 - inside))
    direction = rng.normal(size=(len(predicted), 1))
    rows = []
    disturbed = {f"{size:g}": 1 / (1 + np.exp(-(odds + size * direction))) for size in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)}
    disturbed["exchanged"] = predicted[rng.permutation(len(predicted))]
    for deviation, noisy in disturbed.items():
        shrunk = _cross_shrunk(noisy, measured, rng)
        for name, curves in (("as it is", noisy), ("shrunk", shrunk)):
            correlation = f"{pearson(curves, measured):.2f}"
            rows.append([deviation, name, correlation, *points(gains(curves, measured))])
    return Table(["deviation", "curves", "r", *[f"{budget} tokens" for budget in BUDGETS]], rows)


def _cross_shrunk(predicted: Floats, measured: Floats, rng: np.random.Generator) -> Floats:
    half = rng.permutation(len(predicted)) % 2 == 0
    result = np.empty_like(predicted)
    for fit, use in ((half, ~half), (~half, half)):
        mean = measured[fit].mean(axis=0)
        keep = best_shrinkage(
            predicted[fit].astype(np.float32), measured[fit].astype(np.float32), mean.astype(np.float32)
        )
        result[use] = mean + keep * (predicted[use] - mean)
    return np.clip(result, 0, 1)


def starvation(predicted: Floats, measured: Floats, budget: int = 64, seed: int = 0) -> Table:
    """Exchange the predictions of a share of the questions, and count who starves under floors of 1 to 3 windows.

    Starved: a question whose accuracy with its budget is at least 20 points below that with the uniform budget.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(predicted))
    places = window_points(measured.shape[1])
    uniform = accuracy_at(places, measured, budget)
    rows = []
    for share in (0.0, 0.1, 0.3, 0.5):
        swapped = order[: int(share * len(order))]
        curves = predicted.copy()
        curves[swapped] = predicted[np.roll(swapped, 1)]
        for floor in (16, 32, 48):
            count = len(curves)
            caps = np.full(count, places[-1])
            problem = Problem(places, curves, np.full(count, floor), caps, budget * count)
            accuracy = accuracy_at(places, measured, POLICIES["envelope"].allocate(problem))
            starved = (uniform - accuracy) >= 0.2
            rows.append(
                [
                    f"{share:.0%}",
                    str(floor),
                    f"{100 * float((accuracy - uniform).mean()):+.1f}",
                    f"{float(starved.mean()):.1%}",
                    f"{100 * float((uniform - accuracy)[starved].mean()) if starved.any() else 0:.0f}",
                ]
            )
    return Table(["misclassified", "floor, tokens", "gain, points", "starved", "their loss, points"], rows)
