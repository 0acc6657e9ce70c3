"""The cheapest plan that reaches a target accuracy: envelope segments by slope, until the mean is reached."""

from __future__ import annotations

from scheduler_service.allocation.envelope import envelope_segments
from scheduler_service.allocation.problem import Ints, Problem


class Target:
    """Buys by slope until the (weighted) mean expected accuracy reaches ``accuracy``; never beyond the total."""

    name = "target"
    guarded = False  # it may well be worth less than uniform, and cheaper

    def __init__(self, accuracy: float) -> None:
        """Aim at a mean accuracy from 0 to 1. Raises ValueError for another."""
        if not 0 < accuracy <= 1:
            raise ValueError("accuracy: must be above 0, at most 1")
        self._accuracy = accuracy

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,). Where the total does not reach the target, it is spent as envelope would."""
        budgets = problem.floors.copy()
        left = problem.total - float(problem.cost(budgets).sum())
        count = len(budgets) if problem.weights is None else float(problem.weights.sum())
        missing = self._accuracy * count - problem.worth(budgets)
        segments = envelope_segments(problem)
        skipped: set[int] = set()
        parts = (segments.query, segments.cost, segments.gain, segments.end)
        for query, cost, gain, end in zip(*(part.tolist() for part in parts), strict=True):
            if missing <= 1e-12:
                break
            if cost > left + 1e-9 or query in skipped:
                skipped.add(query)
                continue
            budgets[query] = end
            left -= cost
            missing -= gain
        return budgets
