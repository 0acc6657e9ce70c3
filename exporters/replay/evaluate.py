"""How much a predictor's curves are worth: allocate by them, score with the measured curves, beside both oracles.

Accuracy is the mean of the measured curves at the planned budgets. Every plan, uniform's included, spends at most the
mean budget; each question gets at least one budget window, as in the paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import WINDOW_TOKENS, Curves, pearson
from predictor_service.features import Query
from predictor_service.model import LoadedModel
from scheduler_service.allocation import POLICIES, Policy, Problem, accuracy_at, make_plan
from scheduler_service.allocation.envelope import Envelope
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
    """A model on a curves file. ``pearson``: of predicted and measured accuracy, over questions × windows.

    ``reliability``: (predicted, measured) accuracy in twenty bins of equal size. ``difficulty_accuracy``: share of
    questions put into the right class, by models that classify.
    """

    queries: int
    model: dict[str, str]
    pearson: float
    budgets: list[AtBudget]
    reliability: list[tuple[float, float]]
    difficulty_accuracy: float | None = None

    def as_json(self) -> dict[str, object]:
        """The evaluation as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Evaluation:
        """The evaluation that ``as_json`` gave. Raises KeyError or TypeError where it is none."""
        budgets = [
            AtBudget(**{**at, "policies": {name: Scored(**one) for name, one in at["policies"].items()}})
            for at in raw["budgets"]
        ]
        return cls(**{**raw, "budgets": budgets})


def predictions(
    model: LoadedModel, curves: Curves, hidden: NDArray[np.float32] | None, batch: int = 64
) -> tuple[Floats, Floats | None]:
    """Return the model's curves for every question (n, K), and its class probabilities (n, 3) where it has them.

    Raises ValueError where it needs hidden states.
    """
    if model.manifest.hidden_size and hidden is None:
        raise ValueError(f"--hidden-states: model {model.name} needs them")
    queries = [
        Query(question, None if hidden is None or not model.manifest.hidden_size else hidden[row])
        for row, question in enumerate(curves.questions)
    ]
    parts = [model.run(queries[at : at + batch]) for at in range(0, len(queries), batch)]
    difficulty = [part.difficulty for part in parts if part.difficulty is not None]
    found = np.concatenate([part.curves for part in parts]).astype(np.float64)
    return found, np.concatenate(difficulty).astype(np.float64) if difficulty else None


def evaluate(
    predicted: Floats, measured: Floats, model: dict[str, str], *, samples: int = 100, seed: int = 0
) -> Evaluation:
    """Score ``predicted`` curves (n, K) against ``measured`` ones; ``samples``: how many a measured value averages."""
    rng = np.random.default_rng(seed)
    halves = [split_samples(measured, samples, rng) for _ in range(4)]
    budgets = [_at_budget(budget, predicted, measured, halves, rng) for budget in BUDGETS]
    return Evaluation(len(measured), model, pearson(predicted, measured), budgets, reliability(predicted, measured))


def reliability(predicted: Floats, measured: Floats, bins: int = 20) -> list[tuple[float, float]]:
    """Mean predicted and measured accuracy in bins of equally many values, by predicted accuracy."""
    parts = np.array_split(np.argsort(predicted, axis=None), bins)
    return [(float(predicted.ravel()[part].mean()), float(measured.ravel()[part].mean())) for part in parts]


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
    budgets = Envelope(spread=False).allocate(plan_problem(plan_on, budget))
    return float(accuracy_at(score_on, budgets, WINDOW_TOKENS).mean())


def _uniform(curves: Floats, budget: int) -> float:
    return float(accuracy_at(curves, np.full(len(curves), budget), WINDOW_TOKENS).mean())


def _bootstrap(gains: Floats, rng: np.random.Generator, rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean of ``gains`` when questions are drawn again with replacement."""
    weights = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=rounds) / len(gains)
    low, high = np.quantile(weights @ gains, [0.025, 0.975])
    return float(low), float(high)


def evaluate_folder(folder: Path, curves: Curves, hidden: NDArray[np.float32] | None) -> Evaluation:
    """Evaluate a model folder. Raises ValueError where it does not fit the curves or the hidden states."""
    model = LoadedModel(folder)
    windows = curves.accuracy.shape[1]
    if model.manifest.windows != windows:
        raise ValueError(f"--model: {model.name} predicts {model.manifest.windows} windows, the file has {windows}")
    if hidden is not None and model.manifest.hidden_size not in (0, hidden.shape[1]):
        raise ValueError(
            f"--hidden-states: {hidden.shape[1]} components, {model.name} takes {model.manifest.hidden_size}"
        )
    predicted, classes = predictions(model, curves, hidden)
    found = evaluate(predicted, curves.accuracy, {"name": model.manifest.name, "version": model.manifest.version})
    if classes is None:
        return found
    return replace(found, difficulty_accuracy=float((classes.argmax(axis=1) == curves.difficulty).mean()))
