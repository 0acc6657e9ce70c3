"""Allocation without a window: a price per token, learned from the requests themselves, decides each one at once.

Theory of operation. The best plan over many queries buys every envelope segment whose slope (accuracy per token) is
above one number, the dual price of the budget. That price depends on the traffic, not on the single query, so it can be
known before the query comes: it is the price at which the queries of the past would have spent the budget. This is the
dynamic learning of Agrawal, Wang and Ye (2014), "A dynamic near-optimal algorithm for online linear programming": solve
for the price on what was seen, and use it until the next solution. What was seen is kept as a histogram of the tokens
asked at each slope, so that a solution costs one pass over some hundred bins, however many requests came; older
requests count less, so that the price follows the traffic. Where requests weigh differently, slopes are those of
weighted accuracy, in the histogram and against the price: the plan that the price reaches is that of the largest sum
of weighted accuracies.

The account is a token bucket. It is granted the budget as requests come, and may be overdrawn by a fixed burst: without
one, a request whose next segment is longer than what happens to be saved would go without, whatever its slope. So
N requests spend at most what N requests were granted, and the burst. The rate that the price is solved for is the grant
plus 1/horizon of the balance b, and more of a large one, b/horizon · (1 + |b| / 16 grants): savings are spent, debts
are paid back. Each request so corrects the balance by a fraction of itself, less than one, a contraction: it cannot
swing, however wrong the price. What the balance corrects is the error of the price when the traffic shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, log

import numpy as np

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.envelope import Segment, segments_of
from scheduler_service.allocation.problem import Floats, Ints, Problem

_BINS = 768  # down to 1e-9 accuracy per token; flatter segments share the last bin
_STEEPEST, _FLATTEST = 1.0, 1e-9
_BINS_PER_FACTOR = 512 / log(_STEEPEST / 1e-6)
_RENORMALISE = 1e100
_ROUNDING = 1e-6


class SlopeHistogram:
    """Tokens that past requests asked for, by the slope at which they asked; old requests fade by ``half_life``."""

    def __init__(self, half_life: float = inf) -> None:
        """Start empty. ``half_life``: requests after which one counts half."""
        self._tokens: Floats = np.zeros(_BINS)
        self._growth = 2 ** (1 / half_life)
        self._weight = 1.0
        self._requests = 0.0
        self._spare = 0.0

    def add(self, segments: Sequence[Segment], spare: float) -> None:
        """Count a request: its segments, and ``spare``, the tokens that it was granted beyond its floor."""
        # Growing the weight of the new fades the old without touching every bin.
        self._weight *= self._growth
        for segment in segments:
            slope = min(_STEEPEST, max(_FLATTEST, segment.slope))  # 0 where the gain is too small for a number
            place = int(-log(slope) * _BINS_PER_FACTOR)
            self._tokens[min(place, _BINS - 1)] += self._weight * segment.cost
        self._requests += self._weight
        self._spare += self._weight * spare
        if self._weight > _RENORMALISE:
            self._tokens /= self._weight
            self._requests, self._spare, self._weight = self._requests / self._weight, self._spare / self._weight, 1.0

    @property
    def mean_spare(self) -> float:
        """Tokens that a request was granted beyond its floor, on average."""
        return self._spare / self._requests if self._requests else 0.0

    def grant_more(self, tokens: float) -> None:
        """Count as if each request so far had been granted so many ``tokens`` more; fewer, where negative."""
        self._spare += tokens * self._requests

    def price(self, more: float) -> float:
        """The slope above which the requests would have spent their spare tokens and ``more`` tokens each.

        0 where they would not have spent it all, infinity where there is nothing to spend.
        """
        wanted = self._spare + more * self._requests
        if wanted <= 0:
            return inf
        asked = np.cumsum(self._tokens)
        place = int(np.searchsorted(asked, wanted, side="right"))
        if place == _BINS:
            return 0.0
        before = float(asked[place - 1]) if place else 0.0
        share = (wanted - before) / (float(asked[place]) - before)
        return exp(-(place + share) / _BINS_PER_FACTOR)


@dataclass
class DualPrice:
    """Decides requests one by one.

    ``horizon``: requests over which a surplus is spent, or a debt paid back; ``half_life``: requests after which one
    counts half. Longer ones price steady traffic a little better, shorter ones follow a shift sooner.
    ``large_balance``: mean grants at which a balance presses twice as hard.
    """

    horizon: float = 64.0
    half_life: float = 300.0
    large_balance: float = 16.0
    price: float = 0.0
    _past: SlopeHistogram = field(init=False)

    def __post_init__(self) -> None:
        """Start without a past."""
        self._past = SlopeHistogram(self.half_life)

    def decide(
        self, curve: Curve, floor: int, cap: int, grant: float, balance: float, limit: float, weight: float = 1.0
    ) -> int:
        """Return a request's budget in tokens, from its expected curve, its floor and its cap.

        ``grant``: tokens that the account earns with it; ``balance``: what the account holds before, negative for a
        debt; ``limit``: the most tokens that it may be expected to use beyond the floor; ``weight``: what its accuracy
        is worth, above 0. The floor is given in any case. Tokens are those that budgets are expected to use.
        """
        segments = segments_of(curve, floor, cap, weight)
        self._past.add(segments, grant - curve.used_at(floor))
        large = 1 + abs(balance) / (self.large_balance * max(1.0, self._past.mean_spare))
        self.price = self._past.price(balance / self.horizon * large)
        return buy(segments, self.price, floor, limit)

    def grant_changes(self, tokens: float) -> None:
        """Take note that requests are granted ``tokens`` more from now on than so far; fewer, where negative.

        What requests ask for is remembered over hundreds of them. What they are granted need not be: the price of the
        next request is that at which the past would have spent the new grant.
        """
        self._past.grant_more(tokens)

    def granted_more(self, tokens: float) -> float:
        """The price if requests were granted ``tokens`` more each than they are, with nothing owed or saved.

        0 where the past would not have spent them, infinity where there would be nothing to spend.
        """
        return self._past.price(tokens)


def buy(segments: Sequence[Segment], price: float, floor: int, limit: float) -> int:
    """Return the budget that has all ``segments`` from the ``floor`` on which are worth the ``price``.

    ``limit``: the most tokens that they may be expected to use. Where there are none, nothing is bought: what is
    expected to use nothing may use much, and would add to a debt without end.
    """
    budget, bought = floor, 0.0
    if limit <= _ROUNDING:
        return budget
    for segment in segments:
        if segment.slope < price or bought + segment.cost > limit + _ROUNDING:
            break
        budget, bought = segment.end, bought + segment.cost
    return budget


class Price:
    """The price policy over a whole problem: its queries decided in order, none knowing those after it.

    Unlike the service it knows when the queries end, and may not spend what later ones would have been granted: debts
    are limited to what the rest will be granted, and savings are spent by the last.
    """

    name = "price"
    guarded = True

    def __init__(self, burst_requests: float = 20.0, horizon: float = 128.0) -> None:
        """Allow a debt of so many mean grants; ``horizon`` as in ``DualPrice``."""
        self._burst_requests, self._horizon = burst_requests, horizon

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,)."""
        count = len(problem.accuracy)
        pricing = DualPrice(half_life=2000.0, large_balance=inf)
        spare = (problem.total - float(problem.cost(problem.floors).sum())) / max(1, count)
        burst = self._burst_requests * problem.total / max(1, count)
        balance, budgets = 0.0, []
        points, used = tuple(problem.points.tolist()), None if problem.used is None else problem.used.tolist()
        weights = [1.0] * count if problem.weights is None else problem.weights.tolist()
        rows = zip(problem.accuracy.tolist(), problem.floors.tolist(), problem.caps.tolist(), weights, strict=True)
        for at, (accuracy, floor, cap, weight) in enumerate(rows):
            curve = Curve(points, tuple(accuracy), tuple(used[at]) if used else ())
            later = (count - at - 1) * spare
            pricing.horizon = min(self._horizon, count - at + 4)
            limit = max(0.0, balance + spare + min(burst, later))
            earned = curve.used_at(floor) + spare
            budget = pricing.decide(curve, floor, cap, earned, balance, limit, weight)
            balance += earned - curve.used_at(budget)
            budgets.append(budget)
        return np.array(budgets, dtype=np.int64)
