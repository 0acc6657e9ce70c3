"""Train the predictors that need no encoder of their own, from a curves file.

``text_curve`` reads the text alone, ``hidden_state_mlp`` a hidden state of the LLM, ``hybrid`` both. ``difficulty`` and
``size`` are the paper's classifiers, of hidden states where there are any and of the text otherwise: they predict a
class, and their curve is the mean curve of each class, weighted by its probability. All share one head, the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.measure.classes import DIFFICULTY, SIZE, class_means, size_of, soft_difficulty
from exporters.measure.curves import Curves, pearson
from exporters.predictors.ensemble import Ensemble, Recipe, add_ensemble, predict, train_ensemble
from exporters.predictors.familiarity import Familiarity, add_familiarity, keep, kept, learn_familiarity, limits_of
from exporters.predictors.kinds import KINDS, Training
from exporters.predictors.onnx_graph import TEXT, GraphBuilder, hidden_state_input, with_half_weights
from exporters.predictors.text_graph import add_features, add_tokens, text_features, vocabulary_of
from exporters.predictors.trained import Calibration, Interface, lookup

Floats = NDArray[np.float32]
_CLASS_NAMES = {"difficulty": DIFFICULTY, "size": SIZE}


@dataclass(frozen=True)
class TextRecipe:
    """Which n-grams become features: those in at least ``min_texts`` training texts, at most ``most_grams``.

    ``style_texts``: how many texts a word must stand in for the style, by which it abstains, to know it.
    """

    min_texts: int = 8
    most_grams: int = 1500
    style_texts: int = 1


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A predictor that is a head alone. ``vocabulary``: n-grams of its text features; ``hidden_size``: 0 for no states.

    ``class_curves``: (C, K), the mean curve of each class, where the head predicts classes. ``usage``: predicts the
    share of each budget point that is used, where the training file knows it. ``familiarity``: what it was trained on;
    ``None`` where that were too few questions to tell what is unusual.
    """

    kind: str
    vocabulary: list[tuple[str, ...]] | None
    hidden_size: int
    layer: int
    ensemble: Ensemble
    class_curves: NDArray[np.float64] | None
    calibration: Calibration
    usage: Ensemble | None = None
    familiarity: Familiarity | None = None

    @property
    def interface(self) -> Interface:
        """Return the inputs that the graph takes, and its kind."""
        curves = self.class_curves
        return Interface(
            kind=self.kind,
            takes_text=self.vocabulary is not None,
            hidden_size=self.hidden_size,
            layer=self.layer,
            class_curves=lookup(_CLASS_NAMES.get(self.kind, ()), curves),
            **limits_of(self.familiarity),
        )

    def graph(self) -> onnx.ModelProto:
        """Return the predictor as one ONNX graph in float32."""
        build = GraphBuilder(
            ([] if self.vocabulary is None else [TEXT])
            + ([hidden_state_input(self.hidden_size)] if self.hidden_size else [])
        )
        parts = ["hidden_state"] if self.hidden_size else []
        tokens = None if self.vocabulary is None else add_tokens(build)
        parts += [] if self.vocabulary is None or tokens is None else [add_features(build, tokens, self.vocabulary)]
        joined = parts[0] if len(parts) == 1 else build.add("Concat", parts, "joined", axis=1)
        windows = len(self.calibration.points)
        outputs: dict[str, int | str] = {}
        if self.familiarity is not None:
            states = "hidden_state" if self.hidden_size else None
            outputs[add_familiarity(build, tokens, states, self.familiarity)] = 1
        if self.usage is not None:
            share = add_ensemble(build, joined, self.usage, "used_share", prefix="used_")
            build.constant("points", np.array(self.calibration.points, np.float32))
            outputs[build.add("Mul", [share, "points"], "used_tokens")] = windows
        if self.class_curves is None:
            return build.model({add_ensemble(build, joined, self.ensemble): windows, **outputs})
        # Only the API's difficulty is served as such; the probabilities of sizes stay inside.
        output = "difficulty" if self.kind == "difficulty" else "probabilities"
        add_ensemble(build, joined, self.ensemble, output)
        build.constant("class_curves", self.class_curves.astype(np.float32))
        outputs[build.add("MatMul", [output, "class_curves"], "curve")] = windows
        return build.model(outputs | ({output: len(self.class_curves)} if self.kind == "difficulty" else {}))

    def write(self, folder: Path, precision: str) -> None:
        """Write ``model.onnx`` in float32 or float16."""
        if precision not in ("float32", "float16"):
            raise ValueError(f"--precision: {precision} is for predictors with an encoder; use float32 or float16")
        graph = self.graph()
        onnx.save(with_half_weights(graph) if precision == "float16" else graph, folder / "model.onnx")

    def reference(self, texts: Sequence[str], hidden: Floats | None) -> NDArray[np.float64]:
        """Its curves (n, K) by numpy."""
        outputs = predict(self.ensemble, _inputs(texts, hidden, self.vocabulary, self.hidden_size))
        curves = outputs if self.class_curves is None else outputs @ self.class_curves
        return np.clip(curves, 0, 1).astype(np.float64)

    def unfamiliarity(self, texts: Sequence[str], hidden: Floats | None) -> NDArray[np.float64] | None:
        """How far queries lie from its training (n,), by numpy."""
        return None if self.familiarity is None else self.familiarity.measure(texts, hidden)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the arrays of the ensemble."""
        self.ensemble.save(folder / "head.npz")
        keep(self.familiarity, folder)
        if self.usage is not None:
            self.usage.save(folder / "usage.npz")
        curves = None if self.class_curves is None else self.class_curves.tolist()
        own = {"kind": self.kind, "vocabulary": self.vocabulary, "hidden_size": self.hidden_size, "layer": self.layer}
        return {**own, "class_curves": curves}

    @classmethod
    def load(cls, folder: Path, saved: dict[str, Any], calibration: Calibration) -> TrainedHead:
        """Return the predictor that ``save`` wrote."""
        grams, curves = saved["vocabulary"], saved["class_curves"]
        usage = folder / "usage.npz"
        return cls(
            saved["kind"],
            None if grams is None else [tuple(gram) for gram in grams],
            saved["hidden_size"],
            saved["layer"],
            Ensemble.load(folder / "head.npz"),
            None if curves is None else np.array(curves),
            calibration,
            Ensemble.load(usage) if usage.exists() else None,
            kept(folder),
        )


def fit(kind: str, training: Training) -> TrainedHead:
    """Train as the command line says. Raises ValueError, naming the flag, for what it lacks."""
    with_text = kind in ("text_curve", "hybrid") or training.states is None
    dropout = training.input_dropout
    recipe = Recipe(
        members=training.members,
        hidden=training.hidden,
        input_dropout=(0.5 if with_text else 0.25) if dropout is None else dropout,
        mixup=training.mixup,
        seed=training.seed,
        scale_power=0.5 if with_text else 1.0,
        **training.chosen,
    )
    text = TextRecipe(min_texts=training.min_texts, style_texts=training.style_texts)
    return train(kind, training.curves, training.states, recipe, text, layer=training.layer, data=training.data)[0]


load = TrainedHead.load


def train(
    kind: str,
    curves: Curves,
    hidden: Floats | None,
    recipe: Recipe,
    text: TextRecipe | None = None,
    *,
    layer: int = 0,
    data: dict[str, str] | None = None,
) -> tuple[TrainedHead, NDArray[np.float64]]:
    """Train a predictor; returns it with its held-out predictions for the same questions: curves (n, K).

    ``data``: the training file's name and digest, for the manifest. Raises ValueError for an unknown kind, missing
    hidden states, or too few questions.
    """
    if KINDS.get(kind) != __name__:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(one for one in KINDS if KINDS[one] == __name__)}")
    if len(curves.ids) < 2 * recipe.members:
        raise ValueError(f"--curves: {len(curves.ids)} questions are too few for {recipe.members} members")
    if kind in ("hidden_state_mlp", "hybrid") and hidden is None:
        raise ValueError(f"--hidden-states: {kind} needs them")
    text = text or TextRecipe()
    reads_text = kind in ("text_curve", "hybrid") or hidden is None
    vocabulary = vocabulary_of(curves.questions, min_texts=text.min_texts, most=text.most_grams) if reads_text else None
    size = 0 if hidden is None or kind == "text_curve" else hidden.shape[1]
    inputs = _inputs(curves.questions, hidden, vocabulary, size)
    metrics: dict[str, float] = {}
    class_curves = None
    if kind in _CLASS_NAMES:
        names = _CLASS_NAMES[kind]
        classes = curves.difficulty if kind == "difficulty" else size_of(curves.accuracy)
        class_curves = class_means(curves.accuracy, classes, len(names))
        hard = np.eye(len(names), dtype=np.float32)[classes]
        wanted = soft_difficulty(curves.accuracy) if kind == "difficulty" else hard
        ensemble, probabilities = train_ensemble(inputs, wanted, recipe, "softmax")
        held_out = probabilities @ class_curves
        metrics["class_accuracy"] = float((probabilities.argmax(axis=1) == classes).mean())
    else:
        ensemble, outputs = train_ensemble(inputs, curves.accuracy.astype(np.float32), recipe)
        held_out = outputs.astype(np.float64)
    metrics["shrinkage"] = ensemble.keep
    usage = None
    if curves.used is not None:
        usage, shares = train_ensemble(inputs, _share_used(curves.points, curves.used), recipe)
        metrics["used_pearson"] = pearson(shares * curves.points, curves.used)
    predicted = np.clip(held_out, 0, 1).astype(np.float64)
    calibration = Calibration.of(predicted, curves, data or {}, **metrics)
    learned = learn_familiarity(
        curves.questions if reads_text else None,
        hidden if size else None,
        least_texts=text.style_texts,
        seed=recipe.seed,
    )
    familiarity = None if learned is None else learned.familiarity
    trained = TrainedHead(kind, vocabulary, size, layer, ensemble, class_curves, calibration, usage, familiarity)
    return trained, predicted


def _share_used(points: NDArray[np.int64], used: NDArray[np.float64]) -> Floats:
    """The share of each budget point that is used (n, K): what the usage head is fitted to; 1 at 0 tokens."""
    shares: Floats = np.divide(used, points, out=np.ones(used.shape), where=points > 0).astype(np.float32)
    return shares


def _inputs(
    texts: Sequence[str], hidden: Floats | None, vocabulary: list[tuple[str, ...]] | None, hidden_size: int
) -> Floats:
    parts: list[Floats] = [] if hidden is None or not hidden_size else [hidden]
    parts += [] if vocabulary is None else [text_features(texts, vocabulary)]
    return np.concatenate(parts, axis=1)
