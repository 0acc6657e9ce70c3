"""Which answer wins a vote, and what a curve is when traces share its tokens."""

import pytest

from scheduler_service.domain import Prediction, PredictionOutcome
from scheduler_service.generation.voting import stretched, winner


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["4"], (0, 1)),
        (["5", "4", "4"], (1, 2)),
        (["5", "4"], (0, 1)),
        ([" 4.", "5", "4"], (0, 2)),
        (["Paris", "paris", "Rome"], (0, 2)),
        (["", "", "7"], (2, 1)),
        (["", ""], (0, 2)),
    ],
)
def test_the_first_of_the_most_frequent_answers_wins(answers, expected):
    assert winner(answers) == expected


def test_traces_that_share_tokens_stretch_the_curve():
    prediction = Prediction(PredictionOutcome.FRESH, (0.2, 0.4, 0.6, 0.8), "p@1")
    assert stretched(prediction, 2, 16).curve == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert stretched(prediction, 1, 16) == prediction
    none = Prediction(PredictionOutcome.TIMEOUT)
    assert stretched(none, 3, 16) == none
