"""Predictions as far as they are to be trusted: drawn toward the predictor's mean curve. Pure arithmetic."""

from __future__ import annotations

from dataclasses import replace

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Prediction, PredictionOutcome


def trusted(prediction: Prediction, mean: Curve, slope: float, confidence: float = 0.0) -> Prediction:
    """Return the prediction with its accuracy drawn toward the mean curve; ``raw`` keeps what was predicted.

    ``slope``: how much of a difference to the mean curve is real, 0 to 1 (``reliability``). ``confidence``: standard
    deviations by which every difference is then reduced toward zero, a lower confidence bound of the difference; 0 for
    none. A curve without a mean curve at its points is left as it is. Expected use is left as it is: it needs no label,
    and what is wrong about it shows in the ledger.
    """
    if prediction.outcome is not PredictionOutcome.FRESH or mean.points != prediction.curve.points:
        return prediction
    if slope == 1.0 and not confidence:
        return prediction
    count = len(mean.points)
    uncertainty = prediction.uncertainty if len(prediction.uncertainty) == count else (0.0,) * count
    accuracy = []
    for value, usual, deviation in zip(prediction.curve.accuracy, mean.accuracy, uncertainty, strict=True):
        distance = slope * (value - usual)
        bounded = max(0.0, abs(distance) - confidence * deviation)
        accuracy.append(min(1.0, max(0.0, usual + (bounded if distance > 0 else -bounded))))
    return replace(prediction, curve=replace(prediction.curve, accuracy=tuple(accuracy)), raw=prediction.curve)
