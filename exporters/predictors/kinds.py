"""The kinds of predictor that can be trained. A new kind is one module and one line in ``KINDS``."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import Curves
from exporters.predictors.trained import Calibration, Trained


@dataclass(frozen=True, eq=False)
class Training:
    """What a predictor is trained on and how, as the command line says it.

    ``states``: hidden states (n, size) of the questions of ``curves``, where there are any. ``encoder``: a model folder
    or GGUF. ``layer``: of the states, 0 if not known. ``chosen``: epochs, batch, learning_rate and dropout, as far as
    they were given. ``data``: the curves file's name and digest, for the manifest. ``style_texts``: of ``TextRecipe``.
    """

    curves: Curves
    states: NDArray[np.float32] | None = None
    encoder: Path | None = None
    layer: int = 0
    template: str = "deepseek-r1"
    members: int = 10
    hidden: int = 64
    input_dropout: float | None = None
    mixup: float = 0.4
    min_texts: int = 8
    seed: int = 0
    chosen: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    style_texts: int = 1


class KindModule(Protocol):
    """A module that trains one or more kinds of predictor."""

    def fit(self, kind: str, training: Training) -> Trained:
        """Train. Raises ValueError, naming the flag, for what it lacks."""
        ...

    def load(self, folder: Path, saved: dict[str, Any], calibration: Calibration) -> Trained:
        """Read a checkpoint's weights; ``saved`` is what the predictor's own ``save`` returned."""
        ...


# By name, since a kind's module may need what another's does not (torch, transformers).
KINDS: dict[str, str] = {
    "mean_curve": "exporters.predictors.mean",
    "text_curve": "exporters.predictors.train",
    "hidden_state_mlp": "exporters.predictors.train",
    "hybrid": "exporters.predictors.train",
    "difficulty": "exporters.predictors.train",
    "size": "exporters.predictors.train",
    "layer_mlp": "exporters.predictors.train_encoder",
    "lora_difficulty": "exporters.predictors.train_encoder",
}


def module_of(kind: str) -> KindModule:
    """The module that trains a kind. Raises ValueError for a kind that is not in ``KINDS``."""
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    return cast("KindModule", import_module(KINDS[kind]))
