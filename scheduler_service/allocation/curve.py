"""One query's curves over budget points: what it is expected to reach, and what it is expected to use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

MOST_TOKENS = 131_072  # the largest budget that any engine takes
MOST_POINTS = 512
_ROUNDING = 1e-6


def evenly_spaced(count: int, step: int) -> tuple[int, ...]:
    """Budget points at ``step``, 2·``step``, … tokens, as in the paper."""
    return tuple(range(step, count * step + 1, step))


def spacing(points: Sequence[int]) -> int:
    """The distance W of points at W, 2W, …; 0 for others."""
    return points[0] if points and tuple(points) == evenly_spaced(len(points), points[0]) else 0


class CurveError(ValueError):
    """A curve is none. ``part``: points, accuracy or used; the text says what is wrong with it, and where."""

    def __init__(self, part: str, description: str) -> None:
        """Name the part, and say what would be accepted."""
        super().__init__(description)
        self.part = part


def check_points(points: Sequence[int]) -> None:
    """Raise CurveError where ``points`` are not one to 512 budgets that rise, from 0 to 131,072 tokens."""
    if not 1 <= len(points) <= MOST_POINTS:
        raise CurveError("points", f"must be 1 to {MOST_POINTS} budgets, not {len(points)}")
    if points[0] < 0 or points[-1] > MOST_TOKENS or points[-1] == 0:
        raise CurveError("points", f"must be from 0 to {MOST_TOKENS} tokens, not {points[0]} to {points[-1]}")
    for at, (one, other) in enumerate(pairwise(points)):
        if other <= one:
            raise CurveError("points", f"must rise; {other} at place {at + 1} follows {one}")


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

    def _between(self, values: Sequence[float], tokens: float) -> float:
        at = bisect_right(self.points, tokens)
        low, below = (self.points[at - 1], values[at - 1]) if at else (0, 0.0)
        return below + (tokens - low) / (self.points[at] - low) * (values[at] - below)


def checked(points: Sequence[int], accuracy: Sequence[float], used: Sequence[float] = ()) -> Curve:
    """Return the curve of values that come from outside. Raises CurveError with the part and the place of a fault.

    Points must rise; accuracies are finite, from 0 to 1, one for each point; used tokens, where there are any, are one
    for each point, do not fall, and are at most the point. What rounding to 32 bits leaves is forgiven.
    """
    check_points(points)
    if len(accuracy) != len(points):
        raise CurveError("accuracy", f"has {len(accuracy)} values for {len(points)} points")
    for at, value in enumerate(accuracy):
        if not 0 <= value <= 1:
            raise CurveError("accuracy", f"is {value} at place {at}, not a number from 0 to 1")
    if used and len(used) != len(points):
        raise CurveError("used", f"has {len(used)} values for {len(points)} points")
    before = 0.0
    for at, (value, point) in enumerate(zip(used, points, strict=False)):
        if not 0 <= value <= point * (1 + _ROUNDING):
            raise CurveError("used", f"is {value} at place {at}, not from 0 to its budget of {point} tokens")
        if value < before * (1 - _ROUNDING):
            raise CurveError("used", f"falls from {before} to {value} at place {at}")
        before = value
    kept = accumulate((min(float(value), float(point)) for value, point in zip(used, points, strict=False)), max)
    return Curve(tuple(points), tuple(accuracy), tuple(kept))
