"""Train predictors with an encoder: ``layer_mlp`` on an LLM's first layers, ``lora_difficulty`` on a small one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.curves import Curves, pearson
from exporters.ensemble import Recipe, predict
from exporters.export_encoder import (
    DifficultyCurves,
    EncoderParity,
    LayerCurves,
    difficulty_manifest,
    export_encoder,
    layer_manifest,
)
from exporters.features import StateReader
from exporters.lora_difficulty import LoraRecipe, difficulty_of, train_lora
from exporters.train import train
from scheduler_service.templates import PromptTemplate

_PARITY_ROWS = 64


def train_layer_mlp(
    curves: Curves,
    model: Path,
    layer: int,
    template: PromptTemplate,
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    version: str,
    data: dict[str, str],
    int8: bool,
) -> tuple[dict[str, float], EncoderParity]:
    """Read the states of ``layer``, fit the head on them, and write both as one graph; returns metrics and parity.

    Raises ValueError for a layer that the LLM does not have.
    """
    reader = StateReader(model)
    if not 1 <= layer <= reader.layers:
        raise ValueError(f"--layer: {layer} is not from 1 to {reader.layers}")
    states = [reader.read(template.render(question), [layer])[0] for question in curves.questions]
    hidden: NDArray[np.float32] = np.stack(states).astype(np.float32)
    trained = train("hidden_state_mlp", curves, hidden, recipe)
    validation = trained.validation
    net = LayerCurves(reader.model, layer, trained.ensemble)
    manifest = layer_manifest(name, version, curves, layer, template.prompt, validation, data)
    reference = predict(trained.ensemble, hidden[:_PARITY_ROWS]).astype(np.float64)
    texts = curves.questions[:_PARITY_ROWS]
    return validation, export_encoder(net, reader.tokenizer, folder, manifest, reference, texts, int8=int8)


def train_lora_difficulty(
    curves: Curves,
    encoder: Path,
    recipe: LoraRecipe,
    folder: Path,
    *,
    name: str,
    version: str,
    data: dict[str, str],
    int8: bool,
) -> tuple[dict[str, float], EncoderParity]:
    """Fit the classifier on nine tenths of the questions, score it on the last, and write it as one graph."""
    held = np.random.default_rng(recipe.seed).permutation(len(curves.ids)) % 10 == 0
    kept, rest = (_chosen(curves, np.flatnonzero(rows)) for rows in (~held, held))
    classifier = train_lora(kept, encoder, recipe)
    probabilities = classifier.probabilities(rest.questions)
    predicted = probabilities @ classifier.class_curves
    validation = {
        "class_accuracy": float((probabilities.argmax(axis=1) == difficulty_of(rest.accuracy)).mean()),
        "pearson": pearson(predicted, rest.accuracy),
        "questions": float(len(kept.ids)),
    }
    manifest = difficulty_manifest(name, version, kept, classifier, validation, data)
    texts = rest.questions[:_PARITY_ROWS]
    reference = classifier.curves(texts)
    net = DifficultyCurves(classifier)
    return validation, export_encoder(net, classifier.tokenizer, folder, manifest, reference, texts, int8=int8)


def _chosen(curves: Curves, rows: NDArray[np.int64]) -> Curves:
    pick = rows.tolist()
    return Curves([curves.ids[at] for at in pick], [curves.questions[at] for at in pick], curves.accuracy[rows])


def as_json(validation: dict[str, float], parity: EncoderParity) -> dict[str, object]:
    """What a command prints."""
    return {"validation": validation, "parity": asdict(parity)}
