"""One query's curves over budget points: what it is expected to reach, and what it is expected to use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TOKENS = 131_072  # the largest budget that any engine takes
MOST_POINTS = 512


def evenly_spaced(count: int, step: int) -> tuple[int, ...]:
    """Budget points at ``step``, 2·``step``, … tokens, as in the paper."""
    return tuple(range(step, count * step + 1, step))


def check_points(points: Sequence[int]) -> None:
    """Raise ValueError where ``points`` are not one to 512 budgets that rise, from 0 to 131,072 tokens."""
    if not 1 <= len(points) <= MOST_POINTS:
        raise ValueError(f"must be 1 to {MOST_POINTS} budgets, not {len(points)}")
    if points[0] < 0 or points[-1] > MOST_TOKENS:
        raise ValueError(f"must be from 0 to {MOST_TOKENS} tokens, not {points[0]} to {points[-1]}")
    for at, (one, other) in enumerate(zip(points, points[1:], strict=False)):
        if other <= one:
            raise ValueError(f"must rise; {other} at place {at + 1} follows {one}")


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
