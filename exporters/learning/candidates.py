"""Train what there are enough questions for, and take the kind that is best on questions held out of the training.

The choice between kinds is made inside the training part: had the scoring part chosen, the winner's luck would be in
its score. Tenants whose curves lie far from all others' are moved nearer before anything is trained (``held``), and a
model that reads is trained without tenants that contradict what all others teach (``contradicting``).

A model of hidden states is held against the others on all questions: one whose state did not come gets the uniform
budget by it, as the scheduler would give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporters.learning.samples import Example
from exporters.learning.scoring import difference, gains
from exporters.learning.states import joined
from exporters.measure.curves import Curves
from exporters.predictors import mean
from exporters.predictors.kinds import Training
from exporters.predictors.trained import Trained
from exporters.replay.evaluate import Predicted

Floats = NDArray[np.float64]
_FOLDS = 8
_LEAST_TEXTS = 3  # a model holds no word of fewer prompts: it may be a name, or a secret
_LEAST_TENANTS = 4  # fewer have no middle to speak of
_LEAST_TO_CONTRADICT = 5  # questions of a tenant: the bootstrap of one has no width at all
_FAR = 2.0
_STEPS = 240  # of training, at least: few questions need more passes; of states, twice as many


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


def held(values: Floats, tenants: Sequence[str]) -> Floats:
    """Curves (n, K), those of each tenant moved so that their mean is no farther off than most tenants' means are.

    Each tenant's mean is held to the median of tenants' means, give or take twice their median distance from it or
    twice its own standard error. With fewer than four tenants nothing is moved.
    """
    names = sorted(set(tenants))
    if len(names) < _LEAST_TENANTS:
        return values
    of = np.array(tenants)
    parts = [of == name for name in names]
    means = np.stack([values[part].mean(axis=0) for part in parts])
    errors = np.stack([values.std(axis=0) / np.sqrt(part.sum()) for part in parts])
    middle = np.median(means, axis=0)
    spread = _FAR * np.maximum(np.median(np.abs(means - middle), axis=0), errors)
    moved = values.astype(np.float64)
    for part, mean_, near in zip(parts, means, np.clip(means, middle - spread, middle + spread), strict=True):
        moved[part] += near - mean_
    return moved


def make(
    examples: Sequence[Example],
    budget: int,
    *,
    least_text: int,
    kinds: Sequence[str] = ("mean_curve", "text_curve", "hidden_state_mlp"),
    seed: int = 0,
) -> Made:
    """Train the kinds that there are enough examples for, and return the best; of equals, the simplest.

    ``least_text``: questions from which on a predictor that reads them is tried; one of hidden states needs as many
    different states of the latest origin (layer and size). ``kinds``: simplest first.
    """
    measured, tenants = curves_of(examples), [example.tenant for example in examples]
    curves = replace(measured, accuracy=np.clip(held(measured.accuracy, tenants), 0, 1))
    used = None if curves.used is None else np.tile(curves.used.mean(axis=0), (len(examples), 1))
    found: dict[str, tuple[Trained, float]] = {}
    for kind in kinds:
        taught, known = _taught(kind, curves, examples)
        held_out = np.zeros_like(curves.accuracy)
        if kind == "mean_curve":
            trained, held_out = _mean(curves)
        elif taught.different >= least_text:
            trained, held_out[known] = _reading(kind, taught, seed)
        else:
            continue
        gained = gains(Predicted(held_out, used, stands=known), curves, budget).gains
        found[kind] = trained, float(gained.mean())
    best = max(found, key=lambda kind: found[kind][1])
    return Made(best, found[best][0], {kind: gain for kind, (_, gain) in found.items()})


def _mean(curves: Curves) -> tuple[Trained, Floats]:
    count = len(curves.ids)
    fold = np.arange(count) % min(_FOLDS, count)
    held_out = np.empty_like(curves.accuracy)
    for at in range(int(fold.max()) + 1):
        rest = fold != at if count > 1 else fold == at
        held_out[fold == at] = curves.accuracy[rest].mean(axis=0)
    return mean.fit("mean_curve", Training(curves, style_texts=_LEAST_TEXTS)), held_out


def contradicting(held_out: Floats, curves: Curves, tenants: Sequence[str]) -> set[str]:
    """Tenants whose curves are foretold worse by what all teach than by the mean curve: they teach the contrary.

    ``held_out``: predictions (n, K) of questions that were not trained on. A tenant with questions of a new kind is not
    among them: its other questions teach that kind. Nor is one with fewer than five questions, which chance foretells
    badly. With fewer than four tenants, none.
    """
    names, of = set(tenants), np.array(tenants)
    if len(names) < _LEAST_TENANTS:
        return set()
    by_mean = ((curves.accuracy.mean(axis=0) - curves.accuracy) ** 2).mean(axis=1)
    better = by_mean - ((held_out - curves.accuracy) ** 2).mean(axis=1)
    own = {name: better[of == name] for name in names}
    enough = {name: found for name, found in own.items() if len(found) >= _LEAST_TO_CONTRADICT}
    return {name for name, found in enough.items() if difference(found, np.zeros(len(found))).high < 0}


@dataclass(frozen=True, eq=False)
class _Taught:
    """What a kind that reads is trained on: curves of n questions, their tenants, and states (n, size) of ``layer``."""

    curves: Curves
    tenants: Sequence[str]
    states: NDArray[np.float32] | None = None
    layer: int = 0

    @property
    def different(self) -> int:
        """How many questions; or states, where these are read: an engine may send the same for whatever prompt."""
        return len(self.tenants) if self.states is None else len({state.tobytes() for state in self.states})

    def chosen(self, rows: Sequence[int]) -> _Taught:
        states = None if self.states is None else self.states[rows]
        return _Taught(self.curves.chosen(rows), [self.tenants[row] for row in rows], states, self.layer)


def _taught(kind: str, curves: Curves, examples: Sequence[Example]) -> tuple[_Taught, NDArray[np.bool_]]:
    """What a kind is trained on, and which questions (n,) these are: where it reads states, those that have one."""
    tenants = [example.tenant for example in examples]
    if kind != "hidden_state_mlp":
        return _Taught(curves, tenants), np.ones(len(tenants), bool)
    layer, size = next((one.state.origin for one in reversed(examples) if one.state is not None), (0, 0))
    states, known = joined([example.state for example in examples], (layer, size))
    return _Taught(curves, tenants, states, layer).chosen(np.flatnonzero(known).tolist()), known


def _reading(kind: str, taught: _Taught, seed: int) -> tuple[Trained, Floats]:
    """Train; where tenants contradict all others, once more without them."""
    trained, held_out = _trained(kind, taught, seed)
    curves, tenants = taught.curves, taught.tenants
    without = contradicting(held_out, curves, tenants)
    rows = [at for at, tenant in enumerate(tenants) if tenant not in without]
    if not without or len(rows) < 2 * _LEAST_TENANTS:
        return trained, held_out
    trained, found = _trained(kind, taught.chosen(rows), seed)
    held_out = np.tile(curves.accuracy[rows].mean(axis=0), (len(tenants), 1))
    held_out[rows] = found
    return trained, held_out


def _trained(kind: str, taught: _Taught, seed: int) -> tuple[Trained, Floats]:
    from exporters.predictors.ensemble import Recipe  # needs torch
    from exporters.predictors.train import TextRecipe, train

    count = len(taught.tenants)
    batch = int(np.clip(count // 8, 8, 128))
    # Dropout and power as ``exporters.predictors.train.fit`` has them for either input.
    steps, dropout, power = (_STEPS, 0.5, 0.5) if taught.states is None else (2 * _STEPS, 0.25, 1.0)
    epochs = max(20, -(-steps // -(-count // batch)))
    recipe = Recipe(
        members=min(8, count // 2), batch=batch, epochs=epochs, input_dropout=dropout, scale_power=power, seed=seed
    )
    text = TextRecipe(min_texts=int(np.clip(count // 25, _LEAST_TEXTS, 8)), style_texts=_LEAST_TEXTS)
    return train(kind, taught.curves, taught.states, recipe, text, layer=taught.layer)
