"""What curves are worth on measured questions: gains over uniform at equal tokens, and intervals of their differences.

A plan is what the price comes to once it has settled: the envelopes of all curves, at the operator's mean budget. Where
curves are alike, who gets the tokens is chance; accuracies are means over several drawings of it, which takes that
chance out of the interval. Where the questions' use of budgets was measured, a plan that used more than uniform did is
made again with fewer tokens, until it used no more: a predictor that is wrong about use must not buy its gain with
tokens that uniform did not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporters.learning.promotion import Interval
from exporters.learning.states import PromptState, joined
from exporters.measure.curves import Curves
from exporters.replay.evaluate import Predicted, bootstrap, plan_problem, predictions
from predictor_service.model import LoadedModel
from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.plan import make_plan
from scheduler_service.allocation.problem import accuracy_at, used_at

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_DRAWINGS = 8
_LOOKS = 12  # how often a plan is made with fewer tokens; after that it counts as uniform
_LEAST_STEP = 0.01  # of the tokens, and one of them at least: plans are made of whole ones
_ROUNDING = 0.002  # tokens are whole


@dataclass(frozen=True, eq=False)
class Gains:
    """Each question's accuracy less what uniform gave it (n,), and mean tokens used by the plan and by uniform."""

    gains: Floats
    used: float
    uniform_used: float


def foretold(model: LoadedModel, curves: Curves, states: Sequence[PromptState | None]) -> Predicted | None:
    """Return what a model says of the questions of ``curves``, whose prompts have these states.

    It does not stand by a question without the state that it reads, which gets the uniform budget, as the scheduler
    gives it; ``None`` where no question has one, or where its curves are at other points than were measured.
    """
    manifest = model.manifest
    if manifest.budget_points != tuple(curves.points.tolist()):
        return None
    if not manifest.hidden_size:
        return predictions(model, curves, None)
    hidden, known = joined(states, (manifest.layer, manifest.hidden_size))
    if not known.any():
        return None
    found = predictions(model, curves, hidden)
    used = None if found.used is None else np.where(known[:, None], found.used, found.used[known].mean(axis=0))
    return replace(found, used=used, stands=found.covered & known)


def gains(predicted: Predicted | None, curves: Curves, budget: int) -> Gains:
    """Score predicted curves, and what they say of use, on measured ones; ``None`` for uniform budgets."""
    points, measured = curves.points, curves.used
    uniform = accuracy_at(points, curves.accuracy, budget)
    allowed = uniform_use(curves, budget)
    if predicted is None or not len(predicted.accuracy):
        return Gains(np.zeros(len(uniform)), allowed, allowed)
    orders = [np.random.default_rng(at).permutation(len(uniform)) for at in range(_DRAWINGS)]
    total = float(budget)
    for _ in range(_LOOKS):
        used = None if measured is None else predicted.used
        plans = [_plan(points, predicted, used, total, order) for order in orders]
        spent = float(np.mean([plan if measured is None else used_at(points, measured, plan) for plan in plans]))
        if spent <= allowed * (1 + _ROUNDING):
            reached = np.mean([accuracy_at(points, curves.accuracy, plan) for plan in plans], axis=0)
            return Gains(reached - uniform, spent, allowed)
        total = min(total * allowed / spent, total - max(1.0, _LEAST_STEP * total))
    return Gains(np.zeros(len(uniform)), allowed, allowed)


def _plan(points: Ints, predicted: Predicted, used: Floats | None, budget: float, order: Ints) -> Ints:
    """The budgets of one drawing: of equal curves, those that come first in ``order`` are served first."""
    problem = plan_problem(
        points, predicted.accuracy[order], max(1, int(budget)), None if used is None else used[order]
    )
    budgets = np.empty(len(order), np.int64)
    budgets[order] = make_plan(Envelope(), problem, predicted.covered[order]).budgets
    return budgets


def difference(one: Floats, other: Floats, seed: int = 0) -> Interval:
    """The mean of ``one`` less ``other``, gains (n,) on the same questions, with its 95 % bootstrap interval."""
    if not len(one):
        return Interval(0.0, 0.0, 0.0, 0)
    paired = one - other
    low, high = bootstrap(paired, np.random.default_rng(seed))
    return Interval(float(paired.mean()), low, high, len(paired))


def uniform_use(curves: Curves, budget: float) -> float:
    """Tokens a question that uniform uses at a budget: all of it, where the questions' use was not measured."""
    return float(budget) if curves.used is None else float(used_at(curves.points, curves.used, budget).mean())


def saved_at_equal_accuracy(curves: Curves, budget: int, gain: float, used: float) -> float:
    """Tokens a question that uniform would use for the accuracy that a plan reached, less what the plan used.

    ``gain``: the plan's, a fraction over uniform at a mean ``budget``; ``used``: its tokens a question. Where no
    uniform budget reaches it, uniform is charged the last point: a lower bound.
    """
    reached = float(accuracy_at(curves.points, curves.accuracy, budget).mean()) + gain
    last = int(curves.points[-1])
    levels = range(budget, last + 1)
    enough = (at for at in levels if accuracy_at(curves.points, curves.accuracy, at).mean() >= reached - _ROUNDING)
    return uniform_use(curves, next(enough, last)) - used
