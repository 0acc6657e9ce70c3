"""The same budget for everybody: the baseline, and what a request gets when nothing is known about it."""

from __future__ import annotations

from scheduler_service.allocation.policy import Ints, Problem, spread_evenly


class Uniform:
    """Raises all budgets together, as far as floors and caps allow."""

    name = "uniform"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return equal budgets, to the token: (n,)."""
        return spread_evenly(problem.floors.copy(), problem.caps, problem.total - int(problem.floors.sum()), step=1)
