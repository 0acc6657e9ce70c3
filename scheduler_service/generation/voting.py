"""Several traces of one request: how its curve reads when they share its tokens, and which answer wins. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Prediction, PredictionOutcome


def stretched(prediction: Prediction, traces: int) -> Prediction:
    """The prediction of a request whose tokens are split among n ``traces``: t tokens of it are t/n of each.

    A lower bound from three traces on, where a vote is hardly worse than one of its traces; what it adds is not
    predicted.
    """
    if traces <= 1 or prediction.outcome is not PredictionOutcome.FRESH:
        return prediction
    one = prediction.curve
    points, used = tuple(traces * point for point in one.points), tuple(traces * tokens for tokens in one.used)
    return replace(prediction, curve=Curve(points, one.accuracy, used))


def winner(answers: Sequence[str]) -> tuple[int, int]:
    """Return which of the answers wins the vote, and with how many votes: the first of the most frequent ones.

    Answers count as the same but for case, white space, and a final full stop; an empty one only where all are empty.
    """
    forms = [" ".join(answer.split()).rstrip(".").lower() for answer in answers]
    counts = Counter(form for form in forms if form)
    if not counts:
        return 0, len(answers)
    form, votes = max(counts.items(), key=lambda entry: (entry[1], -forms.index(entry[0])))
    return forms.index(form), votes
