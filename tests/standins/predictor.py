"""Predictors without a model: the fakes of ``scheduler_service.prediction.client.Predictor``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.prediction.client import PredictorInfo


@dataclass
class FakePredictor:
    """``curve_of`` maps a prompt to a curve; ``outcome`` other than FRESH predicts nothing."""

    curve_of: Callable[[str], Sequence[float]]
    outcome: PredictionOutcome = PredictionOutcome.FRESH
    hidden_size: int = 0
    seconds: float = 0.0
    windows: list[int] = field(default_factory=list)
    name = "fake@1"

    async def info(self) -> PredictorInfo | None:
        return PredictorInfo("fake", True, self.hidden_size, 0, 1 << 20)

    def mean_curve(self, predictor: str) -> Sequence[float]:
        return ()

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        self.windows.append(len(jobs))
        await asyncio.sleep(self.seconds)
        if self.outcome is not PredictionOutcome.FRESH:
            return [Prediction(self.outcome)] * len(jobs)
        return [Prediction(self.outcome, tuple(self.curve_of(job.prompt)), self.name) for job in jobs]
