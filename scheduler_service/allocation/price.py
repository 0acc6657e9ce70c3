"""Allocation without a window: a price per token, learned from the requests themselves, decides each one at once.

Theory of operation. The best plan over many queries buys every envelope segment whose slope (accuracy per token) is
above one number, the dual price of the budget. That price depends on the traffic, not on the single query, so it can be
known before the query comes: it is the price at which the queries of the recent past would have spent the budget. This
is the dynamic learning of Agrawal, Wang and Ye (2014), "A dynamic near-optimal algorithm for online linear
programming": solve for the price on what was seen, at sample sizes that grow, and use it until the next solution.

Two additions keep the account. The rate that the price is solved for is the mean budget plus a share of what the
account holds, so that savings are spent and debts avoided; since the correction is a fraction (1/horizon) of the
balance per request, the balance follows a contraction and cannot swing. And no request may take more than the account
holds, so that the total is never overspent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from scheduler_service.allocation.envelope import envelope_segments
from scheduler_service.allocation.policy import Floats, Ints, Problem


@dataclass
class DualPrice:
    """Decides requests one by one.

    ``memory``: how many recent requests the price is learned from; ``horizon``: over how many requests a surplus is
    spent. ``balance``: tokens that were granted and not yet given; it starts at what is lent to the first requests.
    """

    window_tokens: int = 16
    memory: int = 512
    horizon: int = 128
    balance: float = 0.0
    price: float = 0.0
    _recent: deque[tuple[Floats, Ints, float]] = field(default_factory=deque)
    _until_solved: int = 0
    _seen: int = 0

    def decide(self, curve: Floats, floor: int, cap: int, grant: float) -> int:
        """Return a request's budget in tokens, from its expected curve (K,), its floor and its cap.

        ``grant``: the tokens that the account earns with the request. The floor is given even from an empty account,
        which then buys nothing until it has recovered.
        """
        problem = Problem(curve[None, :], np.array([floor]), np.array([cap]), int(cap), self.window_tokens)
        segments = envelope_segments(problem)
        self._learn(segments.slope, segments.tokens, grant - floor)
        self.balance += grant - floor
        budget = floor
        for slope, tokens in zip(segments.slope.tolist(), segments.tokens.tolist(), strict=True):
            if slope < self.price or tokens > self.balance:
                break
            budget += tokens
            self.balance -= tokens
        return budget

    def _learn(self, slopes: Floats, tokens: Ints, spare: float) -> None:
        """Remember the request; solve for the price again when enough have come since the last solution."""
        self._recent.append((slopes, tokens, spare))
        if len(self._recent) > self.memory:
            self._recent.popleft()
        self._seen += 1
        self._until_solved -= 1
        if self._until_solved <= 0:
            self._solve()
            self._until_solved = min(16, max(1, self._seen // 8))

    def _solve(self) -> None:
        """Find the price at which the remembered requests spend what they were granted and a share of the balance."""
        slopes = np.concatenate([slopes for slopes, _, _ in self._recent])
        tokens = np.concatenate([tokens for _, tokens, _ in self._recent])
        spare = sum(spare for _, _, spare in self._recent) + len(self._recent) * self.balance / self.horizon
        order = np.argsort(-slopes)
        affordable = int(np.searchsorted(np.cumsum(tokens[order]), max(0.0, spare), side="right"))
        self.price = float(slopes[order[affordable]]) if affordable < len(order) else 0.0


class Price:
    """The price policy over a whole problem: its queries decided in order, none knowing those after it.

    Tokens that the price leaves are left. Not among the policies of windows: a window knows more than a price.
    """

    name = "price"

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,)."""
        account = DualPrice(problem.window_tokens)
        grants = problem.floors + (problem.total - int(problem.floors.sum())) / max(1, len(problem.curves))
        rows = zip(problem.curves, problem.floors.tolist(), problem.caps.tolist(), grants.tolist(), strict=True)
        return np.array([account.decide(*row) for row in rows], dtype=np.int64)
