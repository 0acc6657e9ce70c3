"""The predictor that knows no question: every query's curve is the traffic's mean curve.

Where the mean curve is convex, whole steps of it for some requests buy more than equal shares for all; this needs no
prediction, and so it needs few questions. It reads the text only to know what is unlike all that its mean was taken of:
there it abstains, since a mean of other questions can be far from what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.predictors.familiarity import Familiarity, add_familiarity, keep, kept, learn_familiarity, limits_of
from exporters.predictors.kinds import Training
from exporters.predictors.onnx_graph import TEXT, GraphBuilder
from exporters.predictors.text_graph import add_numbers, add_tokens
from exporters.predictors.trained import Calibration, Interface

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrainedMean:
    """One curve for all queries. ``curve``, ``used``: (K,) accuracies, and tokens used where they are known.

    ``familiarity``: what texts it is the mean of; ``None`` where there were too few to tell what is unusual.
    """

    curve: Floats
    used: Floats | None
    calibration: Calibration
    familiarity: Familiarity | None = None

    @property
    def interface(self) -> Interface:
        """Return that it takes a text, and how far off one may be."""
        return Interface(kind="mean_curve", takes_text=True, **limits_of(self.familiarity))

    def write(self, folder: Path, precision: str) -> None:
        """Write ``model.onnx``; its few numbers stay in float32. Raises ValueError for a precision that is none."""
        if precision not in ("float32", "float16"):
            raise ValueError(f"--precision: {precision} is for predictors with an encoder; use float32 or float16")
        build = GraphBuilder([TEXT])
        build.add("Shape", ["text"], "count")
        build.constant("columns", np.array([len(self.curve)], np.int64))
        build.add("Concat", ["count", "columns"], "shape", axis=0)
        outputs: dict[str, int | str] = {}
        for name, values in {"curve": self.curve, "used_tokens": self.used}.items():
            if values is not None:
                build.constant(f"mean_{name}", values.astype(np.float32)[None, :])
                outputs[build.add("Expand", [f"mean_{name}", "shape"], name)] = len(values)
        if self.familiarity is not None:
            tokens = add_tokens(build)
            add_numbers(build, tokens)
            outputs[add_familiarity(build, tokens, None, self.familiarity)] = 1
        onnx.save(build.model(outputs), folder / "model.onnx")

    def reference(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats:
        """Its curve, once for each text: (n, K)."""
        return np.tile(self.curve, (len(texts), 1))

    def unfamiliarity(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats | None:
        """How far queries lie from those that its mean was taken of (n,), by numpy."""
        return None if self.familiarity is None else self.familiarity.measure(texts, None)

    def save(self, folder: Path) -> dict[str, Any]:
        """Return the curve; write what it is the mean of, where it knows."""
        keep(self.familiarity, folder)
        used = None if self.used is None else self.used.tolist()
        return {"kind": "mean_curve", "curve": self.curve.tolist(), "used": used}


def fit(kind: str, training: Training) -> TrainedMean:
    """Take the mean of the curves."""
    curves = training.curves
    curve = curves.accuracy.mean(axis=0)
    used = None if curves.used is None else curves.used.mean(axis=0)
    calibration = Calibration.of(np.tile(curve, (len(curves.ids), 1)), curves, training.data)
    learned = learn_familiarity(curves.questions, None, least_texts=training.style_texts, seed=training.seed)
    return TrainedMean(curve, used, calibration, None if learned is None else learned.familiarity)


def load(folder: Path, saved: dict[str, Any], calibration: Calibration) -> TrainedMean:
    """Return the predictor that ``save`` described."""
    used = None if saved["used"] is None else np.array(saved["used"])
    return TrainedMean(np.array(saved["curve"]), used, calibration, kept(folder))
