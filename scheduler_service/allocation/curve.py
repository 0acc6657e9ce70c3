"""One query's curves over budget points: what it is expected to reach, and what it is expected to use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from predictive_scheduling.budget_points import CurveError, check_points, checked_usage


@dataclass(frozen=True)
class Curve:
    """A query's accuracy curve and usage curve.

    ``points``: K budgets in reasoning tokens, rising, not necessarily evenly spaced. ``accuracy``: expected accuracy at
    each, a fraction. ``used``: expected reasoning tokens used at each, E[min(natural length, budget)]: it does not
    fall, and is at most the point; empty where it is not known, and a budget then counts as used whole. Between points
    both are linear; before the first they start from nothing at 0 tokens, and beyond the last accuracy stays.
    """

    points: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    used: tuple[float, ...] = ()

    def accuracy_at(self, tokens: float) -> float:
        """Expected accuracy at a budget; 0 for an empty curve."""
        if not self.points:
            return 0.0
        return self._between(self.accuracy, tokens) if tokens < self.points[-1] else self.accuracy[-1]

    def used_at(self, tokens: float) -> float:
        """Reasoning tokens that a budget is expected to use; beyond the last point as many of them as just before."""
        if not self.used:
            return float(tokens)
        last = self.points[-1]
        if tokens < last:
            return self._between(self.used, tokens)
        before, spent = (self.points[-2], self.used[-2]) if len(self.points) > 1 else (0, 0.0)
        share = (self.used[-1] - spent) / (last - before) if last else 1.0
        return self.used[-1] + share * (tokens - last)

    def accuracies(self, points: tuple[int, ...]) -> Sequence[float]:
        """Expected accuracy at each of ``points``."""
        return self.accuracy if self.points == points else [self.accuracy_at(point) for point in points]

    def uses(self, points: tuple[int, ...]) -> Sequence[float]:
        """Expected use of a budget at each of ``points``."""
        return self.used if self.used and self.points == points else [self.used_at(point) for point in points]

    def _between(self, values: Sequence[float], tokens: float) -> float:
        at = bisect_right(self.points, tokens)
        low, below = (self.points[at - 1], values[at - 1]) if at else (0, 0.0)
        return below + (tokens - low) / (self.points[at] - low) * (values[at] - below)


def checked(points: Sequence[int], accuracy: Sequence[float], used: Sequence[float] = ()) -> Curve:
    """Return the curve of values that come from outside. Raises CurveError with the part and the place of a fault.

    Points must rise; accuracies are finite, from 0 to 1, one for each point; used tokens, where there are any, are one

    for each point, do not fall, and are at most the point.
    """
    check_points(points)
    if len(accuracy) != len(points):
        raise CurveError("accuracy", f"has {len(accuracy)} values for {len(points)} points")
    for at, value in enumerate(accuracy):
        if not 0 <= value <= 1:
            raise CurveError("accuracy", f"is {value} at place {at}, not a number from 0 to 1")
    return Curve(tuple(points), tuple(accuracy), checked_usage(points, used) if used else ())
