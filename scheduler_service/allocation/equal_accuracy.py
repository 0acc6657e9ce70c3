"""What a stream of decisions saves: the uniform budget that would be expected to be as accurate, less what was given.

For a window it is exact (``plan.make_plan``); a stream has no end, so its means are those of the decisions of late.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scheduler_service.allocation.policy import Floats

_EQUAL = 0.001  # accuracies count as equal within a tenth of a point, as in a window


@dataclass
class EqualAccuracy:
    """Means over a stream: curves, expected accuracies and budgets; a decision fades over ``memory`` later ones."""

    window_tokens: int
    memory: int = 200
    decisions: int = 0
    expected: float = 0.0
    budget: float = 0.0
    _curve: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, curve: Floats, budget: int, expected: float) -> float:
        """Count a decision; returns the tokens a request that are saved now, 0 at least.

        ``curve``: (K,) accuracy after W, 2W, … tokens. Where no uniform budget reaches the accuracy, uniform is charged
        for its own best: a lower bound.
        """
        if len(curve) > len(self._curve):
            last = self._curve[-1] if len(self._curve) else 0.0
            self._curve = np.append(self._curve, np.full(len(curve) - len(self._curve), last))
        elif len(curve) < len(self._curve):
            curve = np.append(curve, np.full(len(self._curve) - len(curve), curve[-1]))
        self.decisions += 1
        share = 1 / min(self.decisions, self.memory)
        self._curve += share * (curve - self._curve)
        self.expected += share * (expected - self.expected)
        self.budget += share * (budget - self.budget)
        return max(0.0, self._uniform_tokens() - self.budget)

    def _uniform_tokens(self) -> float:
        """The least uniform budget that reaches the mean expected accuracy, or uniform's own best."""
        reached = np.append(0.0, self._curve)
        enough = min(self.expected, float(reached.max())) - _EQUAL
        at = int(np.argmax(reached >= enough))
        if not at:
            return 0.0
        within = (enough - reached[at - 1]) / (reached[at] - reached[at - 1])
        return float((at - 1 + within) * self.window_tokens)
