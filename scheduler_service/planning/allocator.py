"""What gives requests their budgets, seen from the pipeline, and what its two kinds share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome
from scheduler_service.generation.pace import Pace
from scheduler_service.generation.voting import stretched
from scheduler_service.planning.plan import Rules
from scheduler_service.prediction.client import Predictor


class Allocator(Protocol):
    """Predicts a request's curve, decides its budget, and reserves it in the ledger.

    ``outcomes``: where the curves of allocated requests came from. ``price``: the gain per token below which nothing is
    bought now, 0 without a price; ``quoted_price``: the same for display, 0 while it is not known yet.
    """

    outcomes: Counter[PredictionOutcome]

    @property
    def price(self) -> float:
        """Return the price by which budgets are bought, in accuracy per token; 0 where windows are planned."""
        ...

    @property
    def quoted_price(self) -> float:
        """Return the price to show, in accuracy per token; 0 without one, and while it is not known yet."""
        ...

    async def allocate(self, job: Job) -> Allocation:
        """Return the job's allocation, reserved. A caller that leaves gives its reservation back whole."""
        ...

    async def run(self) -> None:
        """Do what happens beside the calls, until cancelled."""
        ...


def as_predicted(prediction: Prediction) -> Prediction:
    """Return a prediction unchanged: no outcomes are taken into account."""
    return prediction


@dataclass
class Expectations:
    """What is expected of jobs before they are allocated: their accuracy curves, and what their deadlines allow.

    ``trust``: what to make of a prediction. ``pace``: how fast the backend is. ``longest``: the most tokens that one
    request of a tenant may reason, where latency objectives say so.
    """

    predictor: Predictor
    rules: Rules
    pace: Pace
    trust: Callable[[Prediction], Prediction] = as_predicted
    longest: Callable[[str], float] = lambda tenant: inf

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Ask the predictor for all jobs in one call; as far as its answers are trusted."""
        asked = [job for job in jobs if job.unpredicted is None]
        found = iter(await self.predictor.predict(asked) if asked else [])
        return [self.of(job, next(found)) if job.unpredicted is None else Prediction(job.unpredicted) for job in jobs]

    def of(self, job: Job, prediction: Prediction) -> Prediction:
        """What a prediction is worth to a job: as far as it is trusted, and for as many traces as the job has."""
        return stretched(self.trust(prediction), job.traces)

    def in_time(self, job: Job, now: float) -> Job:
        """The job with a cap that its deadline and latency objectives allow; its floor gives way, too."""
        most = self.longest(job.tenant)
        if job.deadline is not None:
            within = self.pace.budget_within(job.deadline - now, self.rules.answer_tokens)
            most = most if within is None else min(most, within)
        most *= job.traces  # they run side by side
        if most >= job.cap_tokens:
            return job
        return replace(job, cap_tokens=int(most), floor_tokens=min(int(most), job.floor_tokens))
