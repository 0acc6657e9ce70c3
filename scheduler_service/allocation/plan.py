"""One window's plan: the policy's budgets, guarded so that it is never expected to do worse than uniform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.allocation.problem import Floats, Ints, Policy, Problem
from scheduler_service.allocation.uniform import Uniform

_EQUAL_ACCURACY = 0.001
_MOST_BENDS = 64
_EQUAL_USE = Uniform()


@dataclass(frozen=True, eq=False)
class Plan:
    """A window's plan. ``budgets``, ``baselines``: (n,) tokens; ``costs``: (n,) tokens that the budgets are expected to
    use; ``expected``, ``baseline_expected``: (n,) fractions.

    ``policy`` is the one that made the plan: ``uniform`` where the guard preferred it.
    ``saved_at_equal_accuracy``: tokens a query that uniform needs for the plan's expected accuracy, less the plan's.
    """

    policy: str
    budgets: Ints
    baselines: Ints
    expected: Floats
    baseline_expected: Floats
    costs: Floats
    saved_at_equal_accuracy: float


def make_plan(policy: Policy, problem: Problem, known: np.ndarray, uniform: Policy = _EQUAL_USE) -> Plan:
    """Allocate with ``policy`` among the queries that have a prediction; the others get the uniform budget.

    ``known``: (n,) bool, whether the query's curve is a fresh prediction (an unknown query's curve is not read). The
    guard takes the policy's plan only where its expected accuracy is above uniform's. ``uniform``: what it is held
    against, by default the same budget for all that is expected to use the total.
    """
    baselines = uniform.allocate(problem)
    budgets, name = baselines.copy(), Uniform.name
    if known.any():
        costs = problem.cost(baselines)
        left = problem.total - float(costs[~known].sum())  # of which uniform leaves what its budgets do not use
        shared = problem.part(known, float(costs[known].sum()) if problem.used is None else left)
        planned = policy.allocate(shared)
        if not policy.guarded or _better(shared, planned, baselines[known]):
            budgets[known], name = planned, policy.name
    expected = np.where(known, problem.accuracy_at(budgets), 0.0)
    baseline_expected = np.where(known, problem.accuracy_at(baselines), 0.0)
    saved = _saved_at_equal_accuracy(problem, known, budgets, float(expected.sum()))
    return Plan(name, budgets, baselines, expected, baseline_expected, problem.cost(budgets), saved)


def _better(shared: Problem, planned: Ints, baselines: Ints) -> bool:
    """Whether a plan is worth more than uniform, or as much with fewer tokens."""
    gain = shared.worth(planned) - shared.worth(baselines)
    return gain > 0 or (gain == 0 and float(shared.cost(planned).sum()) < float(shared.cost(baselines).sum()))


def _saved_at_equal_accuracy(problem: Problem, known: np.ndarray, budgets: Ints, reached: float) -> float:
    """Tokens a query that uniform is expected to use for the same total expected accuracy, less the plan's.

    Accuracies count as equal within a tenth of a point: on a plateau, noise would decide otherwise. Where no uniform
    budget reaches it, uniform is charged the cheapest plan that reaches its own best: a lower bound.
    """
    if not known.any():
        return 0.0
    own = problem.part(known, problem.total)
    # Between these levels every accuracy is linear in the level, and so is the sum; of very different floors and
    # caps, some levels are enough.
    bends = np.unique(np.concatenate([own.floors, own.caps]))
    bends = bends[np.linspace(0, len(bends) - 1, min(len(bends), _MOST_BENDS)).astype(np.int64)]
    levels = np.unique(np.concatenate([bends, np.clip(own.points, bends[0], bends[-1])]))
    uniform = [np.clip(level, own.floors, own.caps) for level in levels.tolist()]
    accuracies = np.array([float(own.accuracy_at(level).sum()) for level in uniform])
    enough = min(reached, float(accuracies.max())) - _EQUAL_ACCURACY * len(own.floors)
    at = int(np.argmax(accuracies >= enough))
    needed = float(own.cost(uniform[at]).sum())
    if at:
        share = (enough - accuracies[at - 1]) / (accuracies[at] - accuracies[at - 1])
        before = float(own.cost(uniform[at - 1]).sum())
        needed = before + share * (needed - before)
    return max(0.0, (needed - float(own.cost(budgets[known]).sum())) / len(budgets))
