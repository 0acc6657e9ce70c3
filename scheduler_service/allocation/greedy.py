"""The paper's greedy (arXiv 2602.01237): one window at a time to the query whose next window gains most."""

from __future__ import annotations

import heapq

import numpy as np

from scheduler_service.allocation.policy import Ints, Problem, spread_evenly


class Greedy:
    """One window at a time by next gain; where no next window gains, the best mean gain over a longer step.

    Its weakness is what the envelope mends: a window without gain hides the gains behind it.
    """

    name = "greedy"

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets of whole windows, leftovers spread evenly: (n,)."""
        width = problem.window_tokens
        points = np.concatenate([np.zeros((len(problem.curves), 1)), problem.curves], axis=1)
        budgets = problem.floors.copy()
        left = problem.total - int(budgets.sum())
        for longest in (1, points.shape[1]):
            steps = [
                self._best_step(points[i], int(budgets[i]), int(problem.caps[i]), width, longest)
                for i in range(len(points))
            ]
            heap = [(-gain, i, tokens) for i, (gain, tokens) in enumerate(steps) if gain > 0]
            heapq.heapify(heap)
            while heap:
                _, i, tokens = heapq.heappop(heap)
                if tokens > left:
                    continue
                budgets[i] += tokens
                left -= tokens
                gain, tokens = self._best_step(points[i], int(budgets[i]), int(problem.caps[i]), width, longest)
                if gain > 0:
                    heapq.heappush(heap, (-gain, i, tokens))
        return spread_evenly(budgets, problem.caps, left, width)

    @staticmethod
    def _best_step(points: np.ndarray, budget: int, cap: int, width: int, longest: int) -> tuple[float, int]:
        """Best mean gain per window of a step of 1 … ``longest`` windows, and that step's tokens."""
        start = budget // width
        end = min(cap // width, start + longest)
        if end <= start:
            return 0.0, 0
        gains = (points[start + 1 : end + 1] - points[start]) / np.arange(1, end - start + 1)
        best = int(np.argmax(gains))
        return float(gains[best]), (start + best + 1) * width - budget
