"""What a predictor says, read once: from messages of the wire to values that nothing behind checks again.

A curve is as long as its model announces, each value is a fraction, and it does not fall: who gives a request more
tokens may leave them unspent, so that accuracy at a budget is the best at any budget up to it. Predicted curves do dip
a little, by noise; such dips are filled up to the curve's running maximum. A curve that falls by more than
``MOST_FALL`` says that reasoning hurts, which no budget can follow: it is unsound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.domain import Job, Prediction, PredictionOutcome

MOST_WINDOWS = 4096
MOST_FALL = 0.25
_MOST_HIDDEN = 65536
MOST_NAME = 256


class UnsoundAnswerError(Exception):
    """A predictor says what no predictor may say; the message names the field."""


@dataclass(frozen=True)
class PredictorInfo:
    """What the predictor's model takes and is. ``hidden_size``: 0 for no hidden state; ``max_text_bytes``: of a prompt.

    ``windows``: the length of its curves. ``mean_curve``: mean accuracy of its training data per window, as far as it
    is read; empty where it is unsound.
    """

    name: str
    takes_text: bool
    hidden_size: int
    layer: int
    max_text_bytes: int
    version: str = ""
    windows: int = 0
    mean_curve: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The model as name@version."""
        return f"{self.name}@{self.version}"

    def fits(self, job: Job) -> bool:
        """Whether the model takes the job's prompt and hidden state."""
        too_long = self.takes_text and len(job.prompt.encode()) > self.max_text_bytes
        return not too_long and (not self.hidden_size or job.hidden_state is not None)


def read_model(model: pb.Model, window_tokens: int, most_windows: int) -> PredictorInfo:
    """Read what a predictor says of its model; curves are read as far as ``most_windows``. Raises UnsoundAnswerError.

    A mean curve that is none is left out: the model can be used without.
    """
    checks = {
        "name": 0 < len(model.name) <= MOST_NAME and model.name.isprintable(),
        "version": len(model.version) <= MOST_NAME and model.version.isprintable(),
        "budget_window_tokens": model.budget_window_tokens == window_tokens,
        "windows": 0 < model.windows <= MOST_WINDOWS,
        "hidden_size": model.hidden_size <= _MOST_HIDDEN,
        "takes_text, hidden_size": model.takes_text or model.hidden_size > 0,
    }
    if unsound := [name for name, sound in checks.items() if not sound]:
        raise UnsoundAnswerError(f"GetModel: {', '.join(unsound)}")
    mean = None
    if len(model.mean_curve) == model.windows:
        mean = read_curve(model.mean_curve[:most_windows])
    return PredictorInfo(
        model.name,
        model.takes_text,
        model.hidden_size,
        model.layer,
        model.max_text_bytes,
        model.version,
        model.windows,
        mean or (),
    )


def read_prediction(prediction: pb.Prediction, info: PredictorInfo, most_windows: int) -> Prediction:
    """Read a prediction of ``info``'s model, as far as ``most_windows``; an unsound one is INVALID."""
    invalid = Prediction(PredictionOutcome.INVALID, predictor=info.label)
    if prediction.status == pb.PREDICTION_STATUS_ABSTAIN:
        return Prediction(PredictionOutcome.ABSTAINED, predictor=info.label)
    if prediction.status != pb.PREDICTION_STATUS_OK or len(prediction.curve) != info.windows:
        return invalid
    if len(prediction.uncertainty) not in (0, info.windows):
        return invalid
    curve, uncertainty = read_curve(prediction.curve[:most_windows]), tuple(prediction.uncertainty[:most_windows])
    if curve is None or not _fractions(uncertainty):
        return invalid
    return Prediction(PredictionOutcome.FRESH, curve, info.label, uncertainty)


def read_curve(values: Iterable[float]) -> tuple[float, ...] | None:
    """The curve with its dips filled up to the running maximum; ``None`` for an unsound one."""
    curve = tuple(values)
    if not _fractions(curve):
        return None
    risen = tuple(accumulate(curve, max))
    return risen if max(map(float.__sub__, risen, curve)) <= MOST_FALL else None


def _fractions(values: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) and 0 <= value <= 1 for value in values)
