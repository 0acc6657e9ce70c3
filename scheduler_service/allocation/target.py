"""The cheapest plan that reaches a target accuracy: envelope segments by slope, until the mean is reached."""

from __future__ import annotations

import numpy as np

from scheduler_service.allocation.envelope import envelope_segments
from scheduler_service.allocation.policy import Ints, Problem


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
        left = problem.total - int(budgets.sum())
        count = len(budgets) if problem.weights is None else float(problem.weights.sum())
        missing = self._accuracy * count - self._worth_of_floors(problem)
        segments = envelope_segments(problem)
        skipped: set[int] = set()
        for query, tokens, slope in zip(
            segments.query.tolist(), segments.tokens.tolist(), segments.slope.tolist(), strict=True
        ):
            if missing <= 1e-12:
                break
            if tokens > left or query in skipped:
                skipped.add(query)
                continue
            budgets[query] += tokens
            left -= tokens
            missing -= slope * tokens
        return budgets

    @staticmethod
    def _worth_of_floors(problem: Problem) -> float:
        """Worth at the floors, as the envelope sees it: between windows, what the last whole window reached."""
        return float(problem.values[np.arange(len(problem.curves)), problem.floors // problem.window_tokens].sum())
