"""Budget points: the reasoning budgets, in tokens, at which curves are known. Pure; what both services agree on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

MOST_TOKENS = 131_072  # the largest budget that any engine takes
MOST_POINTS = 512
_ROUNDING = 1e-6


class CurveError(ValueError):
    """A curve is none. ``part``: points, accuracy or used; the text says what is wrong with it, and where."""

    def __init__(self, part: str, description: str) -> None:
        """Name the part, and say what would be accepted."""
        super().__init__(description)
        self.part = part


def evenly_spaced(count: int, step: int) -> tuple[int, ...]:
    """Budget points at ``step``, 2·``step``, … tokens, as in the paper."""
    return tuple(range(step, count * step + 1, step))


def spacing(points: Sequence[int]) -> int:
    """The distance W of points at W, 2W, …; 0 for others."""
    return points[0] if points and points[0] and tuple(points) == evenly_spaced(len(points), points[0]) else 0


def check_points(points: Sequence[int]) -> None:
    """Raise CurveError where ``points`` are not 1 to 512 budgets that rise, from 0 to 131,072 tokens."""
    if not 1 <= len(points) <= MOST_POINTS:
        raise CurveError("points", f"must be 1 to {MOST_POINTS} budgets, not {len(points)}")
    if points[0] < 0 or not 0 < points[-1] <= MOST_TOKENS:
        raise CurveError("points", f"must be from 0 to {MOST_TOKENS} tokens, not {points[0]} to {points[-1]}")
    for at, (one, other) in enumerate(pairwise(points)):
        if other <= one:
            raise CurveError("points", f"must rise; {other} at place {at + 1} follows {one}")


def checked_usage(points: Sequence[int], used: Sequence[float]) -> tuple[float, ...]:
    """Return expected used tokens as they are kept: one for each point, not falling, at most the point.

    Raises CurveError with the place of a fault; what rounding to 32 bits leaves is forgiven.
    """
    if len(used) != len(points):
        raise CurveError("used", f"has {len(used)} values for {len(points)} points")
    before = 0.0
    for at, (value, point) in enumerate(zip(used, points, strict=True)):
        if not within_budget(value, point):
            raise CurveError("used", f"is {value} at place {at}, not from 0 to its budget of {point} tokens")
        if value < before * (1 - _ROUNDING):
            raise CurveError("used", f"falls from {before} to {value} at place {at}")
        before = value
    return risen_usage(points, used)


def within_budget(used: float, budget: int) -> bool:
    """Whether a budget can be used so; what rounding to 32 bits adds is forgiven."""
    return 0 <= used <= budget * (1 + _ROUNDING)


def risen_usage(points: Sequence[int], used: Sequence[float]) -> tuple[float, ...]:
    """Used tokens within their budgets, dips filled up to the running maximum, and no rise above that of the budget.

    A token more of budget uses a token more at most: where values rise faster, the ones before are too small.
    """
    risen = list(accumulate((min(float(value), float(point)) for value, point in zip(used, points, strict=True)), max))
    for at in range(len(risen) - 2, -1, -1):
        risen[at] = max(risen[at], risen[at + 1] - (points[at + 1] - points[at]))
    return tuple(risen)
