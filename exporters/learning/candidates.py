"""Train what there are enough questions for, and take the kind that is best on questions held out of the training.

The choice between kinds is made inside the training part: had the scoring part chosen, the winner's luck would be in
its score. Tenants whose curves lie far from the others' count with less of that distance (``robust_mean``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.learning.samples import Example
from exporters.learning.scoring import gains
from exporters.measure.curves import Curves
from exporters.predictors import mean
from exporters.predictors.trained import Trained

Floats = NDArray[np.float64]
_FOLDS = 8
_LEAST_TENANTS = 4  # fewer have no middle to speak of
_FAR = 2.0
_STEPS = 240  # of training, at least: few questions need more passes


@dataclass(frozen=True, eq=False)
class Made:
    """A trained candidate. ``held_out``: gain over uniform on questions that it was not trained on, by kind."""

    kind: str
    trained: Trained
    held_out: dict[str, float]


def curves_of(examples: Sequence[Example]) -> Curves:
    """The measured curves of examples that have been measured, all at the same points."""
    measured = [example.measured for example in examples if example.measured is not None]
    points = np.array(measured[0].budget_tokens, np.int64)
    found = Curves.measured(
        [example.key for example in examples],
        [example.sample.prompt for example in examples],
        points,
        np.array([item.accuracy for item in measured], np.float64),
        np.array([item.used_tokens for item in measured], np.float64),
    )
    samples = np.array([item.samples for item in measured], np.int64)
    return Curves(found.ids, found.questions, points, found.accuracy, found.difficulty, found.used, samples)


def robust_mean(values: Floats, tenants: Sequence[str]) -> Floats:
    """The mean curve (K,) of curves (n, K), in which no tenant's mean counts as farther off than most are.

    Each tenant's mean is held to the median of tenants' means, give or take twice their median distance from it and
    its own standard error, and then weighs as many questions as it has. With fewer than four tenants, the plain mean.
    """
    names = sorted(set(tenants))
    whole: Floats = values.mean(axis=0)
    if len(names) < _LEAST_TENANTS:
        return whole
    of = np.array(tenants)
    parts = [values[of == name] for name in names]
    means = np.stack([part.mean(axis=0) for part in parts])
    errors = np.stack([values.std(axis=0) / np.sqrt(len(part)) for part in parts])
    middle = np.median(means, axis=0)
    spread = _FAR * np.maximum(np.median(np.abs(means - middle), axis=0), errors)
    held = np.clip(means, middle - spread, middle + spread)
    weights = np.array([len(part) for part in parts], np.float64)
    result: Floats = weights @ held / weights.sum()
    return result


def make(
    examples: Sequence[Example], budget: int, *, least_text: int, kinds: Sequence[str] = ("mean_curve", "text_curve")
) -> Made:
    """Train the kinds that there are enough examples for, and return the best; of equals, the simplest.

    ``least_text``: questions from which on a predictor that reads them is tried. ``kinds``: simplest first.
    """
    curves, tenants = curves_of(examples), [example.tenant for example in examples]
    found: dict[str, tuple[Trained, float]] = {}
    for kind in kinds:
        if kind == "mean_curve":
            trained, held_out = _mean(curves, tenants)
        elif len(examples) >= least_text:
            trained, held_out = _text(curves)
        else:
            continue
        used = None if curves.used is None else np.tile(robust_mean(curves.used, tenants), (len(examples), 1))
        found[kind] = trained, float(gains(held_out, used, curves, budget).gains.mean())
    best = max(found, key=lambda kind: found[kind][1])
    return Made(best, found[best][0], {kind: gain for kind, (_, gain) in found.items()})


def _mean(curves: Curves, tenants: Sequence[str]) -> tuple[Trained, Floats]:
    count = len(tenants)
    fold = np.arange(count) % min(_FOLDS, count)
    held_out = np.empty_like(curves.accuracy)
    of = np.array(tenants)
    for at in range(int(fold.max()) + 1):
        rest = fold != at if count > 1 else fold == at
        held_out[fold == at] = robust_mean(curves.accuracy[rest], of[rest].tolist())
    used = None if curves.used is None else robust_mean(curves.used, tenants)
    return mean.of(robust_mean(curves.accuracy, tenants), used, curves), held_out


def _text(curves: Curves) -> tuple[Trained, Floats]:
    from exporters.predictors.ensemble import Recipe  # needs torch
    from exporters.predictors.train import TextRecipe, train

    count = len(curves.ids)
    batch = int(np.clip(count // 8, 8, 128))
    epochs = max(20, -(-_STEPS // -(-count // batch)))
    recipe = Recipe(members=min(8, count // 2), batch=batch, epochs=epochs, input_dropout=0.5, scale_power=0.5)
    return train("text_curve", curves, None, recipe, TextRecipe(min_texts=int(np.clip(count // 25, 3, 8))))
