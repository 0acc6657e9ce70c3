"""What learning without labels is worth: curves by agreement beside labelled ones, poisoned ones, and what they cost.

All on one file of measured traces, of which the answers are kept: labels and agreement then judge the same answers.
Predictions are cross-fitted: a question's comes from a predictor that was trained on other questions. What they gain
over uniform, at equal used tokens, is scored by the labels, whatever they were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exporters.experiments.samples import SHARED, draw
from exporters.experiments.table import Floats, Table, gains
from exporters.experiments.table import points as in_points
from exporters.faults import CurvesFileError
from exporters.learning.scoring import saved_at_equal_accuracy, uniform_use
from exporters.measure.checkers import Checker
from exporters.measure.curves import Curves, Ints, pearson
from exporters.measure.judging import agreement
from exporters.predictors.ensemble import Recipe, predict
from exporters.predictors.text_graph import text_features
from exporters.predictors.train import TextRecipe, train
from exporters.replay.evaluate import Predicted, plan_problem
from scheduler_service.allocation import POLICIES, Policy, make_plan
from scheduler_service.allocation.price import Price
from scheduler_service.allocation.problem import accuracy_at, used_at

RECIPE = Recipe(
    members=4, hidden=96, epochs=120, batch=64, learning_rate=2e-3, dropout=0.3, input_dropout=0.2, mixup=0.2
)
_TEXT = TextRecipe(min_texts=4)
_FOLDS = 3
_WORTH = 0.03  # gains of labelled curves below this say nothing of the share that is kept
_POISONED = 0.1
_ROUNDS = 2000
_LEAST_QUESTIONS = 2 * RECIPE.members


@dataclass(frozen=True, eq=False)
class Traces:
    """Questions with the answers of all their traces.

    ``answers``: of each question, traces × points. ``used``: (n, K) mean tokens used at each point. ``generated``: (n,)
    tokens that measuring took, of all traces.
    """

    ids: list[str]
    questions: list[str]
    expected: list[str]
    groups: NDArray[np.str_]
    points: Ints
    answers: list[list[list[str]]]
    used: Floats
    generated: Floats

    @classmethod
    def read(cls, path: Path) -> Traces:
        """Read what ``collect`` wrote, with a column ``expected``. Raises CurvesFileError where it lacks a column."""
        table = pq.read_table(path)
        wanted = (
            "question_id", "question", "expected", "group", "budget_tokens", "answers", "used_tokens",
            "generated_tokens",
        )  # fmt: skip
        if missing := [name for name in wanted if name not in table.column_names]:
            raise CurvesFileError(f"{path}: no column {', '.join(missing)}")
        column = {name: table[name].to_pylist() for name in wanted}
        return cls(
            column["question_id"],
            column["question"],
            column["expected"],
            np.array(column["group"]),
            np.array(column["budget_tokens"][0], dtype=np.int64),
            column["answers"],
            np.array(column["used_tokens"], dtype=np.float64),
            np.array(column["generated_tokens"], dtype=np.float64),
        )

    @property
    def samples(self) -> int:
        """Traces of a question, the fewest that one has."""
        return min(len(traces) for traces in self.answers)

    def labelled(self, is_right: Checker, samples: int | None = None) -> Curves:
        """Curves by labels, of the first ``samples`` traces."""
        rows = [
            np.mean([[is_right(expected, said) for said in trace] for trace in traces[:samples]], axis=0)
            for expected, traces in zip(self.expected, self.answers, strict=True)
        ]
        return self._curves(np.array(rows))

    def agreed(self, is_same: Checker, samples: int | None = None) -> Curves:
        """Curves by agreement, of the first ``samples`` traces."""
        return self._curves(np.array([agreement(traces[:samples], is_same) for traces in self.answers]))

    def _curves(self, accuracy: Floats) -> Curves:
        return Curves.measured(self.ids, self.questions, self.points, accuracy, self.used)


def cross_fit(
    curves: Curves, hidden: NDArray[np.float32] | None = None, most: int | None = None, seed: int = 0
) -> Predicted:
    """Train on all folds but one, and predict that one; on hidden states where there are any, else on the text.

    ``most``: train on so many questions only.
    """
    kind = "text_curve" if hidden is None else "hidden_state_mlp"
    fold = np.random.default_rng(seed).permutation(len(curves.ids)) % _FOLDS
    accuracy, used = np.zeros(curves.accuracy.shape), np.zeros(curves.accuracy.shape)
    for at in range(_FOLDS):
        rows, held = np.flatnonzero(fold != at)[:most], np.flatnonzero(fold == at)
        states, own = (None, None) if hidden is None else (hidden[rows], hidden[held])
        trained, _ = train(kind, curves.chosen(rows), states, replace(RECIPE, seed=seed), _TEXT)
        texts = curves.chosen(held).questions
        accuracy[held] = trained.reference(texts, own)
        if trained.usage is not None:
            inputs = text_features(texts, trained.vocabulary or []) if own is None else own
            shares = predict(trained.usage, inputs)
            used[held] = np.minimum(np.maximum.accumulate(shares * curves.points, axis=1), curves.points)
    return Predicted(accuracy, used)


def gains_of(predicted: Predicted, truth: Curves, budget: int, policy: Policy = POLICIES["envelope"]) -> Floats:
    """What each question gains (n,) over uniform when the file is planned at a mean ``budget`` of equal use."""
    problem = plan_problem(truth.points, predicted.accuracy, budget, predicted.used)
    plan = make_plan(policy, problem, predicted.covered)
    planned, uniform = (accuracy_at(truth.points, truth.accuracy, one) for one in (plan.budgets, budget))
    found: Floats = planned - uniform
    return found


@dataclass(frozen=True)
class Kept:
    """At a mean budget: what labels gain over uniform (fraction), the share of it that is kept, and its 95 % interval.

    ``used_tokens``: what uniform uses there.
    """

    budget: int
    used_tokens: float
    labelled: float
    share: float
    band: tuple[float, float]


def kept(labelled: Floats, other: Floats, rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """The share of the mean of ``labelled`` gains (n,) that ``other`` gains keep, with its bootstrap interval.

    Draws in which labels gain nothing have no share, and are left out.
    """
    weights = rng.multinomial(len(labelled), np.full(len(labelled), 1 / len(labelled)), size=_ROUNDS)
    ours, theirs = weights @ other, weights @ labelled
    low, high = np.quantile(ours[theirs > 0] / theirs[theirs > 0], [0.025, 0.975])
    return float(other.mean() / labelled.mean()), (float(low), float(high))


@dataclass(frozen=True)
class Agreement:
    """How well agreement of ``samples`` traces measures accuracy.

    ``mean``, ``true_mean``: mean curves (K,). ``pearson``: of both, over questions × points. ``sure_and_wrong``: share
    of the questions on whose final answer traces agree at least half of the time, and which is right less than half of
    the time. ``kept``: what a predictor that was trained on it keeps of the labelled gain.
    """

    samples: int
    mean: Sequence[float]
    true_mean: Sequence[float]
    pearson: float
    sure_and_wrong: float
    kept: Sequence[Kept]


@dataclass(frozen=True)
class Earned:
    """A predictor that was trained on so many ``questions`` without labels: what measuring took, what it is worth.

    ``tokens``: generated for it. ``budget``: the mean budget of the largest ``gain`` (fraction, over uniform);
    ``saved_tokens``: what uniform would use more a request there to be as right. ``requests``: after how many the
    tokens are earned back.
    """

    questions: int
    tokens: float
    budget: int
    gain: float
    saved_tokens: float
    requests: float


@dataclass(frozen=True)
class Learned:
    """The whole study. ``poisoned_lost``: the most of the gain, over budgets, that each attack took away.

    ``earned``: by how many questions are measured, with the fewest samples. ``mean_curve``: what the price gains over
    uniform (fractions, by budget) with the mean curve for every question, so without any prediction.
    """

    agreement: Sequence[Agreement]
    mean_curve: Mapping[int, float]
    poisoned_lost: Mapping[str, float]
    earned: Sequence[Earned]

    @property
    def kept_share(self) -> dict[int, float]:
        """The share of the labelled gain that is kept, by budget: the least over the numbers of samples."""
        budgets = sorted({one.budget for row in self.agreement for one in row.kept})
        return {
            budget: min(one.share for row in self.agreement for one in row.kept if one.budget == budget)
            for budget in budgets
        }


def study(
    traces: Traces, is_right: Checker, counts: Sequence[int], hidden: NDArray[np.float32] | None = None
) -> Learned:
    """Train on labels and on agreement of ``counts`` traces, and on poisoned agreement; score all by the labels."""
    truth, rng = traces.labelled(is_right), np.random.default_rng(0)
    found = [_one(traces, truth, is_right, count, hidden, rng) for count in counts]
    _, ours, worth = found[0]
    agreed, lost = traces.agreed(is_right, counts[0]), {}
    for name, bad in poisoned(agreed, rng).items():
        predicted = cross_fit(bad, hidden)
        left = {budget: gains_of(predicted, truth, budget).mean() for budget in worth}
        lost[name] = float(max(1 - left[budget] / ours[budget].mean() for budget in worth))
    tokens = float(traces.generated.mean()) * counts[0] / traces.samples
    earned = [_earned(agreed, truth, tokens, worth, questions, hidden) for questions in _questions(traces)]
    return Learned([one[0] for one in found], _without_predictions(agreed, truth), lost, earned)


def _without_predictions(agreed: Curves, truth: Curves) -> dict[int, float]:
    """What the price gains at each budget with one curve and one use for all: the means of ``agreed``."""
    count = len(agreed.ids)
    used = None if agreed.used is None else np.tile(agreed.used.mean(axis=0), (count, 1))
    alike = Predicted(np.tile(agreed.accuracy.mean(axis=0), (count, 1)), used)
    return {budget: float(gains_of(alike, truth, budget, Price()).mean()) for budget in _budgets(agreed)}


def _budgets(curves: Curves) -> list[int]:
    """Mean budgets at which there is something to decide: the points between none and all."""
    return [budget for budget in curves.points.tolist() if 0 < budget < curves.points[-1]]


def _questions(traces: Traces) -> list[int]:
    """How many questions to train on: all that a fold leaves, a half of them, and so on."""
    most = len(traces.ids) * (_FOLDS - 1) // _FOLDS
    return [count for count in (most // 8, most // 4, most // 2, most) if count >= _LEAST_QUESTIONS]


def _earned(
    agreed: Curves,
    truth: Curves,
    tokens_each: float,
    budgets: Sequence[int],
    questions: int,
    hidden: NDArray[np.float32] | None,
) -> Earned:
    """What so many of the questions teach, each measured by ``tokens_each`` tokens."""
    fitted = cross_fit(agreed, hidden, questions)
    gained = {budget: float(gains_of(fitted, truth, budget).mean()) for budget in budgets}
    best = max(gained, key=lambda budget: gained[budget])
    tokens = tokens_each * questions
    saved = saved_at_equal_accuracy(truth, best, gained[best], uniform_use(truth, best))
    return Earned(questions, tokens, best, gained[best], saved, tokens / saved if saved > 0 else np.inf)


def _one(
    traces: Traces,
    truth: Curves,
    is_right: Checker,
    count: int,
    hidden: NDArray[np.float32] | None,
    rng: np.random.Generator,
) -> tuple[Agreement, dict[int, Floats], list[int]]:
    """Agreement of so many samples, its gains (n,) by budget, and the budgets at which labels gain something."""
    agreed = traces.agreed(is_right, count)
    fitted = {"labels": cross_fit(traces.labelled(is_right, count), hidden), "agreement": cross_fit(agreed, hidden)}
    by = {name: {budget: gains_of(one, truth, budget) for budget in _budgets(truth)} for name, one in fitted.items()}
    worth = [budget for budget, gain in by["labels"].items() if gain.mean() > _WORTH]
    rows = []
    for budget in worth:
        labelled = by["labels"][budget]
        use = float(used_at(truth.points, traces.used, budget).mean())
        rows.append(Kept(budget, use, float(labelled.mean()), *kept(labelled, by["agreement"][budget], rng)))
    final, right = agreed.accuracy[:, -1], truth.accuracy[:, -1]
    measured = Agreement(
        count,
        agreed.accuracy.mean(axis=0).tolist(),
        truth.accuracy.mean(axis=0).tolist(),
        pearson(agreed.accuracy, truth.accuracy),
        float(((final >= 0.5) & (right < 0.5)).mean()),
        rows,
    )
    return measured, by["agreement"], worth


def poisoned(curves: Curves, rng: np.random.Generator) -> dict[str, Curves]:
    """Copies of ``curves`` in which a tenth of the questions has what would mislead most, by attack.

    A tenant cannot write curves, only prompts; but prompts can make a model agree with itself always, or never.
    """
    count = len(curves.ids)
    rows = rng.permutation(count)[: int(_POISONED * count)]
    hostile = {
        "always sure": np.ones_like(curves.accuracy[rows]),
        "never sure": np.zeros_like(curves.accuracy[rows]),
        "reversed": 1 - curves.accuracy[rows],
        "exchanged": curves.accuracy[rng.permutation(rows)],
    }
    found = {}
    for name, accuracy in hostile.items():
        changed = curves.accuracy.copy()
        changed[rows] = accuracy
        found[name] = replace(curves, accuracy=changed)
    return found


def drawn_agreement(accuracy: Floats, samples: int, alike: float, rng: np.random.Generator) -> Floats:
    """Agreement (n, K) of traces that are drawn by measured proportions of right answers (n, K).

    One random number decides all points of a trace. Two right answers are the same; two wrong ones with the chance
    ``alike``, drawn for each pair of traces, since proportions do not tell wrong answers apart.
    """
    level = rng.random((samples, len(accuracy), 1))
    right = level < accuracy  # (S, n, K)
    total = np.zeros(accuracy.shape)
    for one in range(samples):
        for other in range(samples):
            if one != other:
                end = right[other, :, -1:]
                same_wrong = rng.random((len(accuracy), 1)) < alike
                total += (right[one] & end) | (~right[one] & ~end & same_wrong)
    found: Floats = total / (samples * (samples - 1))
    return found


def drawn_study(
    training: Curves,
    hidden: NDArray[np.float32],
    test: Curves,
    test_hidden: NDArray[np.float32],
    recipe: Recipe,
    counts: Sequence[int],
    alike: Sequence[float],
    budgets: Sequence[int],
) -> Table:
    """Where only proportions are known: train on drawn labels and on drawn agreement, score on the test file.

    Each row trains on so many samples of each question; cells are points over uniform at equal reserved tokens, and in
    brackets the share of the labelled gain.
    """
    rows = []
    for count in counts:
        labels = draw(training.accuracy, count, np.random.default_rng(0), SHARED)
        own = _drawn_gains(labels, training, hidden, test, test_hidden, recipe, budgets)
        rows.append([f"{count}", "labels", "", *in_points(own)])
        for chance in alike:
            agreed = drawn_agreement(training.accuracy, count, chance, np.random.default_rng(0))
            found = _drawn_gains(agreed, training, hidden, test, test_hidden, recipe, budgets)
            cells = [f"{gain:+.1f} ({gain / best:.0%})" for gain, best in zip(found, own, strict=True)]
            rows.append([f"{count}", "agreement", f"{chance:.0%}", *cells])
    return Table(["samples", "trained on", "wrong answers alike", *[f"{budget} tokens" for budget in budgets]], rows)


def _drawn_gains(
    accuracy: Floats,
    training: Curves,
    hidden: NDArray[np.float32],
    test: Curves,
    test_hidden: NDArray[np.float32],
    recipe: Recipe,
    budgets: Sequence[int],
) -> list[float]:
    curves = replace(training, accuracy=accuracy, used=None, samples=None)
    trained, _ = train("hidden_state_mlp", curves, hidden, recipe)
    return gains(trained.reference(test.questions, test_hidden), test.accuracy, budgets)


def earned_table(earned: Sequence[Earned]) -> Table:
    """What measuring takes, and when it is earned back, by how many questions are measured."""
    rows = [
        [
            f"{one.questions}",
            f"{one.tokens:,.0f}",
            f"{100 * one.gain:+.1f} at {one.budget}",
            f"{one.saved_tokens:.1f}",
            f"{one.requests:,.0f}",
        ]
        for one in earned
    ]
    return Table(["questions", "tokens", "gain, points", "saved a request", "requests to earn back"], rows)


def learned_figure(found: Learned) -> Figure:
    """Gains over uniform by what was trained on, over the tokens that uniform uses."""
    drawing = Figure(figsize=(7, 3.4))
    axis = drawing.subplots()
    for row in found.agreement:
        used = [one.used_tokens for one in row.kept]
        gain = [100 * one.labelled for one in row.kept]
        line = axis.plot(used, gain, "o-", markersize=3, label=f"labels, {row.samples} samples")
        ours = [100 * one.labelled * one.share for one in row.kept]
        low, high = ([100 * one.labelled * one.band[side] for one in row.kept] for side in (0, 1))
        axis.plot(used, ours, "s--", markersize=3, color=line[0].get_color(), label=f"agreement, {row.samples} samples")
        axis.fill_between(used, low, high, color=line[0].get_color(), alpha=0.15, linewidth=0)
    axis.axhline(0, color="#8a93a3", linewidth=1)
    axis.set_xlabel("mean reasoning tokens used")
    axis.set_ylabel("points over uniform")
    axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def agreement_table(found: Sequence[Agreement]) -> Table:
    """How well agreement measures, and what is kept of the labelled gain, in % with its interval."""
    budgets = sorted({one.budget for row in found for one in row.kept})
    rows = []
    for row in found:
        cells = {
            one.budget: f"{one.share:.0%} ({one.band[0]:.0%} to {one.band[1]:.0%}) of {100 * one.labelled:+.1f}"
            for one in row.kept
        }
        rows.append(
            [
                f"{row.samples}",
                f"{row.pearson:.2f}",
                f"{row.sure_and_wrong:.1%}",
                *[cells.get(at, "") for at in budgets],
            ]
        )
    return Table(["samples", "r", "sure and wrong", *[f"kept at {budget} tokens" for budget in budgets]], rows)
