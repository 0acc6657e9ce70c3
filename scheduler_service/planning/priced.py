"""Gives each request its budget the moment it comes, at the going price of a token."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from opentelemetry import trace

from predictive_scheduling import semconv, telemetry
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome
from scheduler_service.planning.allocator import Expectations
from scheduler_service.planning.explain import explain
from scheduler_service.planning.pricing import Pricing


@dataclass
class PricedAllocator:
    """Decides requests one by one; a request waits for nothing but its prediction, and nothing waits for it.

    ``check``: raises what a request is refused with. ``note``: what explanations add.
    """

    pricing: Pricing
    expectations: Expectations
    ledger: BudgetLedger
    tracer: trace.Tracer
    clock: Callable[[], float] = time.monotonic
    outcomes: Counter[PredictionOutcome] = field(default_factory=Counter)
    check: Callable[[Job, Prediction], None] = lambda job, prediction: None
    note: Callable[[], str] = lambda: ""
    _decisions: int = 0

    @property
    def price(self) -> float:
        """The gain per token below which nothing is bought now."""
        return self.pricing.dual.price

    @property
    def quoted_price(self) -> float:
        """The price for display; 0 while none is known."""
        return self.pricing.quoted

    async def run(self) -> None:
        """Return at once: the price decides within each call, and needs no task."""

    async def allocate(self, job: Job) -> Allocation:
        """Predict, price, and reserve one job's budget."""
        came = self.clock()
        with self.tracer.start_as_current_span("allocate") as span:
            (prediction,) = await self.expectations.predict([job])
            self.check(job, prediction)
            predicted = self.clock()
            allocation = self.pricing.decide(
                self.expectations.in_time(job, predicted),
                prediction,
                grant=self.ledger.grant(1, predicted),
                balance=self.ledger.bank,
                overdraft=self.ledger.overdraft,
            )
            limited_by, explanation = explain(job, allocation)
            self._decisions += 1
            decided = self.clock()
            allocation = replace(
                allocation,
                prediction_seconds=predicted - came,
                allocation_seconds=decided - predicted,
                trace_id=telemetry.current_trace_id(),
                window=self._decisions,
                limited_by=limited_by,
                explanation=explanation + self.note(),
            )
            span.set_attributes(
                {
                    semconv.POLICY: allocation.policy,
                    semconv.PRICE: allocation.price,
                    semconv.WINDOW_SIZE: 1,
                    semconv.PREDICTION_DURATION: allocation.prediction_seconds,
                    semconv.ALLOCATION_DURATION: allocation.allocation_seconds,
                }
            )
            # Last, so that whatever fails above leaves nothing reserved.
            covered = int(prediction.outcome is PredictionOutcome.FRESH)
            self.ledger.reserve({job.key: allocation.expected_tokens}, covered, predicted)
            self.outcomes[prediction.outcome] += 1
            return allocation
