"""Curves of classes instead of questions, beside the size baseline, at every budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from exporters.experiments.table import Floats, Table, gains, points
from exporters.measure.curves import WINDOW_TOKENS, Curves, window_points
from scheduler_service.allocation.problem import accuracy_at

EVERY_BUDGET = tuple(range(32, 257, 16))
_ENOUGH = 0.95


def buckets(
    curves: Curves,
    classes: Mapping[str, NDArray[np.str_]],
    training: Curves,
    train_classes: NDArray[np.str_],
    predicted: Mapping[str, Floats],
) -> Table:
    """Allocate by the mean training curve of each difficulty class, and by a size baseline, as the paper does.

    ``classes``: by name, a class per question. ``predicted``: by name, the curves (n, K) of classifying models. Size
    baseline: the class tells a length (the smallest budget with 95 % of its mean curve's best accuracy); every
    question gets its own, all scaled by one factor to the budget. A model's lengths are those of its own curves.
    """
    names = sorted(set(train_classes.tolist()))
    means = {name: training.accuracy[train_classes == name].mean(axis=0) for name in names}
    tables = {label: np.array([means[name] for name in found]) for label, found in classes.items()}
    rows = []
    for label, table in {**tables, **predicted}.items():
        rows.append([f"{label}: curves", *points(gains(table, curves.accuracy, EVERY_BUDGET))])
        lengths = WINDOW_TOKENS * (1.0 + np.argmax(table >= _ENOUGH * table.max(axis=1, keepdims=True), axis=1))
        sizes = [_size_gain(lengths, curves.accuracy, budget) for budget in EVERY_BUDGET]
        rows.append([f"{label}: lengths", *points(sizes)])
    return Table(["policy", *[str(budget) for budget in EVERY_BUDGET]], rows)


def _size_gain(lengths: Floats, measured: Floats, budget: int) -> float:
    """Points over uniform when questions get budgets in proportion to their lengths, within one window and the cap."""
    places = window_points(measured.shape[1])
    cap = int(places[-1])
    low, high = 0.0, 100.0
    for _ in range(50):
        factor = (low + high) / 2
        planned = np.clip(lengths * factor, WINDOW_TOKENS, cap)
        low, high = (factor, high) if planned.mean() <= budget else (low, factor)
    planned = np.clip(lengths * low, WINDOW_TOKENS, cap)
    uniform = accuracy_at(places, measured, budget).mean()
    return 100 * float(accuracy_at(places, measured, planned).mean() - uniform)
