"""Train predictors of three kinds from a curves file, and write each as a model folder.

``text_curve`` reads the text alone, ``hidden_state_mlp`` a hidden state of the LLM, ``hybrid`` both. They differ in
their inputs; the head is one and the same ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.curves import WINDOW_TOKENS, Curves, pearson
from exporters.ensemble import Ensemble, Recipe, add_ensemble, predict, train_ensemble
from exporters.onnx_graph import TEXT, GraphBuilder, hidden_state_input
from exporters.text_graph import add_features, add_tokens, text_features, vocabulary_of
from predictor_service.artifact import Manifest, write_manifest
from predictor_service.features import Query
from predictor_service.model import LoadedModel

Floats = NDArray[np.float32]
KINDS = ("text_curve", "hidden_state_mlp", "hybrid")


@dataclass(frozen=True)
class TextRecipe:
    """Which n-grams become features: those in at least ``min_texts`` training texts, at most ``most_grams``."""

    min_texts: int = 8
    most_grams: int = 1500


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained predictor: what it takes, its head, and what it scored on held-out rows."""

    kind: str
    vocabulary: list[tuple[str, ...]]
    hidden_size: int
    ensemble: Ensemble
    curves: Curves
    inputs: Floats

    @property
    def validation(self) -> dict[str, float]:
        """Metrics of predictions by members that did not see the question."""
        held_out, measured = self.ensemble.held_out, self.curves.accuracy
        mean = self.ensemble.mean_curve
        return {
            "pearson": pearson(held_out, measured),
            "rmse": float(np.sqrt(((held_out - measured) ** 2).mean())),
            "rmse_of_mean_curve": float(np.sqrt(((mean - measured) ** 2).mean())),
            "shrinkage": self.ensemble.keep,
            "questions": float(len(measured)),
        }


def train(kind: str, curves: Curves, hidden: Floats | None, recipe: Recipe, text: TextRecipe | None = None) -> Trained:
    """Train a predictor. Raises ValueError for an unknown kind, missing hidden states, or too few questions."""
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    if len(curves.ids) < 2 * recipe.members:
        raise ValueError(f"--curves: {len(curves.ids)} questions are too few for {recipe.members} members")
    text = text or TextRecipe()
    parts: list[Floats] = []
    vocabulary: list[tuple[str, ...]] = []
    if kind != "text_curve":
        if hidden is None:
            raise ValueError(f"--hidden-states: {kind} needs them")
        parts.append(hidden)
    if kind != "hidden_state_mlp":
        vocabulary = vocabulary_of(curves.questions, min_texts=text.min_texts, most=text.most_grams)
        parts.append(text_features(curves.questions, vocabulary))
    inputs = np.concatenate(parts, axis=1)
    ensemble = train_ensemble(inputs, curves.accuracy.astype(np.float32), recipe)
    size = hidden.shape[1] if hidden is not None and kind != "text_curve" else 0
    return Trained(kind, vocabulary, size, ensemble, curves, inputs)


def graph_of(trained: Trained, *, half: bool) -> onnx.ModelProto:
    """Return the predictor as one ONNX graph; ``half`` stores the wide layers in float16."""
    takes_text, takes_hidden = trained.kind != "hidden_state_mlp", trained.hidden_size > 0
    inputs = [TEXT] if takes_text else []
    inputs += [hidden_state_input(trained.hidden_size)] if takes_hidden else []
    build = GraphBuilder(inputs)
    parts = ["hidden_state"] if takes_hidden else []
    parts += [add_features(build, add_tokens(build), trained.vocabulary)] if takes_text else []
    joined = parts[0] if len(parts) == 1 else build.add("Concat", parts, "joined", axis=1)
    return build.model(add_ensemble(build, joined, trained.ensemble, half=half), trained.curves.accuracy.shape[1])


def export(
    trained: Trained,
    folder: Path,
    *,
    name: str,
    version: str,
    data: dict[str, str],
    layer: int = 0,
    half: bool = True,
) -> Manifest:
    """Write a model folder and load it as the predictor would. Raises ArtifactError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph_of(trained, half=half), folder / "model.onnx")
    measured = trained.curves.accuracy
    uncertainty = (trained.ensemble.held_out - measured).std(axis=0)
    validation = trained.validation
    manifest = Manifest(
        name=name,
        version=version,
        kind=trained.kind,
        budget_window_tokens=WINDOW_TOKENS,
        windows=measured.shape[1],
        takes_text=trained.kind != "hidden_state_mlp",
        hidden_size=trained.hidden_size,
        layer=layer,
        max_text_bytes=32768 if trained.kind != "hidden_state_mlp" else 0,
        training_data=data,
        validation={key: round(value, 4) for key, value in validation.items()},
        reliability=round(max(0.0, validation["pearson"]), 4),
        mean_curve=[round(float(value), 4) for value in trained.ensemble.mean_curve],
        uncertainty=[round(float(value), 4) for value in uncertainty],
    )
    written = write_manifest(folder, manifest)
    LoadedModel(folder)
    return written


@dataclass(frozen=True)
class Parity:
    """How far a served graph is from the trained ensemble, over the training rows (fractions of accuracy)."""

    rows: int
    largest: float
    mean: float


def parity(trained: Trained, folder: Path, rows: int = 512) -> Parity:
    """Compare an exported folder with the ensemble it was made from, on the first ``rows`` training rows."""
    model = LoadedModel(folder)
    hidden = trained.inputs[:, : trained.hidden_size]
    queries = [
        Query(question, hidden[row] if trained.hidden_size else None)
        for row, question in enumerate(trained.curves.questions[:rows])
    ]
    served = model.run(queries).curves
    error = np.abs(served - np.clip(predict(trained.ensemble, trained.inputs[:rows]), 0, 1))
    return Parity(len(queries), float(error.max()), float(error.mean()))
