"""Classes of questions by their measured curves: by difficulty, as the paper has it, and by the length they need."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]

DIFFICULTY = ("easy", "medium", "hard")
SIZE = ("short", "medium", "long")
_LOWER_SHARE = _UPPER_SHARE = 0.2
_ENOUGH = 0.95
_SOFTNESS = 0.6


def difficulty_of(accuracy: Floats) -> Classes:
    """Class of each curve (n, K) by its last accuracy: best fifth easy (0), worst fifth hard (2), others medium (1)."""
    return _thirds(accuracy[:, -1], lowest=2, highest=0)


def soft_difficulty(accuracy: Floats) -> NDArray[np.float32]:
    """Class probabilities (n, 3) to train a classifier with: what ``difficulty_of`` says, softened near its borders.

    A measured accuracy a counts as a normal variable of deviation 0.6 √(a (1 − a)): measurements are noisy, and a
    medium question next to the border is no more easy than hard. Against hard labels: one point more classes right.
    """
    last = accuracy[:, -1]
    low, high = np.quantile(last, [_LOWER_SHARE, 1 - _UPPER_SHARE])
    deviation = _SOFTNESS * np.sqrt(np.maximum(last * (1 - last), 0.02))
    hard, easy = _normal((low - last) / deviation), 1 - _normal((high - last) / deviation)
    chances = np.stack([easy, np.clip(1 - easy - hard, 0, 1), hard], axis=1)
    result: NDArray[np.float32] = (chances / chances.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def _normal(values: Floats) -> Floats:
    """The normal distribution function."""
    result: Floats = (1 + np.vectorize(erf, otypes=[float])(values / sqrt(2))) / 2
    return result


def lengths_of(accuracy: Floats) -> Classes:
    """Windows that each curve (n, K) needs for 95 % of its best accuracy, from 1 to K."""
    lengths: Classes = 1 + np.argmax(accuracy >= _ENOUGH * accuracy.max(axis=1, keepdims=True), axis=1)
    return lengths


def size_of(accuracy: Floats) -> Classes:
    """Class of each curve (n, K) by the length it needs: shortest fifth short (0), longest fifth long (2).

    Among equal lengths the one that is right less often counts as longer.
    """
    return _thirds(lengths_of(accuracy) - accuracy.mean(axis=1), lowest=0, highest=2)


def _thirds(values: Floats, *, lowest: int, highest: int) -> Classes:
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)
    classes: Classes = np.where(ranks >= 1 - _UPPER_SHARE, highest, np.where(ranks < _LOWER_SHARE, lowest, 1))
    return classes


def class_means(accuracy: Floats, classes: Classes, count: int) -> Floats:
    """Mean curve of each class: (count, K); of an empty class, the mean of all."""
    means = [accuracy[classes == at] if (classes == at).any() else accuracy for at in range(count)]
    result: Floats = np.stack([rows.mean(axis=0) for rows in means])
    return result
