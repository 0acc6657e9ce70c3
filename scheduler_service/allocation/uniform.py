"""The same budget for every request: the baseline, and what a request without a prediction gets."""

from __future__ import annotations

from scheduler_service.allocation.problem import Ints, Problem, spread_evenly, whole


class Uniform:
    """Raises all budgets together, as far as floors and caps allow.

    ``whole``: until they add up to the total, as who knows nothing of their use would; otherwise until they are
    expected to use it.
    """

    name = "uniform"
    guarded = True

    def __init__(self, *, whole: bool = False) -> None:
        """Count budgets whole, or by their expected use."""
        self._whole = whole

    def allocate(self, problem: Problem) -> Ints:
        """Return equal budgets, to the token: (n,)."""
        cost = whole if self._whole else problem.cost
        left = max(0.0, problem.total - float(cost(problem.floors).sum()))
        return spread_evenly(problem.floors, problem.caps, left, 1, cost)
