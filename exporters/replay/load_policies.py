"""The policies that a load is replayed with: fixed and controlled budgets, shedding, and limits of concurrency."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from scheduler_service.allocation import Curve
from scheduler_service.allocation.price import DualPrice
from scheduler_service.allocation.problem import Floats
from scheduler_service.budget.income import Controlled
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.controller import Controller, Decision
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import Objective
from scheduler_service.control.refusals import LeastValuable
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.planning.pricing import Pricing

_BANK_REQUESTS, _BURST_REQUESTS = 128, 10  # the service's defaults


class Priced:
    """Budgets by the price, as the service buys them, with a mean that may be controlled."""

    def __init__(self, bounds: Bounds, floor: int, objectives: Sequence[Objective] = ()) -> None:
        """``floor``: of each request. ``objectives``: what the mean is controlled for; without, it is the most."""
        self._floor = floor
        self._control = Control(bounds, objectives)
        self._income = Controlled(bounds.most)
        most = int(bounds.most)
        self._ledger = BudgetLedger(most, _BANK_REQUESTS * most, _BURST_REQUESTS * most, self._income)
        self._pricing = Pricing(most, 0, DualPrice())

    @property
    def mean(self) -> float:
        """The mean budget now."""
        return self._income.tokens

    @property
    def price(self) -> float:
        """The price now."""
        return self._pricing.quoted

    def decide(self, key: int, curve: Curve, weight: float, in_flight: int, now: float) -> int | None:
        """Buy at the price what ends in time."""
        if not self._control.admits(curve, weight):
            return None
        cap = max(1, int(self._control.decision.longest_of("")))
        job = Job(str(key), "", "", min(self._floor, cap), cap, weight=weight)
        allocation = self._pricing.decide(
            job,
            Prediction(PredictionOutcome.FRESH, curve),
            grant=self._ledger.grant(1, now),
            balance=self._ledger.bank,
            overdraft=self._ledger.overdraft,
        )
        self._ledger.reserve({key: allocation.expected_tokens}, 1, now)
        return allocation.budget_tokens

    def ended(self, key: int, used: float) -> None:
        """Settle it."""
        self._ledger.settle(key, used)

    def observe(self, seen: Observation, now: float) -> None:
        """Follow the controller."""
        self._control.observe(seen, now)
        self._income.tokens = self._control.decision.mean
        self._pricing.follow(self._income.tokens)


class Even:
    """The same budget for all, whose expected use is the mean that the controller allows: the honest rival."""

    price = 0.0

    def __init__(
        self,
        bounds: Bounds,
        points: Sequence[int],
        used: Floats,
        objectives: Sequence[Objective] = (),
        *,
        blind: bool = False,
    ) -> None:
        """``used``: (K,) tokens that budgets of ``points`` use on average over all questions.

        ``blind``: whom it refuses, it refuses whatever the predictions say.
        """
        self._control = Control(bounds, objectives, blind=blind)
        self._points, self._used = [0, *points], [0.0, *used.tolist()]

    @property
    def mean(self) -> float:
        """The mean budget now, in tokens that are used."""
        return self._control.decision.mean

    def decide(self, key: int, curve: Curve, weight: float, in_flight: int, now: float) -> int | None:
        """The budget whose mean use is the mean."""
        if not self._control.admits(curve, weight):
            return None
        level = float(np.interp(self.mean, self._used, self._points))
        return int(min(level, self._control.decision.longest_of("")))

    def ended(self, key: int, used: float) -> None:
        """Nothing is kept."""

    def observe(self, seen: Observation, now: float) -> None:
        """Follow the controller."""
        self._control.observe(seen, now)


class Limited:
    """Fixed, even budgets, and a limit of requests in flight: one more a second, three tenths fewer where it is late.

    Additive increase, multiplicative decrease, at most once in half the objective's time.
    """

    price = 0.0

    def __init__(self, even: Even, objective: Objective, start: float) -> None:
        """``start``: the first limit."""
        self._even, self._objective, self._limit, self._lowered = even, objective, start, -inf

    @property
    def mean(self) -> float:
        """The mean budget, which stays."""
        return self._even.mean

    def decide(self, key: int, curve: Curve, weight: float, in_flight: int, now: float) -> int | None:
        """Refuse what is beyond the limit."""
        return None if in_flight >= self._limit else self._even.decide(key, curve, weight, in_flight, now)

    def ended(self, key: int, used: float) -> None:
        """Nothing is kept."""

    def observe(self, seen: Observation, now: float) -> None:
        """Move the limit."""
        ended = seen.measured[self._objective]
        late = sum(seconds > self._objective.seconds for seconds in ended)
        if late > (1 - self._objective.quantile) * len(ended):
            if now >= self._lowered + self._objective.seconds / 2:
                self._limit, self._lowered = max(1.0, 0.7 * self._limit), now
        else:
            self._limit += 1.0


class Control:
    """A controller, and what it says to refuse; without objectives everything is admitted at the most."""

    def __init__(self, bounds: Bounds, objectives: Sequence[Objective], *, blind: bool = False) -> None:
        """``blind``: all requests are worth the same when some must be refused."""
        self._bounds, self._blind = bounds, blind
        self._controller = Controller(objectives, bounds) if objectives else None
        self._refusals = LeastValuable()
        self.decision = Decision(bounds.most, {"": bounds.cap})

    def admits(self, curve: Curve, weight: float) -> bool:
        """Whether a request comes in: by its weight times its expected accuracy per token of the least budget."""
        least = self._bounds.least
        worth = 1.0 if self._blind else weight * curve.accuracy_at(least) / max(1.0, curve.used_at(least))
        return self._refusals.admits(worth, self.decision.refuse)

    def observe(self, seen: Observation, now: float) -> None:
        """Decide anew."""
        if self._controller is not None:
            self.decision = self._controller.observe(seen, now)
