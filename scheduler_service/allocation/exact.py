"""The optimum of any problem, whatever the curves: the multiple-choice knapsack by dynamic programming.

Best worth for every amount of tokens, query by query (Kellerer, Pferschy and Pisinger 2004, chapter 11). Work and
memory grow as queries × tokens: for tests, small windows, and to see what the envelope leaves. Expected costs count in
whole tokens, rounded up.
"""

from __future__ import annotations

import math

import numpy as np

from scheduler_service.allocation.problem import Floats, Ints, Problem

MOST_STATES = 20_000_000


class Exact:
    """Every plan that ends at budget points considered; tokens that would buy nothing are left."""

    name = "exact"
    guarded = True

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,). Raises ValueError where the table would not fit in memory."""
        places = problem.places
        costs = np.ceil(problem.costs - problem.costs[:, :1] - 1e-9).astype(np.int64)
        spare = int(problem.total - float(problem.costs[:, 0].sum()) + 1e-9)
        spare = min(spare, int(costs[:, -1].sum()))
        unit = math.gcd(*(int(cost) for cost in np.unique(costs))) or 1
        amounts = spare // unit + 1
        if amounts * len(costs) > MOST_STATES:
            raise ValueError(f"exact: {len(costs)} queries and {spare} tokens are too many; use envelope")
        best: Floats = np.zeros(amounts)
        chosen = np.zeros((len(costs), amounts), dtype=np.int16)
        for query, (cost_row, worths) in enumerate(zip((costs // unit).tolist(), problem.values.tolist(), strict=True)):
            following = np.full(amounts, -np.inf)
            for at, (cost, worth) in enumerate(zip(cost_row, worths, strict=True)):
                if cost >= amounts:
                    continue
                reached = best[: amounts - cost] + worth
                better = reached > following[cost:] + 1e-12  # of equal plans the one that gives this query less
                following[cost:][better] = reached[better]
                chosen[query, cost:][better] = at
            best = following
        budgets = problem.floors.copy()
        amount = int(np.argmax(best >= best.max() - 1e-12))
        for query in range(len(costs) - 1, -1, -1):
            at = int(chosen[query, amount])
            budgets[query] = places[query, at]
            amount -= int(costs[query, at]) // unit
        return budgets
