"""What every allocation policy is given and must return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """Queries that share a budget.

    ``curves``: (n, K) expected accuracy, 0 to 1, after W, 2W, … K·W reasoning tokens, W being ``window_tokens``; before
    the first window nothing is known, so accuracy counts as 0 there. ``floors`` and ``caps``: (n,) tokens that each
    query must and may get. ``total``: tokens to share. ``weights``: (n,) what a query's accuracy is worth, by default
    1. ``steps``: (n,) budget windows between the budgets that a query may get (its granularity), by default 1; its
    floor and its cap are open to it in any case.

    Raises ValueError, naming the field, where curves are not finite or outside 0…1, a floor is negative or above its
    cap, a cap is beyond the curve, the floors alone exceed the total, a weight is negative or not finite, or a step is
    below 1.
    """

    curves: Floats
    floors: Ints
    caps: Ints
    total: int
    window_tokens: int
    weights: Floats | None = None
    steps: Ints | None = None

    def __post_init__(self) -> None:
        """Refuse what no policy could plan for."""
        curves = self.curves
        if self.window_tokens < 1:
            raise ValueError("window_tokens: must be at least 1")
        if curves.ndim != 2 or not np.isfinite(curves).all() or (curves < 0).any() or (curves > 1).any():
            raise ValueError("curves: must be an (n, K) array of finite numbers from 0 to 1")
        if self.floors.shape != (len(curves),) or self.caps.shape != (len(curves),):
            raise ValueError("floors, caps: need one number per curve")
        if (self.floors < 0).any() or (self.floors > self.caps).any():
            raise ValueError("floors: must be from 0 to the query's cap")
        if (self.caps > curves.shape[1] * self.window_tokens).any():
            raise ValueError("caps: beyond the last window of the curve")
        if self.total < int(self.floors.sum()):
            raise ValueError("total: less than the floors together")
        weights, steps = self.weights, self.steps
        if weights is not None and (
            weights.shape != (len(curves),) or not np.isfinite(weights).all() or (weights < 0).any()
        ):
            raise ValueError("weights: need one finite number from 0 per curve")
        if steps is not None and (steps.shape != (len(curves),) or (steps < 1).any()):
            raise ValueError("steps: need one number from 1 per curve")

    @property
    def values(self) -> Floats:
        """What each query is worth after 0, W, 2W, … tokens: weighted accuracy, (n, K + 1)."""
        points = np.concatenate([np.zeros((len(self.curves), 1)), self.curves], axis=1)
        return points if self.weights is None else points * self.weights[:, None]

    @property
    def open_places(self) -> NDArray[np.bool_]:
        """Which of the budgets 0, W, 2W, … a query may get, by its granularity and its cap: (n, K + 1)."""
        windows = np.arange(self.curves.shape[1] + 1)
        last = (self.caps // self.window_tokens)[:, None]
        within: NDArray[np.bool_] = windows[None, :] <= last
        if self.steps is None:
            return within
        aligned: NDArray[np.bool_] = (windows[None, :] % self.steps[:, None] == 0) | (windows[None, :] == last)
        return within & aligned

    def part(self, rows: NDArray[np.bool_], total: int) -> Problem:
        """The same problem for some of its queries, sharing ``total`` tokens."""
        weights = None if self.weights is None else self.weights[rows]
        steps = None if self.steps is None else self.steps[rows]
        return Problem(self.curves[rows], self.floors[rows], self.caps[rows], total, self.window_tokens, weights, steps)

    def fill(self, budgets: Ints, left: int) -> Ints:
        """Spread ``left`` tokens evenly over queries of the finest granularity; returns new budgets (n,)."""
        caps = self.caps if self.steps is None else np.where(self.steps == 1, self.caps, budgets)
        return spread_evenly(budgets, caps, left, self.window_tokens)

    def worth(self, budgets: Ints) -> float:
        """Total weighted expected accuracy of a plan."""
        accuracy = accuracy_at(self.curves, budgets, self.window_tokens)
        return float(accuracy.sum() if self.weights is None else accuracy @ self.weights)


class Policy(Protocol):
    """Splits a problem's total: returns (n,) tokens, within floors, caps and total. Deterministic, no I/O.

    ``guarded``: whether a plan of it is taken only where it is expected to be worth more than uniform's.
    """

    name: str
    guarded: bool

    def allocate(self, problem: Problem) -> Ints:
        """Return the budget of each query in tokens."""
        ...


def accuracy_at(curves: Floats, tokens: Floats | Ints, window_tokens: int) -> Floats:
    """Expected accuracy of each query at its budget: (n,) from (n, K) curves; linear between windows."""
    windows = np.clip(np.asarray(tokens, float) / window_tokens, 0, curves.shape[1])
    whole = windows.astype(np.int64)
    points = np.concatenate([np.zeros((len(curves), 1)), curves], axis=1)
    rows = np.arange(len(curves))
    below, above = points[rows, whole], points[rows, np.minimum(whole + 1, curves.shape[1])]
    result: Floats = below + (windows - whole) * (above - below)
    return result


def accuracy_of(curve: Sequence[float], tokens: int, width: int) -> float:
    """Expected accuracy of one curve at a budget, linear between windows: ``accuracy_at`` without arrays."""
    if not curve:
        return 0.0
    window, rest = divmod(tokens, width)
    if window >= len(curve):
        return curve[-1]
    below = curve[window - 1] if window else 0.0
    return below + rest / width * (curve[window] - below)


def spread_evenly(budgets: Ints, caps: Ints, left: int, step: int) -> Ints:
    """Raise the lowest budgets together until ``left`` tokens are spent or all caps are reached; (n,) new budgets.

    Levels are ``step`` tokens apart, and ties go to the earlier query. Spending what a plan has no use for brings it
    closer to uniform, the plan that needs no prediction.
    """
    level_low, level_high = 0, int(caps.max(initial=0)) // step + 1

    def filled(level: int) -> Ints:
        target = np.minimum(level * step, caps)
        return np.asarray(np.maximum(budgets, target), dtype=np.int64)

    while level_low < level_high:  # the highest water level that can be paid for
        level = (level_low + level_high + 1) // 2
        if int((filled(level) - budgets).sum()) <= left:
            level_low = level
        else:
            level_high = level - 1
    result = filled(level_low)
    left -= int((result - budgets).sum())
    for query in np.argsort(result, kind="stable").tolist():  # not enough for the next level: the lowest go first
        if left == 0:
            break
        more = min(step, int(caps[query] - result[query]), left)
        result[query] += more
        left -= more
    return result
