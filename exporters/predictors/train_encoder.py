"""Train predictors with an encoder: ``layer_mlp`` on an LLM's first layers, ``lora_difficulty`` on any encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.measure.classes import class_means
from exporters.measure.curves import Curves
from exporters.measure.features import StateReader
from exporters.predictors.ensemble import Recipe
from exporters.predictors.familiarity import familiarity_of_states
from exporters.predictors.kinds import Training
from exporters.predictors.lora_difficulty import LoraRecipe, probabilities_of, states_of, train_lora
from exporters.predictors.train import train
from exporters.predictors.trained import Calibration
from exporters.predictors.trained_encoder import DifficultyCurves, LayerCurves, TrainedEncoder, cut_after
from scheduler_service.generation.templates import TEMPLATES, PromptTemplate

_LAYER_MAX_TOKENS = 512


def fit(kind: str, training: Training) -> TrainedEncoder:
    """Train as the command line says. Raises ValueError, naming the flag, for what it lacks."""
    if training.encoder is None:
        raise ValueError(f"--encoder: {kind} needs one")
    if kind == "lora_difficulty":
        lora = LoraRecipe(seed=training.seed, **training.chosen)
        return train_lora_difficulty(training.curves, training.encoder, lora, training.data)
    settings = {"batch": 64, "dropout": 0.3, "input_dropout": 0.2, **training.chosen}
    recipe = Recipe(members=training.members, seed=training.seed, **settings)
    template = TEMPLATES[training.template]
    return train_layer_mlp(training.curves, training.encoder, training.layer or 16, template, recipe, training.data)


load = TrainedEncoder.load


def train_layer_mlp(
    curves: Curves, model: Path, layer: int, template: PromptTemplate, recipe: Recipe, data: dict[str, str]
) -> TrainedEncoder:
    """Read the states of ``layer`` of the LLM in ``model``, and fit the head on them.

    Raises ValueError for a layer that the LLM does not have.
    """
    reader = StateReader(model)
    if not 1 <= layer <= reader.layers:
        raise ValueError(f"--layer: {layer} is not from 1 to {reader.layers}")
    states = [reader.read(template.render(question), [layer])[0] for question in curves.questions]
    hidden: NDArray[np.float32] = np.stack(states).astype(np.float32)
    head, _ = train("hidden_state_mlp", curves, hidden, recipe, data=data)
    net = LayerCurves(cut_after(reader.model, layer), head.ensemble, head.familiarity).eval()
    return TrainedEncoder(net, reader.tokenizer, head.calibration, _LAYER_MAX_TOKENS, template.prompt, layer)


def train_lora_difficulty(curves: Curves, encoder: Path, recipe: LoraRecipe, data: dict[str, str]) -> TrainedEncoder:
    """Fit the classifier on nine tenths of the questions; the last says how good it is, and how far off is unusual."""
    held = np.random.default_rng(recipe.seed).permutation(len(curves.ids)) % 10 == 0
    kept, rest = (curves.chosen(np.flatnonzero(rows)) for rows in (~held, held))
    net, tokenizer = train_lora(kept, encoder, recipe)
    means = class_means(kept.accuracy, kept.difficulty, 3)
    (_, seen), (last, unseen) = (states_of(net, tokenizer, part.questions, recipe) for part in (kept, rest))
    probabilities = probabilities_of(net, last)
    right = float((probabilities.argmax(axis=1) == rest.difficulty).mean())
    calibration = Calibration.of(probabilities @ means, rest, data, class_accuracy=right)
    familiarity = familiarity_of_states(seen, unseen, seed=recipe.seed)
    served: Any = DifficultyCurves(net, means, familiarity).eval()
    return TrainedEncoder(served, tokenizer, calibration, recipe.max_tokens, class_curves=means)
