"""Which answer wins a vote, and what a curve is when traces share its tokens."""

import pytest

from scheduler_service.allocation.curve import Curve
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
    one = Curve((16, 32, 48, 64), (0.2, 0.4, 0.6, 0.8), (16.0, 30.0, 40.0, 40.0))
    prediction = Prediction(PredictionOutcome.FRESH, one, "p@1")
    shared = stretched(prediction, 2).curve
    assert [shared.accuracy_at(tokens) for tokens in (16, 32, 48, 64)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [shared.used_at(tokens) for tokens in (32, 64, 128)] == [32.0, 60.0, 80.0]
    assert stretched(prediction, 1) == prediction
    none = Prediction(PredictionOutcome.TIMEOUT)
    assert stretched(none, 3) == none
