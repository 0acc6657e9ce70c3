"""Gives each request its allocation: in a window with others, or at once by the price; then reserves it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from opentelemetry import trace

from predictive_scheduling import semconv, telemetry
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome
from scheduler_service.generation.pace import Pace
from scheduler_service.generation.voting import stretched
from scheduler_service.planning.explain import explain
from scheduler_service.planning.plan import PriceDesk, Rules, WindowPlan, plan_window
from scheduler_service.planning.window import RequestWindow
from scheduler_service.prediction.client import Predictor


@dataclass(eq=False)
class _Waiting:
    """A job in a window, and who waits for its allocation."""

    job: Job
    came: float
    allocation: asyncio.Future[Allocation]
    span: trace.Span = field(default_factory=trace.get_current_span)
    trace_id: str = field(default_factory=telemetry.current_trace_id)


class Collector:
    """Allocates jobs window by window, or each at once where there is a price ``desk``. ``run`` must be running."""

    def __init__(
        self,
        window: RequestWindow[_Waiting],
        predictor: Predictor,
        ledger: BudgetLedger,
        rules: Rules,
        tracer: trace.Tracer,
        *,
        desk: PriceDesk | None = None,
        pace: Pace | None = None,
        trust: Callable[[Prediction], Prediction] = lambda prediction: prediction,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Gather in ``window``, plan by ``rules``, reserve in ``ledger``.

        ``pace``: how fast the backend is, which limits budgets by deadlines. ``trust``: what to make of a prediction.
        """
        self._desk = desk
        self._pace = pace or Pace()
        self._trust = trust
        self._window = window
        self._predictor = predictor
        self._ledger = ledger
        self._rules = rules
        self._tracer = tracer
        self._clock = clock
        self._closed: list[list[_Waiting]] = []
        self._windows = 0
        self.outcomes: Counter[PredictionOutcome] = Counter()
        self._wake = asyncio.Event()

    @property
    def price(self) -> float:
        """The gain per token below which nothing is bought now; 0 without a price."""
        return 0.0 if self._desk is None else self._desk.pricing.price

    @property
    def quoted_price(self) -> float:
        """The price as it is told; 0 where there is none, or none is known yet."""
        return 0.0 if self._desk is None else self._desk.quoted

    async def allocate(self, job: Job) -> Allocation:
        """Wait for the job's window and return its allocation, reserved in the ledger.

        A caller that leaves takes its job out of the window, or gives its reservation back whole.
        """
        if self._desk is not None:
            return await self._decide(job, self._desk)
        waiting = _Waiting(job, self._clock(), asyncio.get_running_loop().create_future())
        if closed := self._window.add(waiting, waiting.came, job.priority):
            self._closed.append(closed)
        self._wake.set()
        try:
            return await asyncio.shield(waiting.allocation)
        except asyncio.CancelledError:
            self._window.remove(waiting)
            if not waiting.allocation.cancel() and not waiting.allocation.exception():
                self._ledger.settle(job.request_id, used=0)
            raise

    async def _decide(self, job: Job, desk: PriceDesk) -> Allocation:
        """Predict and price one job; nothing waits for it, and it waits for nothing but its prediction."""
        came = self._clock()
        with self._tracer.start_as_current_span("allocate") as span:
            prediction = self.made_of(job, (await self._predictor.predict([job]))[0])
            predicted = self._clock()
            grant = self._ledger.grant(1, predicted)
            allocation = desk.decide(
                self._in_time(job, predicted),
                prediction,
                grant=grant,
                balance=self._ledger.bank,
                overdraft=self._ledger.overdraft,
            )
            self.outcomes[prediction.outcome] += 1
            covered = int(prediction.outcome is PredictionOutcome.FRESH)
            self._ledger.reserve({job.request_id: allocation.budget_tokens}, covered, predicted)
            allocated = self._clock()
            span.set_attributes(
                {
                    semconv.POLICY: allocation.policy,
                    semconv.PRICE: allocation.price,
                    semconv.WINDOW_SIZE: 1,
                    semconv.PREDICTION_DURATION: predicted - came,
                    semconv.ALLOCATION_DURATION: allocated - predicted,
                }
            )
            limited_by, explanation = explain(job, allocation)
            return replace(
                allocation,
                prediction_seconds=predicted - came,
                allocation_seconds=allocated - predicted,
                trace_id=telemetry.current_trace_id(),
                window=self._next_window(),
                limited_by=limited_by,
                explanation=explanation,
            )

    def _next_window(self) -> int:
        self._windows += 1
        return self._windows

    def made_of(self, job: Job, prediction: Prediction) -> Prediction:
        """What the job's prediction is worth: as far as it is trusted, and for as many traces as it has."""
        return stretched(self._trust(prediction), job.traces, self._rules.budget_window_tokens)

    def _in_time(self, job: Job, now: float) -> Job:
        """The job with a cap that its deadline allows at the backend's pace; its floor gives way too."""
        if job.deadline is None:
            return job
        most = self._pace.budget_within(job.deadline - now, self._rules.answer_tokens)
        if most is not None:
            most *= job.traces  # they run side by side
        if most is None or most >= job.cap_tokens:
            return job
        return replace(job, cap_tokens=most, floor_tokens=min(most, job.floor_tokens))

    async def run(self) -> None:
        """Close windows by size and age until cancelled; windows are planned side by side."""
        async with asyncio.TaskGroup() as planning:
            while True:
                self._wake.clear()
                if by_age := self._window.close_if_due(self._clock()):
                    self._closed.append(by_age)
                for closed in self._closed:
                    planning.create_task(self._plan(closed))
                self._closed = []
                due = self._window.due_at()
                try:  # wait_for would lose a cancellation that comes together with the wake-up (Python 3.11)
                    async with asyncio.timeout(None if due is None else due - self._clock()):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _plan(self, window: list[_Waiting]) -> None:
        """Allocate one window; whatever goes wrong reaches those who wait for it, not the windows after it."""
        closed = self._clock()
        links = [
            trace.Link(item.span.get_span_context(), {semconv.LINKED_REQUEST: item.job.request_id}) for item in window
        ]
        parent = trace.set_span_in_context(window[0].span)
        with self._tracer.start_as_current_span("allocate", context=parent, links=links) as span:
            try:
                found = await self._predictor.predict([item.job for item in window])
                predictions = [
                    self.made_of(item.job, prediction) for item, prediction in zip(window, found, strict=True)
                ]
                predicted = self._clock()
                here = [
                    (item, prediction)
                    for item, prediction in zip(window, predictions, strict=True)
                    if not item.allocation.done()
                ]
                if not here:
                    return
                plan = plan_window(
                    [self._in_time(item.job, predicted) for item, _ in here],
                    [prediction for _, prediction in here],
                    self._ledger.available(len(here), predicted),
                    self._rules,
                )
                budgets = {allocation.request_id: allocation.budget_tokens for allocation in plan.allocations}
                covered = sum(prediction.outcome is PredictionOutcome.FRESH for _, prediction in here)
                self._ledger.reserve(budgets, covered, predicted)
                self.outcomes.update(prediction.outcome for _, prediction in here)
            except Exception as error:  # handed to every caller of the window
                for item in window:
                    if not item.allocation.done():
                        item.allocation.set_exception(error)
                return
            allocated = self._clock()
            _annotate(span, plan, predicted - closed, allocated - predicted)
            number = self._next_window()
            for (item, _), allocation in zip(here, plan.allocations, strict=True):
                limited_by, explanation = explain(item.job, allocation)
                item.allocation.set_result(
                    replace(
                        allocation,
                        window_wait_seconds=closed - item.came,
                        prediction_seconds=predicted - closed,
                        allocation_seconds=allocated - predicted,
                        trace_id=item.trace_id,
                        window=number,
                        limited_by=limited_by,
                        explanation=explanation,
                    )
                )


def _annotate(span: trace.Span, plan: WindowPlan, prediction_seconds: float, allocation_seconds: float) -> None:
    span.set_attributes(
        {
            semconv.POLICY: plan.allocations[0].policy,
            semconv.WINDOW_SIZE: len(plan.allocations),
            semconv.WINDOW_TOTAL: plan.total,
            semconv.WINDOW_PLANNED: plan.planned,
            semconv.SAVED_AT_EQUAL_ACCURACY: plan.saved_at_equal_accuracy,
            semconv.PREDICTION_DURATION: prediction_seconds,
            semconv.ALLOCATION_DURATION: allocation_seconds,
        }
    )
