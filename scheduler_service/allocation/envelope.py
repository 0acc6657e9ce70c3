"""Greedy over concave envelopes: exact for concave curves, within one segment of exact for all others.

Theory of operation. A query's curve from its floor on is replaced by its least concave majorant: straight segments of
falling slope between points that the curve really reaches. Taking the segments of all queries in order of slope until
the tokens are spent maximises total expected accuracy over the majorants (the fractional relaxation of the
multiple-choice knapsack; Sinha and Zoltners 1979). Since slopes fall within a query, the order never asks for a
segment before its predecessor. Only whole segments are bought, so that every budget lies where curve and majorant
touch, and only the last segment that does not fit separates the plan from the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scheduler_service.allocation.policy import Floats, Ints, Problem


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
    width = problem.window_tokens
    count, windows = problem.curves.shape
    points, open_places = problem.values, problem.open_places
    places = np.arange(windows + 1) * width
    at_window = problem.floors // width
    at_tokens = problem.floors.astype(np.int64)
    at_value = points[np.arange(count), at_window]
    last = problem.caps // width
    active = np.flatnonzero(at_window < last)
    queries, tokens, slopes = [], [], []
    while len(active):
        distance = (places[None, :] - at_tokens[active, None]).astype(float)
        ahead = (places[None, :] > at_tokens[active, None]) & open_places[active]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(ahead, (points[active] - at_value[active, None]) / distance, -np.inf)
        steepest = slope.max(axis=1)
        # The nearest of equal slopes: short segments leave less unspent. Rounding must not hide that they are equal.
        best = np.argmax(slope >= (steepest - np.abs(steepest) * 1e-9)[:, None], axis=1)
        rising = steepest > 0
        active, best, steepest = active[rising], best[rising], steepest[rising]
        queries.append(active)
        tokens.append(places[best] - at_tokens[active])
        slopes.append(steepest)
        at_tokens[active], at_value[active] = places[best], points[active, best]
        active = active[best < last[active]]
    if not queries:
        return Segments(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    query, length, slope = np.concatenate(queries), np.concatenate(tokens), np.concatenate(slopes)
    # Stable, so that equal slopes keep the order of rounds: a query's segments stay in the order of its curve.
    order = np.argsort(-slope, kind="stable")
    return Segments(query[order], length[order], slope[order])


def segments_of(curve: Sequence[float], floor: int, cap: int, width: int) -> list[tuple[float, int]]:
    """The rising envelope segments (slope, tokens) of one curve, as ``envelope_segments`` finds them, in plain Python.

    For one request at a time: arrays of one row cost more than the work. A monotone chain (Andrew 1979) over the
    curve's points between floor and cap; points on a straight stretch are kept, so that segments stay short.
    """
    first, last = floor // width, cap // width
    hull = [(floor, curve[first - 1] if first else 0.0)]
    for window in range(first + 1, last + 1):
        place, value = window * width, curve[window - 1]
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
