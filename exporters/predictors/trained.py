"""What a trained predictor is, whatever its kind: it knows its errors, writes its graph, and can be asked in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import Curves, pearson, sampling_variance
from predictor_service.artifact import Manifest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """What held-out questions say of a predictor: metrics; at each point mean accuracy and the error's deviation.

    ``points``: budgets in reasoning tokens. ``uncertainty``: deviation of the predictor's own error. Where the training
    file says how many samples it averages, from two on, their chance is taken out of it: four samples alone are off by
    0.17. ``validation`` is as measured. ``mean_used``: mean tokens used at each point, where the training file has
    them; empty otherwise.
    """

    validation: dict[str, float]
    mean_curve: list[float]
    uncertainty: list[float]
    points: list[int]
    mean_used: list[float] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, held_out: Floats, curves: Curves, data: dict[str, str], **metrics: float) -> Calibration:
        """Score ``held_out`` predictions (n, K) of the questions of ``curves``; ``data``: its file and digest."""
        measured = curves.accuracy
        mean = measured.mean(axis=0)
        validation = {
            "pearson": pearson(held_out, measured),
            "rmse": float(np.sqrt(((held_out - measured) ** 2).mean())),
            "rmse_of_mean_curve": float(np.sqrt(((mean - measured) ** 2).mean())),
            "questions": float(len(measured)),
            **metrics,
        }
        variance = (held_out - measured).var(axis=0)
        if curves.samples is not None and curves.samples.min() > 1:
            variance = np.maximum(variance - sampling_variance(measured, curves.samples), 0)
        deviation = np.sqrt(variance)
        used = [] if curves.used is None else curves.used.mean(axis=0).tolist()
        return cls(validation, mean.tolist(), deviation.tolist(), curves.points.tolist(), used, data)


@dataclass(frozen=True)
class Interface:
    """What a predictor takes and knows besides its graph: the fields of the manifest of the same names."""

    kind: str
    takes_text: bool
    hidden_size: int = 0
    layer: int = 0
    max_tokens: int = 0
    prompt: str = "{prompt}"
    class_curves: dict[str, list[float]] = field(default_factory=dict)
    most_unfamiliarity: float | None = None
    false_alarm_rate: float | None = None


class Trained(Protocol):
    """A trained predictor, ready to be exported."""

    @property
    def interface(self) -> Interface:
        """Return the inputs that it takes, and its kind."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Return what held-out questions say of its errors."""
        ...

    def write(self, folder: Path, precision: str) -> None:
        """Write ``model.onnx``, and ``tokenizer.json`` if it needs one. Raises ValueError for a precision it lacks."""
        ...

    def reference(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats:
        """Its accuracy curves (n, K) as torch or numpy computes them in float32, to compare a served graph with."""
        ...

    def unfamiliarity(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats | None:
        """How far queries lie from its training (n,), computed alike; ``None`` where it does not know."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write its weights beside a checkpoint; returns what else ``checkpoint`` needs to load it again."""
        ...


def manifest_of(trained: Trained, name: str, version: str) -> Manifest:
    """Return the manifest of a trained predictor."""
    interface, known = trained.interface, trained.calibration
    return Manifest(
        name=name,
        version=version,
        budget_points=tuple(known.points),
        mean_used_tokens=tuple(round(value, 2) for value in known.mean_used),
        max_text_bytes=32768 if interface.takes_text else 0,
        training_data=known.data,
        validation={key: round(value, 4) for key, value in known.validation.items()},
        reliability=round(max(0.0, known.validation["pearson"]), 4),
        mean_curve=tuple(round(value, 4) for value in known.mean_curve),
        uncertainty=tuple(round(value, 4) for value in known.uncertainty),
        **asdict(interface),
    )


def lookup(names: Sequence[str], class_curves: Floats | None) -> dict[str, list[float]]:
    """The manifest's form of the mean curve of each class (C, K); empty for a predictor without classes."""
    if class_curves is None:
        return {}
    return {name: [round(float(value), 4) for value in curve] for name, curve in zip(names, class_curves, strict=True)}
