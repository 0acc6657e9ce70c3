"""Predictions as far as they are to be trusted: drawn toward the predictor's mean curve. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler_service.domain import Prediction, PredictionOutcome


def trusted(prediction: Prediction, mean_curve: Sequence[float], slope: float, confidence: float = 0.0) -> Prediction:
    """Return the prediction with its curve drawn toward ``mean_curve`` (K fractions); ``raw`` keeps what was predicted.

    ``slope``: how much of a difference to the mean curve is real, 0 to 1 (``reliability``). ``confidence``: standard
    deviations by which every difference is then reduced toward zero, a lower confidence bound of the difference; 0 for
    none. A curve without a mean curve of its length is left as it is.
    """
    if prediction.outcome is not PredictionOutcome.FRESH or len(mean_curve) != len(prediction.curve):
        return prediction
    uncertainty = prediction.uncertainty if len(prediction.uncertainty) == len(mean_curve) else (0.0,) * len(mean_curve)
    if slope == 1.0 and not confidence:
        return prediction
    curve = []
    for value, mean, deviation in zip(prediction.curve, mean_curve, uncertainty, strict=True):
        distance = slope * (value - mean)
        bounded = max(0.0, abs(distance) - confidence * deviation)
        curve.append(min(1.0, max(0.0, mean + (bounded if distance > 0 else -bounded))))
    return replace(prediction, curve=tuple(curve), raw=prediction.curve)
