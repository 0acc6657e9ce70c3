"""What abstaining saves on kinds of task that a predictor never saw, and what it costs on those that it knows.

Points are accuracy in % over uniform at equal tokens, of guarded envelope plans. A request that the predictor abstains
on gets the uniform budget; ``MEAN_CURVE`` is the rival that gives it the mean curve of the predictor's training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporters.experiments.table import Floats, Table, points
from exporters.measure.curves import Curves, window_points
from exporters.predictors.ensemble import Recipe
from exporters.predictors.familiarity import learn_familiarity
from exporters.predictors.train import TextRecipe, TrainedHead, train
from exporters.replay.evaluate import plan_problem
from scheduler_service.allocation import POLICIES, make_plan
from scheduler_service.allocation.problem import accuracy_at

TRUSTED, UNIFORM, MEAN_CURVE = "as predicted", "abstain: uniform", "abstain: mean curve"
_WORTH = 2.0  # points: of smaller gains, a share says nothing

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Strange:
    """A kind of task that a predictor never saw. ``found``: the share of its questions that it abstains on.

    ``worst``: by what is done about them, the least points over uniform at any budget, where the questions are all the
    traffic or come among the others.
    """

    kind: str
    found: float
    worst: dict[str, float]


@dataclass(frozen=True)
class Unseen:
    """What came out. ``known``: points at each budget on known kinds, by what is done; ``budgets``: those.

    ``false_alarms``: the share of held-out questions of known kinds that are abstained on.
    """

    strange: list[Strange]
    budgets: list[int]
    known: dict[str, list[float]]
    false_alarms: float

    @property
    def worst_points(self) -> float:
        """The least points over uniform on any unseen kind, at any budget, with abstention."""
        return min(one.worst[UNIFORM] for one in self.strange)

    @property
    def known_gain_lost_share(self) -> float:
        """The largest share of the gain on known kinds that abstaining costs, at any budget that gains two points."""
        pairs = zip(self.known[TRUSTED], self.known[UNIFORM], strict=True)
        return max((max(0.0, 1 - left / gain) for gain, left in pairs if gain >= _WORTH), default=0.0)


def unseen(
    curves: Curves,
    groups: NDArray[np.str_],
    recipe: Recipe,
    text: TextRecipe | None = None,
    hidden: NDArray[np.float32] | None = None,
) -> Unseen:
    """Ask predictors of all kinds but one, trained on ``curves``, for the one; ``groups``: the kind of each (n,).

    Predictors are ``text_curve``, or ``hidden_state_mlp`` where ``hidden`` (n, size) is given.
    """
    kind = "text_curve" if hidden is None else "hidden_state_mlp"
    known = replace(curves, used=None)  # what budgets use is not asked here, and takes half the time of training
    strange = []
    for group in np.unique(groups):
        rest, own = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
        states = None if hidden is None else hidden[rest]
        trained, held_out = train(kind, known.chosen(rest), states, recipe, text)
        predicted = np.empty_like(known.accuracy)
        predicted[rest] = held_out
        asked = known.chosen(own).questions, None if hidden is None else hidden[own]
        predicted[own] = trained.reference(*asked)
        abstained = np.zeros(len(groups), dtype=bool)
        abstained[own] = _strange(trained, *asked)
        mean = np.array(trained.calibration.mean_curve)
        strange.append(_scored(str(group), predicted, known.accuracy, abstained, mean, groups == group))
    _, predicted = train(kind, known, hidden, recipe, text)
    return _with_known(strange, predicted, known, hidden)


def elsewhere(name: str, trained: TrainedHead, asked: Curves, hidden: NDArray[np.float32] | None = None) -> Strange:
    """Ask a trained predictor for questions of quite another source."""
    predicted = trained.reference(asked.questions, hidden)
    abstained = _strange(trained, asked.questions, hidden)
    everyone = np.ones(len(asked.ids), dtype=bool)
    return _scored(name, predicted, asked.accuracy, abstained, np.array(trained.calibration.mean_curve), everyone)


def _with_known(
    strange: list[Strange], predicted: Floats, curves: Curves, hidden: NDArray[np.float32] | None
) -> Unseen:
    """Add what abstaining costs on known kinds: every question is asked of members that never saw it."""
    learned = learn_familiarity(curves.questions if hidden is None else None, hidden)
    alarms = np.zeros(len(curves.ids), dtype=bool) if learned is None else learned.alarms
    budgets = [budget for budget in curves.points.tolist() if budget]
    mean = curves.accuracy.mean(axis=0)
    known = {
        name: [
            float(_over_uniform(name, predicted, curves.accuracy, alarms, mean, budget).mean()) for budget in budgets
        ]
        for name in (TRUSTED, UNIFORM, MEAN_CURVE)
    }
    return Unseen(strange, budgets, known, float(alarms.mean()))


def _strange(trained: TrainedHead, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Bools:
    distance, known = trained.unfamiliarity(texts, hidden), trained.familiarity
    if distance is None or known is None:
        return np.zeros(len(texts), dtype=bool)
    found: Bools = distance > known.limit
    return found


def _scored(name: str, predicted: Floats, measured: Floats, abstained: Bools, mean: Floats, own: Bools) -> Strange:
    """Score the questions ``own``, alone and among the others."""
    budgets = window_points(measured.shape[1]).tolist()
    alone = predicted[own], measured[own], abstained[own], mean
    worst = {}
    for what in (TRUSTED, UNIFORM, MEAN_CURVE):
        found = [float(_over_uniform(what, *alone, budget).mean()) for budget in budgets]
        if not own.all():
            among = (_over_uniform(what, predicted, measured, abstained, mean, budget)[own] for budget in budgets)
            found += [float(one.mean()) for one in among]
        worst[what] = min(found)
    return Strange(name, float(abstained[own].mean()), worst)


def _over_uniform(
    what: str, predicted: Floats, measured: Floats, abstained: Bools, mean: Floats, budget: int
) -> Floats:
    """Points over uniform of each question (n,), at a mean budget."""
    known = ~abstained if what == UNIFORM else np.ones(len(measured), dtype=bool)
    curves = np.where(abstained[:, None], mean, predicted) if what == MEAN_CURVE else predicted
    places = window_points(measured.shape[1])
    plan = make_plan(POLICIES["envelope"], plan_problem(places, curves, budget), known)
    gained: Floats = 100 * (accuracy_at(places, measured, plan.budgets) - accuracy_at(places, measured, plan.baselines))
    return gained


def abstention_table(found: Unseen, others: Sequence[Strange] = ()) -> Table:
    """What became of each unseen kind, the least points over uniform by what is done about it."""
    whats = (TRUSTED, UNIFORM, MEAN_CURVE)
    rows = [
        [one.kind, f"{one.found:.0%}", *points([one.worst[what] for what in whats])]
        for one in [*found.strange, *others]
    ]
    return Table(["never seen", "abstained on", *(f"worst, {what}" for what in whats)], rows)


def known_table(found: Unseen, budgets: Sequence[int] = (32, 48, 64)) -> Table:
    """Points over uniform on known kinds, by what is done about false alarms."""
    rows = [[what, *points([gains[found.budgets.index(at)] for at in budgets])] for what, gains in found.known.items()]
    return Table(["known kinds", *(f"{budget} tokens" for budget in budgets)], rows)
