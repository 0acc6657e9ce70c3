"""Greedy over concave envelopes: exact for concave curves, within one segment of exact for all others.

Theory of operation. A query's curve from its floor on is replaced by its least concave majorant: straight segments of
falling slope between points that the curve really reaches. Taking the segments of all queries in order of slope until
the tokens are spent maximises total expected accuracy over the majorants (the fractional relaxation of the
multiple-choice knapsack; Sinha and Zoltners 1979). Since slopes fall within a query, the order never asks for a
segment before its predecessor. Only whole segments are bought, so that every budget lies where curve and majorant
touch, and only the last segment that does not fit separates the plan from the optimum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scheduler_service.allocation.policy import Floats, Ints, Problem

_BLOCK = 16384  # queries at a time, for the cache
_WIDE = 128  # places from which on a table of all their distances costs more than a pass over each curve


@dataclass(frozen=True, eq=False)
class Segments:
    """Envelope segments of all queries, in falling order of slope; ties by query, then by position on the curve.

    ``query``, ``tokens``: (s,) int64; ``slope``: (s,) accuracy per token, all positive.
    """

    query: Ints
    tokens: Ints
    slope: Floats


def envelope_segments(problem: Problem) -> Segments:
    """Return the rising segments of every query's least concave majorant between its floor and its cap."""
    found = _wide_segments(problem) if problem.curves.shape[1] >= _WIDE else _narrow_segments(problem)
    query, length, steep = found.query, found.tokens, found.slope
    # Stable, so that equal slopes keep the order of a query's segments on its curve.
    order = np.argsort(-steep, kind="stable")
    return Segments(query[order], length[order], steep[order])


def _wide_segments(problem: Problem) -> Segments:
    """The segments query by query, in time and memory that grow as queries × windows."""
    width, values, open_places = problem.window_tokens, problem.values, problem.open_places
    queries: list[int] = []
    tokens: list[int] = []
    slopes: list[float] = []
    for query, floor in enumerate(problem.floors.tolist()):
        windows = floor // width + 1 + np.flatnonzero(open_places[query, floor // width + 1 :])
        ahead = zip((windows * width).tolist(), values[query, windows].tolist(), strict=True)
        for slope, length in _rising(floor, float(values[query, floor // width]), ahead):
            queries.append(query)
            tokens.append(length)
            slopes.append(slope)
    return Segments(np.array(queries, np.int64), np.array(tokens, np.int64), np.array(slopes, float))


def _narrow_segments(problem: Problem) -> Segments:
    """The segments of all queries side by side, round by round: each round finds everybody's next one."""
    width = problem.window_tokens
    # Places along the first axis, so that the best of each query is found by whole rows.
    points = np.where(problem.open_places, problem.values, -1.0).T  # a closed place lies below every open one
    start_values = problem.values[np.arange(points.shape[1]), problem.floors // width]
    places = np.arange(len(points)) * width
    ahead = places[:, None] - places[None, :]
    per_token = np.divide(1.0, ahead, out=np.zeros(ahead.shape), where=ahead > 0)  # 0: no gain behind
    queries: list[Ints] = [np.empty(0, np.int64)]
    tokens: list[Ints] = [np.empty(0, np.int64)]
    slopes: list[Floats] = [np.empty(0)]
    for block in range(0, points.shape[1], _BLOCK):
        own = np.ascontiguousarray(points[:, block : block + _BLOCK])
        active = np.arange(own.shape[1])
        rows, value, begins = own, start_values[block + active], problem.floors[block + active]
        first = places[:, None] - begins[None, :]
        inverse = np.divide(1.0, first, out=np.zeros(first.shape), where=first > 0)
        while len(active):
            slope = rows - value
            slope *= inverse
            steepest = slope.max(axis=0)
            # The nearest of equal slopes: short segments leave less unspent. Rounding must not hide equality.
            best = (slope >= steepest * (1 - 1e-9)).argmax(axis=0)
            rising = steepest > 0
            if not rising.all():
                active, best, steepest, begins = active[rising], best[rising], steepest[rising], begins[rising]
            ends = places[best]
            queries.append(active + block)
            tokens.append(ends - begins)
            slopes.append(steepest)
            begins, rows = ends, own.take(active, axis=1)
            value, inverse = rows[best, np.arange(len(active))], per_token.take(best, axis=1)
    return Segments(np.concatenate(queries), np.concatenate(tokens), np.concatenate(slopes))


def segments_of(curve: Sequence[float], floor: int, cap: int, width: int) -> list[tuple[float, int]]:
    """The rising envelope segments (slope, tokens) of one curve, as ``envelope_segments`` finds them, in plain Python.

    For one request at a time: arrays of one row cost more than the work.
    """
    first, last = floor // width, cap // width
    ahead = ((window * width, curve[window - 1]) for window in range(first + 1, last + 1))
    return _rising(floor, curve[first - 1] if first else 0.0, ahead)


def _rising(floor: int, start: float, ahead: Iterable[tuple[int, float]]) -> list[tuple[float, int]]:
    """The rising segments (slope, tokens) from the point (floor, start) over those ahead of it, which rise in tokens.

    A monotone chain (Andrew 1979); points on a straight stretch are kept, so that segments stay short.
    """
    hull = [(floor, start)]
    for place, value in ahead:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2], hull[-1]
            before = (y1 - y0) * (place - x0)
            if before >= (value - y0) * (x1 - x0) - abs(before) * 1e-9:
                break
            hull.pop()
        hull.append((place, value))
    segments = []
    for (x0, y0), (x1, y1) in pairwise(hull):
        slope = (y1 - y0) / (x1 - x0)
        if slope <= 0:
            break
        segments.append((slope, x1 - x0))
    return segments


class Envelope:
    """Buys envelope segments by slope, then, unless told not to, spreads what is left evenly."""

    name = "envelope"
    guarded = True

    def __init__(self, *, spread: bool = True) -> None:
        """``spread``: whether tokens that no curve has a use for are given all the same, evenly."""
        self._spread = spread

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,)."""
        budgets = problem.floors.copy()
        left = problem.total - int(budgets.sum())
        segments = envelope_segments(problem)
        paid = np.cumsum(segments.tokens)
        whole = int(np.searchsorted(paid, left, side="right"))
        np.add.at(budgets, segments.query[:whole], segments.tokens[:whole])
        left -= int(paid[whole - 1]) if whole else 0
        stopped: set[int] = set()
        shortest = int(segments.tokens[whole:].min(initial=problem.total + 1))
        for query, tokens in zip(segments.query[whole:].tolist(), segments.tokens[whole:].tolist(), strict=True):
            if left < shortest:
                break
            if tokens > left:
                stopped.add(query)  # its later segments start where this one would have ended
            elif query not in stopped:
                budgets[query] += tokens
                left -= tokens
        return problem.fill(budgets, left) if self._spread else budgets
