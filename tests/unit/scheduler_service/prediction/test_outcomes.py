"""Reported outcomes measure calibration."""

import pytest

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Allocation, Prediction, PredictionOutcome
from scheduler_service.prediction.outcomes import OutcomeBook


def allocation(name, expected, outcome=PredictionOutcome.FRESH):
    shrunk = Prediction(outcome, Curve((16,), (0.5,)), "p@1", raw=Curve((16,), (expected,)))
    return Allocation(name, 16, 16, 8, 0, 64, "envelope", shrunk, 0.5, 0.1, 16.0, 1)


def test_outcomes_are_averaged_by_predictor():
    book = OutcomeBook()
    book.remember(allocation("a", 0.8))
    book.remember(allocation("b", 0.4))
    assert book.report("a", 1.0).reliability.outcomes == 1
    found = book.report("b", 0.0)
    assert (found.predictor, found.drifted) == ("p@1", False)
    assert found.reliability.outcomes == 2
    assert found.reliability.mean_expected == pytest.approx(0.6)  # what the predictor said, before it was shrunk
    assert found.reliability.mean_score == pytest.approx(0.5)


def test_what_outcomes_say_becomes_the_slope_of_the_predictor():
    book = OutcomeBook()
    assert book.slope("p@1") == 1.0
    for at in range(400):
        book.remember(allocation(str(at), 0.9 if at % 2 else 0.1))
        book.report(str(at), float(at % 4 < 2))  # right half of the time, whatever was said
    assert book.slope("p@1") < 0.3


def test_an_outcome_counts_once_and_only_for_known_requests():
    book = OutcomeBook()
    book.remember(allocation("a", 0.8))
    assert book.report("a", 1.0) is not None
    assert book.report("a", 1.0) is None
    assert book.report("nobody", 1.0) is None


def test_a_request_without_a_prediction_is_not_remembered():
    book = OutcomeBook()
    book.remember(allocation("a", 0.0, PredictionOutcome.TIMEOUT))
    assert book.report("a", 1.0) is None


def test_memory_is_bounded():
    book = OutcomeBook(limit=3)
    for at in range(10):
        book.remember(allocation(str(at), 0.5))
    assert book.report("6", 1.0) is None
    assert book.report("7", 1.0) is not None
