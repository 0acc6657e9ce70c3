"""Gathers requests in windows, and gives the requests of a window their budgets by one plan.

Theory of operation. ``allocate`` puts a job into the open window and waits for a future. A window closes by size or
because waiting brings no company (``RequestWindow.add``), or by age (``run`` sleeps until the oldest job is due).
``run`` plans every closed window in a task of its own, so that a slow prediction of one holds up none of the next. A
plan ends in one of two ways for each of its jobs: an allocation that the ledger has reserved, or the error that kept it
from one, with nothing reserved. A caller that leaves before its window closes takes its job out; one that leaves after
the reservation gives it back unused.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from opentelemetry import trace

from predictive_scheduling import semconv, telemetry
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Allocation, Job, PredictionOutcome
from scheduler_service.planning.allocator import Expectations
from scheduler_service.planning.explain import explain
from scheduler_service.planning.plan import WindowPlan, plan_window
from scheduler_service.planning.window import RequestWindow


@dataclass(eq=False)
class Waiting:
    """A job in a window, and who waits for its allocation."""

    job: Job
    came: float
    allocation: asyncio.Future[Allocation]
    span: trace.Span = field(default_factory=trace.get_current_span)
    trace_id: str = field(default_factory=telemetry.current_trace_id)


@dataclass
class WindowedAllocator:
    """Allocates jobs window by window. ``run`` must be running."""

    window: RequestWindow[Waiting]
    expectations: Expectations
    ledger: BudgetLedger
    tracer: trace.Tracer
    clock: Callable[[], float] = time.monotonic
    outcomes: Counter[PredictionOutcome] = field(default_factory=Counter)
    price: float = 0.0
    quoted_price: float = 0.0
    _closed: list[list[Waiting]] = field(default_factory=list)
    _planned: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def allocate(self, job: Job) -> Allocation:
        """Wait for the job's window, and return its allocation."""
        waiting = Waiting(job, self.clock(), asyncio.get_running_loop().create_future())
        if closed := self.window.add(waiting, waiting.came, job.priority):
            self._closed.append(closed)
        self._wake.set()
        try:
            return await asyncio.shield(waiting.allocation)
        except asyncio.CancelledError:
            self.window.remove(waiting)
            if not waiting.allocation.cancel() and not waiting.allocation.exception():
                self.ledger.settle(job.key, used=0)
            raise

    async def run(self) -> None:
        """Close windows by size and age until cancelled; windows are planned side by side."""
        async with asyncio.TaskGroup() as planning:
            while True:
                self._wake.clear()
                if by_age := self.window.close_if_due(self.clock()):
                    self._closed.append(by_age)
                for closed in self._closed:
                    planning.create_task(self._plan(closed))
                self._closed = []
                due = self.window.due_at()
                try:  # wait_for would lose a cancellation that comes together with the wake-up (Python 3.11)
                    async with asyncio.timeout(None if due is None else due - self.clock()):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _plan(self, window: Sequence[Waiting]) -> None:
        """Allocate one window; whatever goes wrong reaches those who wait for it, not the windows after it."""
        links = [
            trace.Link(item.span.get_span_context(), {semconv.LINKED_REQUEST: item.job.request_id}) for item in window
        ]
        parent = trace.set_span_in_context(window[0].span)
        with self.tracer.start_as_current_span("allocate", context=parent, links=links) as span:
            try:
                await self._allocate(window, span)
            except Exception as error:
                span.record_exception(error)
                for item in window:
                    if not item.allocation.done():
                        item.allocation.set_exception(error)

    async def _allocate(self, window: Sequence[Waiting], span: trace.Span) -> None:
        closed = self.clock()
        found = await self.expectations.predict([item.job for item in window])
        predicted = self.clock()
        here = [(item, made) for item, made in zip(window, found, strict=True) if not item.allocation.done()]
        if not here:
            return
        plan = plan_window(
            [self.expectations.in_time(item.job, predicted) for item, _ in here],
            [prediction for _, prediction in here],
            self.ledger.available(len(here), predicted),
            self.expectations.rules,
            self.ledger.grant(len(here), predicted),
        )
        decided = self.clock()
        self._planned += 1
        allocations = []
        for (item, _), allocation in zip(here, plan.allocations, strict=True):
            limited_by, explanation = explain(item.job, allocation)
            allocations.append(
                replace(
                    allocation,
                    window_wait_seconds=closed - item.came,
                    prediction_seconds=predicted - closed,
                    allocation_seconds=decided - predicted,
                    trace_id=item.trace_id,
                    window=self._planned,
                    limited_by=limited_by,
                    explanation=explanation,
                )
            )
        _annotate(span, plan, predicted - closed, decided - predicted)
        # Last, so that whatever fails above leaves nothing reserved.
        pairs = zip(here, allocations, strict=True)
        budgets: dict[Hashable, float] = {item.job.key: allocation.expected_tokens for (item, _), allocation in pairs}
        covered = sum(prediction.outcome is PredictionOutcome.FRESH for _, prediction in here)
        self.ledger.reserve(budgets, covered, predicted)
        self.outcomes.update(prediction.outcome for _, prediction in here)
        for (item, _), allocation in zip(here, allocations, strict=True):
            item.allocation.set_result(allocation)


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
