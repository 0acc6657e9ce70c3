"""How few samples a question suffice: for training, as they are or smoothed, and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exporters.experiments.smoothing import isotonic, joint, shrunk
from exporters.experiments.table import Floats, Table, gains, points
from exporters.measure.curves import Curves, pearson
from exporters.predictors.ensemble import Recipe
from exporters.predictors.train import TrainedHead, train
from scheduler_service.allocation.envelope import Envelope

BUDGETS = (32, 48, 64, 96, 128)
States = NDArray[np.float32]
EACH, SHARED = "each point", "whole traces"
SMOOTHINGS = {
    EACH: ("none", "isotonic", "beta-binomial", "by kind", "beta-binomial, isotonic", "joint"),
    SHARED: ("none", "isotonic", "beta-binomial", "joint"),
}
_NEEDS_TWO = ("beta-binomial", "by kind", "beta-binomial, isotonic")  # of one sample they are as without
_AS_IT_IS = 100  # samples of the paper's files


def draw(accuracy: Floats, samples: int, rng: np.random.Generator, drawn: str = EACH) -> Floats:
    """Proportions (n, K) of ``samples`` draws of each value of ``accuracy``.

    ``drawn``: ``EACH`` draws every point for itself, as if it had traces of its own. ``SHARED`` lets one random number
    decide all points of a trace, so that they hang together as much as their proportions allow. Where one real trace
    serves all points, they lie in between.
    """
    if drawn == EACH:
        return rng.binomial(samples, accuracy) / samples
    found: Floats = np.mean([rng.random((len(accuracy), 1)) < accuracy for _ in range(samples)], axis=0)
    return found


def smoothed(name: str, measured: Floats, samples: int, kinds: NDArray[np.int64] | None = None) -> Floats:
    """``measured`` (n, K) smoothed by the method of this name; ``kinds`` (n,) are for ``by kind``."""
    match name:
        case "isotonic":
            return isotonic(measured)
        case "beta-binomial":
            return shrunk(measured, samples)
        case "by kind":
            return shrunk(measured, samples, kinds)
        case "beta-binomial, isotonic":
            return isotonic(shrunk(measured, samples))
        case "joint":
            return joint(measured, samples)
        case _:
            return measured


def kinds_of(states: States, count: int = 16, rounds: int = 30) -> NDArray[np.int64]:
    """Kinds (n,) of question that are known before any is measured: clusters of hidden states by Lloyd's k-means."""
    scaled = ((states - states.mean(axis=0)) / np.maximum(states.std(axis=0), 1e-2)).astype(np.float64)
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    places = scaled @ vectors[:, -20:]
    centres = places[np.random.default_rng(0).permutation(len(places))[:count]]
    kinds = np.zeros(len(places), dtype=np.int64)
    for _ in range(rounds):
        kinds = (-2 * places @ centres.T + (centres**2).sum(axis=1)).argmin(axis=1)
        centres = np.stack(
            [places[kinds == at].mean(axis=0) if (kinds == at).any() else centres[at] for at in range(len(centres))]
        )
    return kinds


