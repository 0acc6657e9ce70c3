"""The paper's greedy (arXiv 2602.01237): one step at a time to the query whose next step gains most."""

from __future__ import annotations

import heapq

import numpy as np

from scheduler_service.allocation.problem import Floats, Ints, Problem


class Greedy:
    """One budget point at a time by next gain; where no next point gains, the best mean gain over a longer step.

    Its weakness is what the envelope mends: a step without gain hides the gains behind it.
    """

    name = "greedy"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets at points, leftovers spread evenly: (n,)."""
        values, costs, places = problem.values, problem.costs, problem.places
        at = np.zeros(len(values), np.int64)
        left = problem.total - float(costs[:, 0].sum())
        for longest in (1, values.shape[1]):
            steps = [self._best_step(values[i], costs[i], int(at[i]), longest) for i in range(len(values))]
            heap = [(-gain, i, end) for i, (gain, end) in enumerate(steps) if gain > 0]
            heapq.heapify(heap)
            while heap:
                _, i, end = heapq.heappop(heap)
                cost = float(costs[i, end] - costs[i, at[i]])
                if cost > left + 1e-9:
                    continue
                at[i] = end
                left -= cost
                gain, end = self._best_step(values[i], costs[i], end, longest)
                if gain > 0:
                    heapq.heappush(heap, (-gain, i, end))
        return problem.fill(places[np.arange(len(places)), at], left)

    @staticmethod
    def _best_step(values: Floats, costs: Floats, at: int, longest: int) -> tuple[float, int]:
        """Best mean gain per token of a step to one of the next ``longest`` places, and that place."""
        ahead = costs[at + 1 :] - costs[at]
        gained = values[at + 1 :] - values[at]
        open_places = np.flatnonzero((ahead > 0) | (gained > 0))[:longest]
        if not len(open_places):
            return 0.0, at
        gains = gained[open_places] / np.maximum(ahead[open_places], 1e-9)
        best = int(np.argmax(gains))
        return float(gains[best]), at + 1 + int(open_places[best])
