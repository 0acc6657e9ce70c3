"""The paper's greedy (arXiv 2602.01237): one window at a time to the query whose next window gains most."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from scheduler_service.allocation.policy import Floats, Ints, Problem


class Greedy:
    """One window at a time by next gain; where no next window gains, the best mean gain over a longer step.

    Its weakness is what the envelope mends: a window without gain hides the gains behind it.
    """

    name = "greedy"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets of whole windows, leftovers spread evenly: (n,)."""
        width = problem.window_tokens
        points, open_places = problem.values, problem.open_places
        budgets = problem.floors.copy()
        left = problem.total - int(budgets.sum())
        for longest in (1, points.shape[1]):
            steps = [
                self._best_step(points[i], open_places[i], int(budgets[i]), width, longest) for i in range(len(points))
            ]
            heap = [(-gain, i, tokens) for i, (gain, tokens) in enumerate(steps) if gain > 0]
            heapq.heapify(heap)
            while heap:
                _, i, tokens = heapq.heappop(heap)
                if tokens > left:
                    continue
                budgets[i] += tokens
                left -= tokens
                gain, tokens = self._best_step(points[i], open_places[i], int(budgets[i]), width, longest)
                if gain > 0:
                    heapq.heappush(heap, (-gain, i, tokens))
        return problem.fill(budgets, left)

    @staticmethod
    def _best_step(
        points: Floats, open_places: NDArray[np.bool_], budget: int, width: int, longest: int
    ) -> tuple[float, int]:
        """Best mean gain per window of a step to one of the next ``longest`` open places, and that step's tokens."""
        start = budget // width
        ahead = open_places[start + 1 :]
        if longest == 1:  # the next one alone: argmax stops there
            found = int(ahead.argmax()) if len(ahead) else 0
            ends = np.array([start + 1 + found] if len(ahead) and ahead[found] else [], dtype=np.int64)
        else:
            ends = start + 1 + np.flatnonzero(ahead)
        if not len(ends):
            return 0.0, 0
        gains = (points[ends] - points[start]) / (ends - start)
        best = int(np.argmax(gains))
        return float(gains[best]), int(ends[best]) * width - budget
