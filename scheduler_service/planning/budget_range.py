"""The least and the largest budget of requests: as they are set, or as the predictor's budget points say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_FLOOR = 16  # while no points are known
_CAP = 256
_PROMPT = 256  # tokens that are left to prompts where the cap follows the backend's room


@dataclass(frozen=True)
class BudgetRange:
    """What budgets requests may have, in reasoning tokens.

    ``mean``: what uniform gives, which is always within. ``floor_set``, ``cap_set``: as the settings say, ``None`` to
    follow the points. ``room``: tokens of prompt, reasoning and answer together that the backend takes, 0 where it does
    not say. ``answer``: most answer tokens. ``points``: the predictor's budget points, empty while they are not known.
    """

    mean: int
    floor_set: int | None
    cap_set: int | None
    answer: int = 0
    room: int = 0
    points: Callable[[], tuple[int, ...]] = tuple

    @property
    def floor(self) -> int:
        """The least budget: the first point above 0, or what is set."""
        if self.floor_set is not None:
            return self.floor_set
        first = next((point for point in self.points() if point), _FLOOR)
        return min(first, self.mean)

    @property
    def cap(self) -> int:
        """The largest budget: the last point, as far as the backend has room for it, or what is set."""
        if self.cap_set is not None:
            return self.cap_set
        points = self.points()
        last = points[-1] if points else _CAP
        if self.room:
            last = min(last, self.room - self.answer - _PROMPT)
        return max(last, self.mean)
