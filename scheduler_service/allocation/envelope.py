"""Greedy over concave envelopes: exact for concave curves, within one segment of exact for all others.

Theory of operation. A query is a curve of worth over expected cost: accuracy at each budget point over the tokens that
the point is expected to use, from its floor on. It is replaced by its least concave majorant: straight segments of
falling slope between points that the curve really reaches. Taking the segments of all queries in order of slope until
the tokens are spent maximises total expected accuracy over the majorants (the fractional relaxation of the
multiple-choice knapsack; Sinha and Zoltners 1979). Since slopes fall within a query, the order never asks for a
segment before its predecessor. Only whole segments are bought, so that every budget lies where curve and majorant
touch, and only the last segment that does not fit separates the plan from the optimum. Points need not be evenly
spaced. A segment that costs nothing, where the model has ended its thinking before, is bought first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.problem import Floats, Ints, Problem

_BLOCK = 16384  # queries at a time, for the cache
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Segments:
    """Envelope segments of all queries, in falling order of slope; ties by query, then by position on the curve.

    ``query``: (s,) int64. ``cost``: (s,) expected tokens. ``gain``: (s,) accuracy. ``slope``: (s,) gain per token, all
    positive. ``end``: (s,) int64, the budget that the query has with the segment.
    """

    query: Ints
    cost: Floats
    gain: Floats
    slope: Floats
    end: Ints


def envelope_segments(problem: Problem) -> Segments:
    """Return the rising segments of every query's least concave majorant between its floor and its cap."""
    values, costs, places = problem.values, problem.costs, problem.places
    queries: list[Ints] = [np.empty(0, np.int64)]
    lengths: list[Floats] = [np.empty(0)]
    gains: list[Floats] = [np.empty(0)]
    slopes: list[Floats] = [np.empty(0)]
    ends: list[Ints] = [np.empty(0, np.int64)]
    for block in range(0, len(values), _BLOCK):
        # Places along the first axis, so that the best of each query is found by whole rows.
        worth = np.ascontiguousarray(values[block : block + _BLOCK].T)
        cost = np.ascontiguousarray(costs[block : block + _BLOCK].T)
        active = np.arange(worth.shape[1])
        value, spent, last = worth[0], cost[0], np.full(len(active), inf)
        while len(active):
            slope = worth - value
            ahead = cost - spent
            free = (slope > 0) & (ahead <= 0)
            np.divide(slope, ahead, out=slope, where=ahead > 0)
            slope[ahead <= 0] = 0.0
            slope[free] = inf
            steepest = slope.max(axis=0)
            # The nearest of equal slopes: short segments leave less unspent. Rounding must not hide equality.
            best = (slope >= steepest * (1 - _ROUNDING)).argmax(axis=0)
            rising = steepest > 0
            if not rising.all():
                active, best, steepest = active[rising], best[rising], steepest[rising]
                worth, cost = worth[:, rising], cost[:, rising]
                value, spent, last = value[rising], spent[rising], last[rising]
            columns = np.arange(len(active))
            reached, paid = worth[best, columns], cost[best, columns]
            queries.append(active + block)
            lengths.append(paid - spent)
            gains.append(reached - value)
            last = np.minimum(last, steepest)  # on a straight stretch, rounding must not turn the order around
            slopes.append(last)
            ends.append(places[active + block, best])
            value, spent = reached, paid
    query, end = np.concatenate(queries), np.concatenate(ends)
    length, gain, steep = (np.concatenate(parts) for parts in (lengths, gains, slopes))
    # Stable, so that equal slopes keep the order of rounds: a query's segments stay in the order of its curve.
    order = np.argsort(-steep, kind="stable")
    return Segments(query[order], length[order], gain[order], steep[order], end[order])


class Segment(NamedTuple):
    """One envelope segment: weighted accuracy per expected token, expected tokens, and the budget at its end."""

    slope: float
    cost: float
    end: int


def segments_of(curve: Curve, floor: int, cap: int, weight: float = 1.0) -> list[Segment]:
    """The rising envelope segments of one curve, as ``envelope_segments`` finds them, in plain Python.

    ``weight``: what its accuracy is worth, above 0; slopes are in proportion to it, and nothing else is.

    For one request at a time: arrays of one row cost more than the work. A monotone chain (Andrew 1979) over the
    curve's points between floor and cap; points on a straight stretch are kept, so that segments stay short.
    """
    accuracy, used, points = curve.accuracy, curve.used, curve.points
    hull = [(curve.used_at(floor), curve.accuracy_at(floor), floor)]
    for at, point in enumerate(points):
        if point <= floor:
            continue
        if point < cap:
            place, value, end = (used[at] if used else float(point)), accuracy[at], point
        else:
            place, value, end = curve.used_at(cap), curve.accuracy_at(cap), cap
        if place <= hull[-1][0]:  # it costs no more: it is better than the last, or of no use
            if value <= hull[-1][1]:
                continue
            if len(hull) > 1:
                hull.pop()
        while len(hull) > 1:
            (x0, y0, _), (x1, y1, _) = hull[-2], hull[-1]
            before = (y1 - y0) * (place - x0)
            if x1 <= x0 or before >= (value - y0) * (x1 - x0) - abs(before) * _ROUNDING:  # the last was free, or stays
                break
            hull.pop()
        hull.append((place, value, end))
        if end == cap:
            break
    segments = []
    for (x0, y0, _), (x1, y1, end) in pairwise(hull):
        if y1 <= y0:
            break
        segments.append(Segment(weight * (y1 - y0) / (x1 - x0) if x1 > x0 else inf, x1 - x0, end))
    return segments


class Envelope:
    """Buys envelope segments by slope, then, where ``spread`` is set, gives out the rest evenly."""

    name = "envelope"
    guarded = True

    def __init__(self, *, spread: bool = True) -> None:
        """``spread``: whether tokens that no curve has a use for are given all the same, evenly."""
        self._spread = spread

    def allocate(self, problem: Problem) -> Ints:
        """Return budgets in tokens: (n,)."""
        budgets = problem.floors.copy()
        left = problem.total - float(problem.cost(budgets).sum())
        segments = envelope_segments(problem)
        paid = np.cumsum(segments.cost)
        whole = int(np.searchsorted(paid, left + _ROUNDING, side="right"))
        np.maximum.at(budgets, segments.query[:whole], segments.end[:whole])
        left -= float(paid[whole - 1]) if whole else 0.0
        stopped: set[int] = set()
        shortest = float(segments.cost[whole:].min(initial=problem.total + 1))
        rest = zip(*(part[whole:].tolist() for part in (segments.query, segments.cost, segments.end)), strict=True)
        for query, cost, end in rest:
            if left + _ROUNDING < shortest:
                break
            if cost > left + _ROUNDING:
                stopped.add(query)  # its later segments start where this one would have ended
            elif query not in stopped:
                budgets[query] = end
                left -= cost
        return problem.fill(budgets, left) if self._spread else budgets