@dataclass(frozen=True)
class Row:
    """What training on few samples gave; medians over draws.

    ``error``: root mean square difference of the curves trained on to the file's own. ``stated``: the deviation of its
    error that the predictor states (``uncertainty``), by held-out questions. ``pearson``, and ``gains`` in points over
    uniform at ``BUDGETS``: on the test file as it is.
    """

    questions: int
    samples: int
    drawn: str
    smoothing: str
    error: float
    stated: float
    pearson: float
    gains: list[float]

    def as_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Study:
    """Training and test questions with hidden states, and what is the same for everything compared."""

    training: Curves
    states: States
    test: Curves
    test_states: States
    recipe: Recipe
    repeats: int = 3

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """The kind of each training question, by its hidden state."""
        return kinds_of(self.states)

    def few(self, counts: Sequence[int]) -> list[Row]:
        """Train on ``counts`` samples a question, smoothed in every way, and last on the file as it is."""
        every = np.arange(len(self.training.ids))
        rows = [
            self._median(every, samples, drawn, name)
            for samples in counts
            for drawn, names in SMOOTHINGS.items()
            for name in names
            if samples > 1 or name not in _NEEDS_TWO
        ]
        return [*rows, self._median(every, _AS_IT_IS, "", "the file as it is")]

    def equal_traces(self, traces: int, counts: Sequence[int]) -> list[Row]:
        """Train on whole traces, as many in all: many questions with few samples, or few with many."""
        order = np.random.default_rng(0).permutation(len(self.training.ids))
        fitting = [samples for samples in counts if 20 <= traces // samples <= len(order)]
        return [self._median(order[: traces // samples], samples, SHARED, "none") for samples in fitting]

    def scoring(self, counts: Sequence[int], tokens: int = 64, draws: int = 20) -> Table:
        """Score one predictor, trained on the file as it is, by few samples of the test questions.

        Beside it oracles that plan with those samples, scored by themselves and by the file's own curves. Medians.
        """
        truth = self.test.accuracy
        predicted = self._trained(self.training, self.states, 0).reference(self.test.questions, self.test_states)
        rows = []
        few = [(samples, name) for samples in counts for name in ("none", "beta-binomial", "joint")]
        for samples, name in [one for one in few if one[0] > 1 or one[1] not in _NEEDS_TWO] + [(0, "none")]:
            found = []
            for seed in range(draws if samples else 1):
                measured = truth
                if samples:
                    measured = smoothed(name, draw(truth, samples, np.random.default_rng(seed)), samples)
                best = Envelope(spread=False)
                oracles = [gains(measured, scored, [tokens], best)[0] for scored in (measured, truth)]
                found.append((pearson(predicted, measured), *gains(predicted, measured, [tokens]), *oracles))
            correlation, gain, itself, true = np.median(found, axis=0).tolist()
            rows.append([f"{samples or _AS_IT_IS}", name, f"{correlation:.3f}", *points([gain, itself, true])])
        names = ["predictor's gain", "oracle's, by the same samples", "oracle's, by the file's curves"]
        return Table(["samples", "smoothed", "r", *names], rows)

    def _trained(self, curves: Curves, states: States, seed: int) -> TrainedHead:
        """Few questions are passed over more often, in smaller batches."""
        count = len(curves.ids)
        epochs = min(100, max(self.recipe.epochs, self.recipe.epochs * 3000 // count))
        batch = min(self.recipe.batch, max(4, count // 4))
        recipe = replace(self.recipe, seed=seed, epochs=epochs, batch=batch)
        return train("hidden_state_mlp", curves, states, recipe)[0]

    def _median(self, rows: NDArray[np.int64], samples: int, drawn: str, smoothing: str) -> Row:
        """Train ``repeats`` times, on samples drawn anew; on the file's own curves where nothing is ``drawn``."""
        part, states = self.training.chosen(rows), self.states[rows]
        kinds = self.kinds[rows] if smoothing == "by kind" else None
        found = []
        for seed in range(self.repeats):
            given = part.accuracy
            if drawn:
                rng = np.random.default_rng(seed)
                given = smoothed(smoothing, draw(given, samples, rng, drawn), samples, kinds)
            error = float(np.sqrt(((given - part.accuracy) ** 2).mean()))
            known = np.full(len(rows), samples) if drawn and smoothing == "none" else None
            trained = self._trained(replace(part, accuracy=given, samples=known), states, seed)
            curves, truth = trained.reference(self.test.questions, self.test_states), self.test.accuracy
            stated = float(np.sqrt(np.square(trained.calibration.uncertainty).mean()))
            found.append((error, stated, pearson(curves, truth), *gains(curves, truth, BUDGETS)))
        error, stated, correlation, *over = np.median(found, axis=0).tolist()
        return Row(len(rows), samples, drawn, smoothing, error, stated, correlation, over)


def few_table(rows: Sequence[Row]) -> Table:
    """Training on few samples a question."""
    head = ["samples", "drawn", "smoothed", "error of the curves", "stated error", "r"]
    return Table(
        [*head, *[f"{budget} tokens" for budget in BUDGETS]],
        [[f"{row.samples}", row.drawn, row.smoothing, f"{row.error:.3f}", *_scores(row)] for row in rows],
    )


def equal_traces_table(rows: Sequence[Row]) -> Table:
    """Many questions with few samples beside few questions with many."""
    return Table(
        ["traces", "questions", "samples", "stated error", "r", *[f"{budget} tokens" for budget in BUDGETS]],
        [[f"{row.questions * row.samples}", f"{row.questions}", f"{row.samples}", *_scores(row)] for row in rows],
    )


def _scores(row: Row) -> list[str]:
    return [f"{row.stated:.3f}", f"{row.pearson:.3f}", *points(row.gains)]


def few_figure(rows: Sequence[Row]) -> Figure:
    """Correlation against samples a question, a line for each smoothing; dashed: the file as it is."""
    *drawn, whole = rows
    names = [(kind, name) for kind, smoothings in SMOOTHINGS.items() for name in smoothings]
    colours = {name: f"C{at}" for at, name in enumerate(SMOOTHINGS[EACH])}
    drawing = Figure(figsize=(7, 3.4))
    axis = drawing.subplots()
    for kind, name in names:
        line = [(row.samples, row.pearson) for row in drawn if (row.drawn, row.smoothing) == (kind, name)]
        if line:
            style = "o-" if kind == EACH else "s:"
            axis.plot(*zip(*line, strict=True), style, markersize=3, color=colours[name], label=f"{name}, {kind}")
    axis.axhline(whole.pearson, color="#8a93a3", linewidth=1, linestyle="--", label=f"{whole.samples} samples")
    axis.set_xscale("log", base=2)
    counts = sorted({row.samples for row in drawn})
    axis.set_xticks(counts, [f"{count}" for count in counts])
    axis.set_xlabel("samples a question")
    axis.set_ylabel("correlation on the test file")
    axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing
