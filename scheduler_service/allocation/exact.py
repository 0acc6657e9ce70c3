"""The optimum of any problem, whatever the curves: the multiple-choice knapsack by dynamic programming.

Best worth for every amount of tokens, query by query (Kellerer, Pferschy and Pisinger 2004, chapter 11). Work and
memory grow as queries × tokens: for tests, small windows, and to see what the envelope leaves.
"""

from __future__ import annotations

import math

import numpy as np

from scheduler_service.allocation.policy import Floats, Ints, Problem

MOST_STATES = 20_000_000


class Exact:
    """Every plan of whole windows considered; tokens that would buy nothing are left."""

    name = "exact"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,). Raises ValueError where the table would not fit in memory."""
        choices = [self._choices(problem, query) for query in range(len(problem.curves))]
        spare = problem.total - int(problem.floors.sum())
        spare = min(spare, sum(int(costs.max()) for costs, _ in choices))
        unit = math.gcd(*(int(cost) for costs, _ in choices for cost in costs)) or 1
        amounts = spare // unit + 1
        if amounts * len(choices) > MOST_STATES:
            raise ValueError(f"exact: {len(choices)} queries and {spare} tokens are too many; use envelope")
        best: Floats = np.zeros(amounts)
        chosen = np.zeros((len(choices), amounts), dtype=np.int16)
        for query, (costs, worths) in enumerate(choices):
            following = np.full(amounts, -np.inf)
            for at, (cost, worth) in enumerate(zip((costs // unit).tolist(), worths.tolist(), strict=True)):
                if cost >= amounts:
                    continue
                reached = best[: amounts - cost] + worth
                better = reached > following[cost:] + 1e-12  # of equal plans the one that gives this query less
                following[cost:][better] = reached[better]
                chosen[query, cost:][better] = at
            best = following
        budgets = problem.floors.copy()
        amount = int(np.argmax(best >= best.max() - 1e-12))
        for query in range(len(choices) - 1, -1, -1):
            cost = int(choices[query][0][chosen[query, amount]])
            budgets[query] += cost
            amount -= cost // unit
        return budgets

    @staticmethod
    def _choices(problem: Problem, query: int) -> tuple[Ints, Floats]:
        """Tokens beyond the floor that the query may get, and what it is then worth."""
        width, floor = problem.window_tokens, int(problem.floors[query])
        places = np.flatnonzero(problem.open_places[query])
        ahead = places[places * width > floor]
        values = problem.values[query]
        costs = np.concatenate([[0], ahead * width - floor]).astype(np.int64)
        return costs, np.concatenate([[values[floor // width]], values[ahead]])
