"""Reported outcomes: which request they belong to, and what they say of its predictor. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_service.domain import Allocation, PredictionOutcome
from scheduler_service.prediction.reliability import Reliability
from scheduler_service.recent import Recent


@dataclass(frozen=True)
class Reported:
    """What an outcome changed: its predictor, what is now known of it, and whether the outcome showed a drift."""

    predictor: str
    reliability: Reliability
    drifted: bool


@dataclass
class OutcomeBook:
    """Remembers the last ``limit`` finished requests, so that their outcomes can be reported once each."""

    limit: int = 10_000
    known: dict[str, Reliability] = field(default_factory=dict)
    _finished: Recent[tuple[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        """Remember nothing yet."""
        self._finished = Recent(self.limit)

    def remember(self, allocation: Allocation, tenant: str = "") -> None:
        """Remember what was expected of a tenant's request that finished with a fresh prediction."""
        if allocation.prediction.outcome is not PredictionOutcome.FRESH:
            return
        self._finished.put(tenant, allocation.request_id, (allocation.prediction.predictor, _predicted(allocation)))

    def report(self, request_id: str, score: float, tenant: str | None = None) -> Reported | None:
        """Record a score from 0 to 1; returns what it changed, or ``None`` for an unknown request.

        ``tenant``: whose request it must be; ``None`` where callers are not told apart.
        """
        found = self._finished.pop(tenant, request_id)
        if found is None:
            return None
        predictor, expected = found
        reliability = self.known.setdefault(predictor, Reliability())
        return Reported(predictor, reliability, reliability.add(expected, score))

    def slope(self, predictor: str) -> float:
        """The share of this predictor's predicted differences that is real; 1 before any outcome."""
        known = self.known.get(predictor)
        return 1.0 if known is None else known.slope


def _predicted(allocation: Allocation) -> float:
    """What the predictor itself said of the budget, before its curve was drawn toward the mean curve."""
    said = allocation.prediction.raw if allocation.prediction.raw.points else allocation.prediction.curve
    return said.accuracy_at(allocation.budget_tokens)
