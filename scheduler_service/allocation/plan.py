"""One window's plan: the policy's budgets, guarded so that it is never expected to do worse than uniform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.allocation.policy import Floats, Ints, Policy, Problem, accuracy_at
from scheduler_service.allocation.uniform import Uniform

_EQUAL_ACCURACY = 0.001


@dataclass(frozen=True, eq=False)
class Plan:
    """A window's plan. ``budgets``, ``baselines``: (n,) tokens; ``expected``, ``baseline_expected``: (n,) fractions.

    ``policy`` is the one that made the plan: ``uniform`` where the guard preferred it.
    ``saved_at_equal_accuracy``: tokens a query that uniform needs for the plan's expected accuracy, less the plan's.
    """

    policy: str
    budgets: Ints
    baselines: Ints
    expected: Floats
    baseline_expected: Floats
    saved_at_equal_accuracy: float


def make_plan(policy: Policy, problem: Problem, known: np.ndarray) -> Plan:
    """Allocate with ``policy`` among the queries that have a prediction; the others get the uniform budget.

    ``known``: (n,) bool, whether the query's curve is a fresh prediction (an unknown query's curve is not read). The
    guard takes the policy's plan only where its expected accuracy is above uniform's.
    """
    baselines = Uniform().allocate(problem)
    budgets, name = baselines.copy(), Uniform.name
    curves, width = problem.curves, problem.window_tokens
    if known.any():
        shared = problem.part(known, int(baselines[known].sum()))
        planned = policy.allocate(shared)
        if not policy.guarded or _better(shared, planned, baselines[known]):
            budgets[known], name = planned, policy.name
    expected = np.where(known, accuracy_at(curves, budgets, width), 0.0)
    baseline_expected = np.where(known, accuracy_at(curves, baselines, width), 0.0)
    saved = _saved_at_equal_accuracy(problem, known, budgets, float(expected.sum()))
    return Plan(name, budgets, baselines, expected, baseline_expected, saved)


def _better(shared: Problem, planned: Ints, baselines: Ints) -> bool:
    """Whether a plan is worth more than uniform, or as much with fewer tokens."""
    gain = shared.worth(planned) - shared.worth(baselines)
    return gain > 0 or (gain == 0 and int(planned.sum()) < int(baselines.sum()))


def _saved_at_equal_accuracy(problem: Problem, known: np.ndarray, budgets: Ints, reached: float) -> float:
    """Tokens a query that uniform needs to reach the same total expected accuracy, less the plan's.

    Accuracies count as equal within a tenth of a point: on a plateau, noise would decide otherwise. Where no uniform
    budget reaches it, uniform is charged the cheapest plan that reaches its own best: a lower bound.
    """
    if not known.any():
        return 0.0
    part = problem.part(known, int(problem.floors[known].sum()))
    levels, accuracies = _uniform_accuracies(part)
    enough = min(reached, float(accuracies.max())) - _EQUAL_ACCURACY * len(part.curves)
    at = int(np.argmax(accuracies >= enough))

    def spent(level: int) -> float:
        return float(np.clip(level, part.floors, part.caps).sum())

    needed = spent(levels[at])
    if at:
        share = (enough - accuracies[at - 1]) / (accuracies[at] - accuracies[at - 1])
        before = spent(levels[at - 1])
        needed = before + share * (needed - before)
    return max(0.0, (needed - float(budgets[known].sum())) / len(budgets))


def _uniform_accuracies(problem: Problem) -> tuple[Ints, Floats]:
    """Total expected accuracy if every query got the same level, within its floor and its cap: (levels, totals).

    Between two of the levels every accuracy is linear in the level, and so is the total: it is summed from where and by
    how much its slope changes. Work and memory grow as queries × windows.
    """
    width, floors, caps = problem.window_tokens, problem.floors, problem.caps
    points = np.concatenate([np.zeros((len(problem.curves), 1)), problem.curves], axis=1)
    slopes = np.diff(points, axis=1) / width  # (n, K), between the places
    places = np.arange(points.shape[1]) * width
    levels = np.unique(np.concatenate([floors, caps, places[places <= int(caps.max())]]))
    levels = levels[levels >= int(floors.min())]
    change = np.zeros(len(levels))
    within = (places[1:-1] > floors[:, None]) & (places[1:-1] < caps[:, None])
    bends = np.where(within, np.diff(slopes, axis=1), 0.0).sum(axis=0)
    bent = np.flatnonzero(within.any(axis=0))
    change[np.searchsorted(levels, places[1:-1][bent])] += bends[bent]
    rising = np.flatnonzero(floors < caps)
    np.add.at(change, np.searchsorted(levels, floors[rising]), slopes[rising, floors[rising] // width])
    np.add.at(change, np.searchsorted(levels, caps[rising]), -slopes[rising, (caps[rising] - 1) // width])
    gains = np.cumsum(change)[:-1] * np.diff(levels)
    start = float(accuracy_at(problem.curves, floors, width).sum())
    return levels, start + np.concatenate([[0.0], np.cumsum(gains)])
