"""What every allocation policy is given and must return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictive_scheduling.budget_points import MOST_POINTS
from scheduler_service.allocation.curve import Curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """Queries that share tokens.

    ``points``: (K,) budgets in reasoning tokens, rising, at which all curves are known. ``accuracy``: (n, K) expected
    accuracy at each, 0 to 1. ``floors`` and ``caps``: (n,) tokens that each query must and may get; beyond the last
    point accuracy stays. ``total``: tokens to share. ``used``: (n, K) tokens that each point is expected to use, which
    is what counts against ``total``; ``None`` where budgets count whole. ``weights``: (n,) what a query's accuracy is
    worth, by default 1. Between points curves are linear, and before the first they start from nothing at 0 tokens.

    Raises ValueError, naming the field, where points do not rise, accuracies are not finite or outside 0…1, used tokens
    fall or are above their point, a floor is negative or above its cap, the floors alone exceed the total, or a weight
    is negative or not finite.
    """

    points: Ints
    accuracy: Floats
    floors: Ints
    caps: Ints
    total: float
    used: Floats | None = None
    weights: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse what no policy could plan for."""
        accuracy, shape = self.accuracy, (len(self.accuracy), len(self.points))
        if not 1 <= len(self.points) <= MOST_POINTS or self.points[0] < 0 or self.points[-1] < 1:
            raise ValueError(f"points: must be 1 to {MOST_POINTS} budgets from 0, one of them above")
        if (np.diff(self.points) <= 0).any():
            raise ValueError("points: must rise")
        if accuracy.shape != shape or not np.isfinite(accuracy).all() or (accuracy < 0).any() or (accuracy > 1).any():
            raise ValueError("accuracy: must be an (n, K) array of finite numbers from 0 to 1")
        if self.floors.shape != shape[:1] or self.caps.shape != shape[:1]:
            raise ValueError("floors, caps: need one number per curve")
        if (self.floors < 0).any() or (self.floors > self.caps).any():
            raise ValueError("floors: must be from 0 to the query's cap")
        if self.used is not None:
            if self.used.shape != shape or not np.isfinite(self.used).all() or (self.used < 0).any():
                raise ValueError("used: must be an (n, K) array of finite numbers from 0")
            if (np.diff(self.used, axis=1) < 0).any() or (self.used > self.points * (1 + 1e-9)).any():
                raise ValueError("used: must not fall, nor be above its budget point")
        if self.weights is not None and (
            self.weights.shape != shape[:1] or not np.isfinite(self.weights).all() or (self.weights < 0).any()
        ):
            raise ValueError("weights: need one finite number from 0 per curve")
        if self.total < self.cost(self.floors).sum() - 1e-6:
            raise ValueError("total: less than the floors together")

    @cached_property
    def _grid(self) -> Ints:
        """The budgets between which curves are linear, from 0 to the largest cap: (G,)."""
        grid = self.points if self.points[0] == 0 else np.append(0, self.points)
        most = int(self.caps.max(initial=0))
        return np.append(grid, most) if most > grid[-1] else grid

    def _on_grid(self, values: Floats, beyond: Floats) -> Floats:
        """Curves (n, K) on the grid (n, G); ``beyond``: their values at the largest cap."""
        columns = [values] if self.points[0] == 0 else [np.zeros((len(values), 1)), values]
        if self._grid[-1] > self.points[-1]:
            columns.append(beyond[:, None])
        return np.concatenate(columns, axis=1)

    @cached_property
    def _accuracy_on_grid(self) -> Floats:
        return self._on_grid(self.accuracy, self.accuracy[:, -1])

    @cached_property
    def _used_on_grid(self) -> Floats | None:
        if self.used is None:
            return None
        last = self.used[:, -1]
        if len(self.points) > 1:
            share = (last - self.used[:, -2]) / (self.points[-1] - self.points[-2])
        else:
            share = last / max(1, int(self.points[-1]))
        return self._on_grid(self.used, last + share * (int(self._grid[-1]) - int(self.points[-1])))

    @property
    def step(self) -> int:
        """The least distance of two points: budgets that no curve asks for are spread in steps of it."""
        return int(np.diff(self._grid).min()) if len(self._grid) > 1 else 1

    @cached_property
    def places(self) -> Ints:
        """The budgets at which each query's curve may bend, within its floor and cap: (n, G); the first is the floor.

        Places may repeat: a point below the floor counts as the floor, one above the cap as the cap.
        """
        places: Ints = np.clip(self._grid[None, :], self.floors[:, None], self.caps[:, None])
        places[:, 0] = self.floors
        return places

    @cached_property
    def values(self) -> Floats:
        """What each query is worth at its places: weighted accuracy, (n, G)."""
        return self._weighted(self._at_places(self._accuracy_on_grid))

    @cached_property
    def costs(self) -> Floats:
        """The tokens that each query is expected to use at its places: (n, G)."""
        used = self._used_on_grid
        return self.places.astype(np.float64) if used is None else self._at_places(used)

    def _at_places(self, on_grid: Floats) -> Floats:
        """Curves on the grid, read at the places; only floors and caps need to be interpolated."""
        low = interpolate(self._grid, on_grid, self.floors)[:, None]
        high = interpolate(self._grid, on_grid, self.caps)[:, None]
        inside: Floats = np.where(self._grid[None, :] <= self.floors[:, None], low, on_grid)
        return np.where(self._grid[None, :] >= self.caps[:, None], high, inside)

    def _weighted(self, values: Floats) -> Floats:
        return values if self.weights is None else values * self.weights[:, None]

    def accuracy_at(self, budgets: Floats | Ints) -> Floats:
        """Expected accuracy of each query at its budget: (n,)."""
        return interpolate(self._grid, self._accuracy_on_grid, budgets)

    def cost(self, budgets: Floats | Ints) -> Floats:
        """Tokens that each query is expected to use of its budget: (n,)."""
        used = self._used_on_grid
        return np.asarray(budgets, np.float64) if used is None else interpolate(self._grid, used, budgets)

    def worth(self, budgets: Floats | Ints) -> float:
        """Total weighted expected accuracy of a plan."""
        accuracy = self.accuracy_at(budgets)
        return float(accuracy.sum() if self.weights is None else accuracy @ self.weights)

    def part(self, rows: NDArray[np.bool_], total: float) -> Problem:
        """The same problem for some of its queries, sharing ``total`` tokens."""
        return replace(
            self,
            accuracy=self.accuracy[rows],
            floors=self.floors[rows],
            caps=self.caps[rows],
            total=total,
            used=None if self.used is None else self.used[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def fill(self, budgets: Ints, left: float) -> Ints:
        """Spread ``left`` tokens that no curve asks for evenly, in steps; returns new budgets (n,)."""
        return spread_evenly(budgets, self.caps, left, self.step, self.cost)


class Policy(Protocol):
    """Splits a problem's total: returns (n,) budgets, within floors and caps, whose cost is within the total.

    Deterministic, no I/O. ``guarded``: whether a plan of it is taken only where it is expected to be worth more than
    uniform's.
    """

    name: str
    guarded: bool

    def allocate(self, problem: Problem) -> Ints:
        """Return the budget of each query in tokens."""
        ...


def gather(curves: Sequence[Curve], floors: Ints, caps: Ints, total: float, weights: Sequence[float] = ()) -> Problem:
    """The problem of queries whose curves may be known at different points; an empty curve promises nothing.

    Curves are read at the points of all, at 512 of them where there are more: several models may have answered, or
    requests have different numbers of traces, which stretch their points. Budgets of a query whose use is not known
    count whole. ``weights``: what the accuracy of each is worth; none counts where all are equal.
    """
    points = tuple(sorted({point for curve in curves for point in curve.points})) or (max(1, int(caps.max(initial=1))),)
    if len(points) > MOST_POINTS:
        points = tuple(points[at] for at in np.linspace(0, len(points) - 1, MOST_POINTS).astype(np.int64).tolist())
    accuracy = [curve.accuracies(points) for curve in curves]
    used = [curve.uses(points) for curve in curves] if any(curve.used for curve in curves) else None
    return Problem(
        np.array(points, np.int64),
        np.array(accuracy, np.float64).reshape(len(curves), len(points)),
        floors,
        caps,
        total,
        None if used is None else np.array(used, np.float64),
        None if len(set(weights)) < 2 else np.array(weights, np.float64),
    )


def interpolate(grid: Ints, values: Floats, tokens: Floats | Ints) -> Floats:
    """Read curves at one budget each: (n,) from ``values`` (n, G) on a rising ``grid`` (G,) that starts at 0.

    Linear between the grid's budgets, level beyond the last.
    """
    if len(grid) == 1:
        return values[:, 0]
    wanted = np.clip(np.asarray(tokens, np.float64), 0, grid[-1])
    at = np.clip(np.searchsorted(grid, wanted, side="right") - 1, 0, len(grid) - 2)
    rows = np.arange(len(values))
    below, above = values[rows, at], values[rows, at + 1]
    share = (wanted - grid[at]) / (grid[at + 1] - grid[at])
    result: Floats = below + share * (above - below)
    return result


def accuracy_at(points: Ints, accuracy: Floats, tokens: Floats | Ints | float) -> Floats:
    """Accuracy of each curve (n, K) at its budget, or at one budget for all: (n,)."""
    return _read(points, accuracy, tokens)


def used_at(points: Ints, used: Floats, tokens: Floats | Ints | float) -> Floats:
    """Tokens used by each usage curve (n, K) at its budget, or at one budget for all, up to the last point: (n,)."""
    return _read(points, used, tokens)


def _read(points: Ints, values: Floats, tokens: Floats | Ints | float) -> Floats:
    budgets = np.broadcast_to(np.asarray(tokens, np.float64), (len(values),))
    if points[0] == 0:
        return interpolate(points, values, budgets)
    return interpolate(np.append(0, points), np.concatenate([np.zeros((len(values), 1)), values], axis=1), budgets)


def whole(budgets: Ints) -> Floats:
    """The cost (n,) of budgets that are expected to be used up."""
    return np.asarray(budgets, np.float64)


def spread_evenly(budgets: Ints, caps: Ints, left: float, step: int, cost: Callable[[Ints], Floats] = whole) -> Ints:
    """Raise the lowest budgets together until ``left`` tokens are spent or all caps are reached; (n,) new budgets.

    Levels are ``step`` tokens apart, and ties go to the earlier query. ``cost``: (n,) tokens that budgets are expected
    to use. Spending what a plan has no use for brings it closer to uniform, the plan that
    needs no prediction.
    """
    spent, level_low, level_high = float(cost(budgets).sum()), 0, int(caps.max(initial=0)) // step + 1

    def filled(level: int) -> Ints:
        target = np.minimum(level * step, caps)
        return np.asarray(np.maximum(budgets, target), dtype=np.int64)

    while level_low < level_high:  # the highest water level that can be paid for
        level = (level_low + level_high + 1) // 2
        if float(cost(filled(level)).sum()) - spent <= left + 1e-9:
            level_low = level
        else:
            level_high = level - 1
    result = filled(level_low)
    costs = cost(result)
    left -= float(costs.sum()) - spent
    room = np.minimum(caps - result, step)
    more = (cost(result + room) - costs).tolist()
    for query in np.argsort(result, kind="stable").tolist():  # not enough for the next level: the lowest go first
        if left < 1:
            break
        tokens, paid = int(room[query]), more[query]
        while paid > left + 1e-9:  # as many as can be paid; a token of budget costs a token at most
            tokens = min(tokens - 1, max(int(left), int(tokens * left / paid)))
            paid = float((cost(result + np.where(np.arange(len(result)) == query, tokens, 0)) - costs)[query])
        result[query] += tokens
        costs[query] += paid
        left -= paid
    return result
