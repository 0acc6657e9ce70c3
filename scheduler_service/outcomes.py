"""Reported outcomes: how well each predictor's expectations match what happened. Pure arithmetic."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from scheduler_service.domain import Allocation, PredictionOutcome


@dataclass(frozen=True)
class Calibration:
    """A predictor's outcomes so far: their number, and the means of what was expected and what was scored."""

    outcomes: int = 0
    mean_expected: float = 0.0
    mean_score: float = 0.0

    def updated(self, expected: float, score: float) -> Calibration:
        """Return the calibration with one more outcome."""
        count = self.outcomes + 1
        return Calibration(
            count,
            self.mean_expected + (expected - self.mean_expected) / count,
            self.mean_score + (score - self.mean_score) / count,
        )


@dataclass
class OutcomeBook:
    """Remembers the last ``limit`` finished requests, so that their outcomes can be reported once each."""

    limit: int = 10_000
    _finished: OrderedDict[str, tuple[str, float]] = field(default_factory=OrderedDict)
    _calibrations: dict[str, Calibration] = field(default_factory=dict)

    def remember(self, allocation: Allocation) -> None:
        """Remember what was expected of a request that finished with a fresh prediction."""
        if allocation.prediction.outcome is not PredictionOutcome.FRESH:
            return
        self._finished[allocation.request_id] = (allocation.prediction.predictor, allocation.expected_accuracy)
        while len(self._finished) > self.limit:
            self._finished.popitem(last=False)

    def report(self, request_id: str, score: float) -> Calibration | None:
        """Record a score from 0 to 1; returns its predictor's calibration, or ``None`` for an unknown request."""
        known = self._finished.pop(request_id, None)
        if known is None:
            return None
        predictor, expected = known
        updated = self._calibrations.get(predictor, Calibration()).updated(expected, score)
        self._calibrations[predictor] = updated
        return updated
