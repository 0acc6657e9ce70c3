"""How much a predictor's curves are worth: allocate by them, score with the measured curves, beside both oracles.

Accuracy is the mean of the measured curves at the planned budgets. Plans are compared with uniform at equal tokens, in
two ways. At equal *reserved* tokens every plan, uniform's included, gives at most the mean budget, and budgets count
whole. At equal *used* tokens, where the predictor says what budgets will use, a plan is expected to use what uniform is
expected to use at that mean budget; what both then really use stands beside. Each question gets at least the first
budget point, as in the paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import Curves, pearson
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from scheduler_service.allocation import POLICIES, Policy, Problem, make_plan
from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.price import Price
from scheduler_service.allocation.problem import accuracy_at, used_at

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MOST_SHOWN, _WHOLE = 100, 0.01
ADAPTIVE: tuple[Policy, ...] = (POLICIES["greedy"], POLICIES["envelope"], Price())


@dataclass(frozen=True)
class Scored:
    """A policy at one budget. ``band``: 95 % bootstrap interval over questions of its gain over uniform (fractions).

    ``tokens_per_query``: mean budget. ``used_tokens_per_query``: what the budgets used, by measured lengths; the mean
    budget where no lengths were measured.
    """

    accuracy: float
    tokens_per_query: float
    used_tokens_per_query: float
    gain: float
    band: tuple[float, float]


@dataclass(frozen=True)
class AtBudget:
    """All policies at one mean budget; accuracies are fractions.

    ``uniform_used_tokens_per_query``: what uniform used, by measured lengths; ``None`` where none were measured.
    ``oracle`` plans with the curves that score it, ``oracle_split`` with one half of their samples and is scored on the
    other: the part of the oracle's gain that is no luck; ``None`` where a question has a single sample. ``policies``
    and oracles are at equal used tokens where the predictor says what budgets use, else at equal reserved tokens;
    ``policies_at_equal_reserved`` always.
    """

    tokens_per_query: int
    uniform: float
    uniform_used_tokens_per_query: float | None
    oracle: float
    oracle_split: float | None
    policies: dict[str, Scored]
    policies_at_equal_reserved: dict[str, Scored]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model on a curves file. ``pearson``: of predicted and measured accuracy, over questions × points.

    ``basis``: what ``policies`` are equal in with uniform, ``used`` or ``reserved`` tokens. ``used_pearson``: of
    predicted and measured use; ``None`` where either is not known. ``reliability``: (predicted, measured) accuracy in
    twenty bins of equal size. ``difficulty_accuracy``: share of questions put into the right class, by models that
    classify.
    """

    queries: int
    model: dict[str, str]
    pearson: float
    budgets: list[AtBudget]
    reliability: list[tuple[float, float]]
    difficulty_accuracy: float | None = None
    basis: str = "reserved"
    used_pearson: float | None = None

    def as_json(self) -> dict[str, object]:
        """The evaluation as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Evaluation:
        """The evaluation that ``as_json`` gave. Raises KeyError or TypeError where it is none."""

        def scored(at: dict[str, Any]) -> dict[str, dict[str, Scored]]:
            kinds = ("policies", "policies_at_equal_reserved")
            return {kind: {name: Scored(**one) for name, one in at[kind].items()} for kind in kinds}

        budgets = [AtBudget(**{**at, **scored(at)}) for at in raw["budgets"]]
        return cls(**{**raw, "budgets": budgets})


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model says of questions: ``accuracy`` and ``used`` (n, K), ``difficulty`` (n, 3); the last two or none.

    ``stands``: whether it stands by each (n,), or abstains, so that the question gets the uniform budget; ``None`` for
    all.
    """

    accuracy: Floats
    used: Floats | None = None
    difficulty: Floats | None = None
    stands: NDArray[np.bool_] | None = None

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Which questions (n,) are planned by it."""
        return np.ones(len(self.accuracy), dtype=bool) if self.stands is None else self.stands


def predictions(model: LoadedModel, curves: Curves, hidden: NDArray[np.float32] | None, batch: int = 64) -> Predicted:
    """Return the model's curves for every question, at its own points.

    What is no number, which it abstains on, is no accuracy, and whole budgets used. Raises ValueError where its points
    are not the file's, or where it needs hidden states.
    """
    own = model.manifest.budget_points
    if own != tuple(curves.points.tolist()):
        raise ValueError(f"--model: {model.name} predicts {_points(own)}, the file has {_points(curves.points)}")
    if model.manifest.hidden_size and hidden is None:
        raise ValueError(f"--hidden-states: model {model.name} needs them")
    queries = [
        Query(question, None if hidden is None or not model.manifest.hidden_size else hidden[row])
        for row, question in enumerate(curves.questions)
    ]
    parts = [model.run(queries[at : at + batch]) for at in range(0, len(queries), batch)]

    def whole(rows: list[NDArray[np.float32] | None]) -> Floats | None:
        found = [row for row in rows if row is not None]
        return np.concatenate(found).astype(np.float64) if found else None

    accuracy = np.concatenate([part.curves for part in parts]).astype(np.float64)
    stands = np.concatenate([part.abstained for part in parts]) == 0
    used, difficulty = whole([part.used for part in parts]), whole([part.difficulty for part in parts])
    accuracy = np.where(np.isfinite(accuracy), accuracy, 0.0)
    used = None if used is None else np.where(np.isfinite(used).all(axis=1, keepdims=True), used, curves.points)
    return Predicted(accuracy, used, difficulty, stands)


def _points(points: tuple[int, ...] | Ints) -> str:
    return f"{len(points)} points from {points[0]} to {points[-1]} tokens"


def evaluate(predicted: Predicted, curves: Curves, model: dict[str, str], *, seed: int = 0) -> Evaluation:
    """Score predicted curves against measured ones."""
    rng = np.random.default_rng(seed)
    samples = np.full(len(curves.ids), _samples_shown(curves.accuracy)) if curves.samples is None else curves.samples
    halves = [split_samples(curves.accuracy, samples, rng) for _ in range(4)] if samples.min() > 1 else []
    known = predicted.used is not None and curves.used is not None
    budgets = [
        _at_budget(budget, predicted, curves, halves, rng, by_use=known) for budget in curves.points.tolist() if budget
    ]
    return Evaluation(
        len(curves.ids),
        model,
        pearson(predicted.accuracy, curves.accuracy),
        budgets,
        reliability(predicted.accuracy, curves.accuracy),
        basis="used" if known else "reserved",
        used_pearson=pearson(predicted.used, curves.used)
        if predicted.used is not None and curves.used is not None
        else None,
    )


def reliability(predicted: Floats, measured: Floats, bins: int = 20) -> list[tuple[float, float]]:
    """Mean predicted and measured accuracy in bins of equally many values, by predicted accuracy; of few, fewer."""
    parts = np.array_split(np.argsort(predicted, axis=None), min(bins, predicted.size))
    return [(float(predicted.ravel()[part].mean()), float(measured.ravel()[part].mean())) for part in parts]


def split_samples(measured: Floats, samples: Ints, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Split at random the samples, two or more, that each row of values averages; returns both halves' curves."""
    count = samples[:, None]
    right = np.rint(measured * count).astype(np.int64)
    half = np.broadcast_to(count // 2, right.shape)
    first = rng.hypergeometric(right, count - right, half)
    return first / half, (right - first) / (count - half)


def _samples_shown(measured: Floats) -> int:
    """How many samples the values show, where the file does not say: the least that all are shares of, or a hundred."""
    for samples in range(1, _MOST_SHOWN):
        whole = measured * samples
        if np.abs(whole - np.rint(whole)).max() < _WHOLE:
            return samples
    return _MOST_SHOWN


def plan_problem(points: Ints, accuracy: Floats, budget: int, used: Floats | None = None) -> Problem:
    """The whole file as one problem at a mean budget: what uniform is expected to use there is what may be used."""
    count = len(accuracy)
    floors, caps = np.full(count, min(int(points[0]), budget)), np.full(count, int(points[-1]))
    total = float(budget * count) if used is None else float(used_at(points, used, budget).sum())
    return Problem(points, accuracy, floors, caps, total, used)


def _at_budget(
    budget: int,
    predicted: Predicted,
    curves: Curves,
    halves: list[tuple[Floats, Floats]],
    rng: np.random.Generator,
    *,
    by_use: bool,
) -> AtBudget:
    uniform = accuracy_at(curves.points, curves.accuracy, budget)
    covered = predicted.covered
    reserved = _scored(plan_problem(curves.points, predicted.accuracy, budget), curves, covered, uniform, rng)
    scored, measured_use = reserved, None
    if by_use:
        measured_use = curves.used
        problem = plan_problem(curves.points, predicted.accuracy, budget, predicted.used)
        scored = _scored(problem, curves, covered, uniform, rng)

    def oracle(plan_on: Floats, score_on: Floats) -> float:
        budgets = Envelope(spread=False).allocate(plan_problem(curves.points, plan_on, budget, measured_use))
        return float(accuracy_at(curves.points, score_on, budgets).mean())

    split = [
        oracle(plan_on, score_on) - float(accuracy_at(curves.points, score_on, budget).mean())
        for plan_on, score_on in halves
    ]
    return AtBudget(
        tokens_per_query=budget,
        uniform=float(uniform.mean()),
        uniform_used_tokens_per_query=None
        if curves.used is None
        else float(used_at(curves.points, curves.used, budget).mean()),
        oracle=oracle(curves.accuracy, curves.accuracy),
        oracle_split=float(uniform.mean() + np.mean(split)) if split else None,
        policies=scored,
        policies_at_equal_reserved=reserved,
    )


def _scored(
    problem: Problem, curves: Curves, covered: NDArray[np.bool_], uniform: Floats, rng: np.random.Generator
) -> dict[str, Scored]:
    """Every adaptive policy's plan of a problem, scored by the measured curves; ``covered``: whom predictions plan."""
    policies = {}
    for policy in ADAPTIVE:
        budgets = make_plan(policy, problem, covered).budgets
        accuracy = accuracy_at(curves.points, curves.accuracy, budgets)
        gains = accuracy - uniform
        used = budgets if curves.used is None else used_at(curves.points, curves.used, budgets)
        policies[policy.name] = Scored(
            float(accuracy.mean()),
            float(budgets.mean()),
            float(used.mean()),
            float(gains.mean()),
            bootstrap(gains, rng),
        )
    return policies


def bootstrap(gains: Floats, rng: np.random.Generator, rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean of ``gains`` when questions are drawn again with replacement."""
    weights = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=rounds) / len(gains)
    low, high = np.quantile(weights @ gains, [0.025, 0.975])
    return float(low), float(high)


def evaluate_folder(folder: Path, curves: Curves, hidden: NDArray[np.float32] | None) -> Evaluation:
    """Evaluate a model folder. Raises ValueError where it does not fit the curves or the hidden states."""
    model = LoadedModel(folder)
    if hidden is not None and model.manifest.hidden_size not in (0, hidden.shape[1]):
        raise ValueError(
            f"--hidden-states: {hidden.shape[1]} components, {model.name} takes {model.manifest.hidden_size}"
        )
    predicted = predictions(model, curves, hidden)
    found = evaluate(predicted, curves, {"name": model.manifest.name, "version": model.manifest.version})
    if predicted.difficulty is None:
        return found
    return replace(found, difficulty_accuracy=float((predicted.difficulty.argmax(axis=1) == curves.difficulty).mean()))
