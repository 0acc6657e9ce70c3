"""The same budget for every request: the baseline, and what a request without a prediction gets."""

from __future__ import annotations

from scheduler_service.allocation.problem import Ints, Problem, spread_evenly


class Uniform:
    """Raises all budgets together, as far as floors and caps allow."""

    name = "uniform"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return equal budgets, to the token: (n,)."""
        floors = problem.floors.copy()
        left = problem.total - float(problem.cost(floors).sum())
        return spread_evenly(floors, problem.caps, left, 1, None if problem.used is None else problem.cost)
