"""Several traces of one request: how its curve reads when they share its tokens, and which answer wins. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from scheduler_service.allocation.policy import accuracy_of
from scheduler_service.domain import Prediction, PredictionOutcome


def stretched(prediction: Prediction, traces: int, window_tokens: int) -> Prediction:
    """The prediction of a request whose tokens are split among ``traces``: accuracy after t tokens is that after t/n.

    A lower bound from three traces on, where a vote is hardly worse than one of its traces; what it adds is not
    predicted.
    """
    if traces <= 1 or prediction.outcome is not PredictionOutcome.FRESH:
        return prediction
    places = [window_tokens * (at + 1) // traces for at in range(len(prediction.curve))]
    return replace(prediction, curve=tuple(accuracy_of(prediction.curve, place, window_tokens) for place in places))


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
