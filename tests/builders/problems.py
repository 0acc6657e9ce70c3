"""Allocation problems: arbitrary ones for laws, and small ones whose best plan is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_TOKENS
from scheduler_service.allocation import POLICIES, Curve, Problem

WIDTH = 16
EVEN = np.arange(WIDTH, 8 * WIDTH + 1, WIDTH)
POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)


@st.composite
def problems(
    draw: st.DrawFn, *, concave: bool = False, aligned: bool = False, weighted: bool = False, uneven: bool = False,
    used: bool = False,
) -> Problem:  # fmt: skip
    """Problems at even points (16, 32, …), or at any; with budgets that count whole, or by what they are used."""
    count, windows = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    points = EVEN[:windows]
    if uneven:
        points = np.array(sorted(draw(st.sets(st.integers(0, 400), min_size=windows, max_size=windows))))
        assume(points[-1] > 0)
    value = st.floats(0, 1, allow_nan=False, width=32)
    rows = [[draw(value) for _ in range(windows)] for _ in range(count)]
    if concave:  # falling gains, scaled to end below 1
        rows = [list(np.cumsum(sorted(row, reverse=True)) / max(1.0, sum(row))) for row in rows]
        rows = [[min(1.0, x) for x in row] for row in rows]
    unit = WIDTH if aligned else 1
    most = int(points[-1]) // unit + (0 if aligned else draw(st.integers(0, 40)))
    caps = np.array([draw(st.integers(0, most)) * unit for _ in range(count)])
    floors = np.array([draw(st.integers(0, cap // unit)) * unit for cap in caps.tolist()])
    weights = np.array([draw(st.floats(0, 5)) for _ in range(count)]) if weighted else None
    spent = None
    if used:  # E[min(length, point)] of a length that is one of two
        lengths = np.array([[draw(st.integers(0, 500)), draw(st.integers(0, 500))] for _ in range(count)])
        spent = np.minimum(lengths[:, :, None], points[None, None, :]).mean(axis=1)
    bare = Problem(points, np.array(rows), floors, caps, 1e9, spent, weights)
    extra = draw(st.integers(0, int(caps.sum()) // unit + 2)) * unit
    return replace(bare, total=float(bare.cost(floors).sum()) + extra)


ANY = st.one_of(
    problems(), problems(weighted=True), problems(uneven=True), problems(uneven=True, used=True, weighted=True)
)


@st.composite
def curves(draw, most=MOST_TOKENS):
    """A curve at any points; its model ends by itself at one of a few lengths, or never says how much it uses."""
    count = draw(st.integers(1, 8))
    points = tuple(sorted(draw(st.sets(st.integers(1, most), min_size=count, max_size=count))))
    accuracy = tuple(draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    lengths = draw(st.lists(st.integers(0, 2 * most), max_size=3))
    used = tuple(float(np.mean([min(length, point) for length in lengths])) for point in points) if lengths else ()
    return Curve(points, accuracy, used)


def problem(curves, total, floors=None, caps=None):
    count, windows = len(curves), len(curves[0])
    return Problem(
        np.arange(16, windows * 16 + 1, 16),
        np.array(curves, float),
        np.array(floors or [0] * count),
        np.array(caps or [windows * 16] * count),
        total,
    )
