"""Predictors without a model: the fakes of ``scheduler_service.prediction.client.Predictor``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import NO_CURVE, Job, Prediction, PredictionOutcome
from scheduler_service.prediction.answers import PredictorInfo


@dataclass
class FakePredictor:
    """``curve_of`` maps a prompt to accuracies after 16, 32, … tokens; ``outcome`` other than FRESH predicts nothing.

    ``most_characters``: longer prompts are known to be refused.
    """

    curve_of: Callable[[str], Sequence[float]]
    outcome: PredictionOutcome = PredictionOutcome.FRESH
    hidden_size: int = 0
    seconds: float = 0.0
    windows: list[int] = field(default_factory=list)
    most_characters: int | None = None
    name = "fake@1"

    async def info(self) -> PredictorInfo | None:
        return PredictorInfo("fake", True, self.hidden_size, 0, 1 << 20)

    def refuses(self, job: Job) -> bool:
        return self.most_characters is not None and len(job.prompt) > self.most_characters

    def points(self) -> tuple[int, ...]:
        return ()

    def mean_curve(self, predictor: str) -> Curve:
        return NO_CURVE

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        self.windows.append(len(jobs))
        await asyncio.sleep(self.seconds)
        if self.outcome is not PredictionOutcome.FRESH:
            return [Prediction(self.outcome)] * len(jobs)
        rows = [tuple(self.curve_of(job.prompt)) for job in jobs]
        return [Prediction(self.outcome, Curve(evenly_spaced(len(row), 16), row), self.name) for row in rows]
