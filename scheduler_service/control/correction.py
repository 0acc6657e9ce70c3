"""How wrong the model is: a slow, multiplicative correction from the measured quantile."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from scheduler_service.control.learning import quantile_of
from scheduler_service.control.objectives import Objective

_OBJECTIVES = 4.0  # times the objective's seconds, over which it integrates
_LEAST, _MOST = 0.5, 1.25
_LARGEST_ERROR = math.log(2.0)
_LEAST_WINDOW = 8.0  # seconds
_BEYOND = 4  # requests beyond the quantile that a measurement needs


class Correction:
    """How much of an objective's time the model is given: 1 where it predicts what is measured; 0.5 to 1.25.

    It integrates the logarithm of objective over measured quantile. Where budgets cannot grow, good measurements say
    nothing of the model, and it goes back to 1: a long time of little load saves nothing up for the next rise.
    """

    def __init__(self, objective: Objective) -> None:
        """Start with a model that is right."""
        self._objective = objective
        self._seen: deque[tuple[float, float]] = deque()
        self.value = 1.0

    @property
    def seconds(self) -> float:
        """The time that the model is given, in seconds."""
        return self.value * self._objective.seconds

    def follow(self, seconds: Sequence[float], now: float, passed: float, *, saturated: bool) -> None:
        """Take measurements up to ``now``, of the last ``passed`` seconds. ``saturated``: budgets cannot grow."""
        self._seen.extend((now, value) for value in seconds)
        objective = self._objective
        needed = round(_BEYOND / (1 - objective.quantile))
        while len(self._seen) > needed and self._seen[0][0] < now - max(objective.seconds, _LEAST_WINDOW):
            self._seen.popleft()
        error = 0.0
        if seconds and len(self._seen) >= needed:
            measured = quantile_of([value for _, value in self._seen], objective.quantile)
            error = math.log(objective.seconds / max(measured, 1e-9))
        if saturated and error >= 0:
            error = -math.log(self.value)
        share = min(1.0, passed / (_OBJECTIVES * objective.seconds))
        error = min(_LARGEST_ERROR, max(-_LARGEST_ERROR, error))
        self.value = min(_MOST, max(_LEAST, self.value * math.exp(share * error)))
