"""How much a predictor's curves are worth: allocate by them, score with the measured curves, beside both oracles.

Accuracy is the mean of the measured curves at the planned budgets. Every plan, uniform's included, spends at most the
mean budget; each question gets at least one budget window, as in the paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.curves import WINDOW_TOKENS, Curves, pearson
from predictor_service.features import Query
from predictor_service.model import LoadedModel
from scheduler_service.allocation import POLICIES, Policy, Problem, accuracy_at, make_plan
from scheduler_service.allocation.price import Price

Floats = NDArray[np.float64]
BUDGETS = tuple(range(16, 257, 16))
ADAPTIVE: tuple[Policy, ...] = (POLICIES["greedy"], POLICIES["envelope"], Price())


@dataclass(frozen=True)
class Scored:
    """A policy at one budget. ``band``: 95 % bootstrap interval over questions of its gain over uniform (fractions)."""

    accuracy: float
    tokens_per_query: float
    gain: float
    band: tuple[float, float]


@dataclass(frozen=True)
class AtBudget:
    """All policies at one mean budget; accuracies are fractions.

    ``oracle`` plans with the curves that score it, ``oracle_split`` with one half of their samples and is scored on the
    other: the part of the oracle's gain that is no luck.
    """

    tokens_per_query: int
    uniform: float
    oracle: float
    oracle_split: float
    policies: dict[str, Scored]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model on a curves file. ``pearson``: of predicted and measured accuracy, over questions × windows."""

    queries: int
    model: dict[str, str]
    pearson: float
    budgets: list[AtBudget]

    def as_json(self) -> dict[str, object]:
        """The evaluation as plain values."""
        return asdict(self)


def predict_curves(model: LoadedModel, curves: Curves, hidden: NDArray[np.float32] | None, batch: int = 64) -> Floats:
    """Return the model's curves for every question: (n, K). Raises ValueError where it needs hidden states."""
    if model.manifest.hidden_size and hidden is None:
        raise ValueError(f"--hidden-states: model {model.name} needs them")
    queries = [
        Query(question, None if hidden is None or not model.manifest.hidden_size else hidden[row])
        for row, question in enumerate(curves.questions)
    ]
    parts = [model.run(queries[at : at + batch]).curves for at in range(0, len(queries), batch)]
    return np.concatenate(parts).astype(np.float64)


def evaluate(
    predicted: Floats, measured: Floats, model: dict[str, str], *, samples: int = 100, seed: int = 0
) -> Evaluation:
    """Score ``predicted`` curves (n, K) against ``measured`` ones; ``samples``: how many a measured value averages."""
    rng = np.random.default_rng(seed)
    halves = [split_samples(measured, samples, rng) for _ in range(4)]
    budgets = [_at_budget(budget, predicted, measured, halves, rng) for budget in BUDGETS]
    return Evaluation(len(measured), model, pearson(predicted, measured), budgets)


def split_samples(measured: Floats, samples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Split each value's samples at random into two halves; returns both halves' curves."""
    right = np.rint(measured * samples).astype(np.int64)
    half = samples // 2
    first = rng.hypergeometric(right, samples - right, half)
    return first / half, (right - first) / (samples - half)


def plan_problem(curves: Floats, budget: int) -> Problem:
    """The whole file as one problem at a mean budget."""
    count, windows = curves.shape
    floors, caps = np.full(count, min(WINDOW_TOKENS, budget)), np.full(count, windows * WINDOW_TOKENS)
    return Problem(curves, floors, caps, budget * count, WINDOW_TOKENS)


def _at_budget(
    budget: int, predicted: Floats, measured: Floats, halves: list[tuple[Floats, Floats]], rng: np.random.Generator
) -> AtBudget:
    level = np.full(len(measured), budget)
    uniform = accuracy_at(measured, level, WINDOW_TOKENS)
    everyone = np.ones(len(measured), dtype=bool)
    policies = {}
    for policy in ADAPTIVE:
        plan = make_plan(policy, plan_problem(predicted, budget), everyone)
        accuracy = accuracy_at(measured, plan.budgets, WINDOW_TOKENS)
        gains = accuracy - uniform
        band = _bootstrap(gains, rng)
        policies[policy.name] = Scored(float(accuracy.mean()), float(plan.budgets.mean()), float(gains.mean()), band)
    split = [_oracle(plan_on, score_on, budget) - _uniform(score_on, budget) for plan_on, score_on in halves]
    return AtBudget(
        tokens_per_query=budget,
        uniform=float(uniform.mean()),
        oracle=_oracle(measured, measured, budget),
        oracle_split=float(uniform.mean() + np.mean(split)),
        policies=policies,
    )


def _oracle(plan_on: Floats, score_on: Floats, budget: int) -> float:
    budgets = POLICIES["envelope"].allocate(plan_problem(plan_on, budget))
    return float(accuracy_at(score_on, budgets, WINDOW_TOKENS).mean())


def _uniform(curves: Floats, budget: int) -> float:
    return float(accuracy_at(curves, np.full(len(curves), budget), WINDOW_TOKENS).mean())


def _bootstrap(gains: Floats, rng: np.random.Generator, rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean of ``gains`` when questions are drawn again with replacement."""
    weights = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=rounds) / len(gains)
    low, high = np.quantile(weights @ gains, [0.025, 0.975])
    return float(low), float(high)


def evaluate_folder(folder: Path, curves: Curves, hidden: NDArray[np.float32] | None) -> tuple[Evaluation, Floats]:
    """Evaluate a model folder; returns the evaluation and the predicted curves."""
    model = LoadedModel(folder)
    windows = curves.accuracy.shape[1]
    if model.manifest.windows != windows:
        raise ValueError(f"--model: {model.name} predicts {model.manifest.windows} windows, the file has {windows}")
    if hidden is not None and model.manifest.hidden_size not in (0, hidden.shape[1]):
        raise ValueError(
            f"--hidden-states: {hidden.shape[1]} components, {model.name} takes {model.manifest.hidden_size}"
        )
    predicted = predict_curves(model, curves, hidden)
    name = {"name": model.manifest.name, "version": model.manifest.version}
    return evaluate(predicted, curves.accuracy, name), predicted
