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
    curves, floors, caps = problem.curves[known], problem.floors[known], problem.caps[known]
    width = problem.window_tokens
    # Between these levels everybody's accuracy is linear in the level, and so is the sum.
    levels = np.unique(np.concatenate([floors, caps, np.arange(0, int(caps.max()) + 1, width)]))
    levels = levels[levels >= int(floors.min())]
    uniform = np.clip(levels[:, None], floors, caps)
    repeated = np.broadcast_to(curves, (len(levels), *curves.shape)).reshape(-1, curves.shape[1])
    accuracies = accuracy_at(repeated, uniform.ravel(), width).reshape(uniform.shape).sum(axis=1)
    enough = min(reached, float(accuracies.max())) - _EQUAL_ACCURACY * len(curves)
    at = int(np.argmax(accuracies >= enough))
    needed = float(uniform[at].sum())
    if at:
        share = (enough - accuracies[at - 1]) / (accuracies[at] - accuracies[at - 1])
        needed = float(uniform[at - 1].sum()) + share * (needed - float(uniform[at - 1].sum()))
    return max(0.0, (needed - float(budgets[known].sum())) / len(budgets))
