"""What a predictor says, read once: from messages of the wire to values that nothing behind checks again.

A curve has a value for each of the points that its model announces, each value is a fraction, and it does not fall: who
gives a request more tokens may leave them unspent, so that accuracy at a budget is the best at any budget up to it.
Predicted curves do dip, by noise or because half-done reasoning misleads; dips are filled up to the curve's running
maximum. A curve that ends more than ``MOST_FALL`` below its best says that reasoning hurts, which no budget can follow:
it is unsound. Expected use is read alike: it is from 0 to its budget, and its dips are filled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from predictive_scheduling.budget_points import (
    MOST_POINTS,
    CurveError,
    check_points,
    evenly_spaced,
    risen_usage,
    within_budget,
)
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import NO_CURVE, Job, Prediction, PredictionOutcome

MOST_FALL = 0.25
_MOST_HIDDEN = 65536
MOST_NAME = 256


class UnsoundAnswerError(Exception):
    """A predictor says what no predictor may say; the message names the field."""


@dataclass(frozen=True)
class PredictorInfo:
    """What the predictor's model takes and is. ``hidden_size``: 0 for no hidden state; ``max_text_bytes``: of a prompt.

    ``points``: the budgets at which its curves are known. ``mean_curve``: of its training data; empty where it is
    unsound.
    """

    name: str
    takes_text: bool
    hidden_size: int
    layer: int
    max_text_bytes: int
    version: str = ""
    points: tuple[int, ...] = ()
    mean_curve: Curve = NO_CURVE

    @property
    def label(self) -> str:
        """The model as name@version."""
        return f"{self.name}@{self.version}"

    def fits(self, job: Job) -> bool:
        """Whether the model takes the job's prompt and hidden state."""
        too_long = self.takes_text and len(job.prompt.encode()) > self.max_text_bytes
        return not too_long and (not self.hidden_size or job.hidden_state is not None)


def read_model(model: pb.Model) -> PredictorInfo:
    """Read what a predictor says of its model. Raises UnsoundAnswerError.

    A mean curve that is none is left out: the model can be used without.
    """
    checks = {
        "name": 0 < len(model.name) <= MOST_NAME and model.name.isprintable(),
        "version": len(model.version) <= MOST_NAME and model.version.isprintable(),
        "windows": 0 < model.windows <= MOST_POINTS,
        "hidden_size": model.hidden_size <= _MOST_HIDDEN,
        "takes_text, hidden_size": model.takes_text or model.hidden_size > 0,
    }
    if unsound := [name for name, sound in checks.items() if not sound]:
        raise UnsoundAnswerError(f"GetModel: {', '.join(unsound)}")
    points = read_points(model.budget_points, model.windows, model.budget_window_tokens)
    if points is None or len(points) != model.windows:
        field = "budget_points" if model.budget_points else "budget_window_tokens"
        raise UnsoundAnswerError(f"GetModel: {field}")
    return PredictorInfo(
        model.name,
        model.takes_text,
        model.hidden_size,
        model.layer,
        model.max_text_bytes,
        model.version,
        points,
        read_curve(points, model.mean_curve, model.mean_used_tokens) or NO_CURVE,
    )


def read_points(points: Sequence[int], count: int, step: int) -> tuple[int, ...] | None:
    """Budget points as a predictor says them: a list, or, from older ones, ``count`` at ``step``; ``None`` for none."""
    if not points and (step < 1 or not 0 < count <= MOST_POINTS):
        return None
    found = tuple(points[: MOST_POINTS + 1]) or evenly_spaced(count, step)
    try:
        check_points(found)
    except CurveError:
        return None
    return found


def read_prediction(prediction: pb.Prediction, info: PredictorInfo) -> Prediction:
    """Read a prediction of ``info``'s model; an unsound one is INVALID."""
    invalid = Prediction(PredictionOutcome.INVALID, predictor=info.label)
    if prediction.status == pb.PREDICTION_STATUS_ABSTAIN:
        return Prediction(PredictionOutcome.ABSTAINED, predictor=info.label, reason=_reason(prediction))
    if prediction.status != pb.PREDICTION_STATUS_OK or len(prediction.uncertainty) not in (0, len(info.points)):
        return invalid
    curve, uncertainty = (
        read_curve(info.points, prediction.curve, prediction.used_tokens),
        tuple(prediction.uncertainty),
    )
    if curve is None or not _fractions(uncertainty):
        return invalid
    return Prediction(PredictionOutcome.FRESH, curve, info.label, uncertainty)


def _reason(prediction: pb.Prediction) -> str:
    """Why a predictor abstains, in words; empty where it does not say."""
    if prediction.abstain_reason == pb.ABSTAIN_REASON_UNFAMILIAR:
        return f"the request is unlike its training, at {prediction.unfamiliarity:.3g} times the usual distance"
    if prediction.abstain_reason == pb.ABSTAIN_REASON_NOT_FINITE:
        return "its curve is not of numbers alone"
    return ""


def read_curve(points: tuple[int, ...], accuracy: Iterable[float], used: Iterable[float] = ()) -> Curve | None:
    """The curve with its dips filled up to the running maximum; ``None`` for an unsound one."""
    values, spent = tuple(accuracy), tuple(used)
    if len(values) != len(points) or not _fractions(values) or len(spent) not in (0, len(points)):
        return None
    if not all(map(within_budget, spent, points)):
        return None
    risen = tuple(accumulate(values, max))
    if risen[-1] - values[-1] > MOST_FALL:
        return None
    return Curve(points, risen, risen_usage(points, spent) if spent else ())


def _fractions(values: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) and 0 <= value <= 1 for value in values)
