"""The slow correction of the model by what is measured."""

import pytest

from scheduler_service.control.correction import Correction
from scheduler_service.control.objectives import parse_objectives

(OBJECTIVE,) = parse_objectives(["total p90 10s"])
LATE, EARLY = [20.0] * 50, [5.0] * 50


def followed(values, times=1, *, saturated=False, correction=None):
    correction = correction or Correction(OBJECTIVE)
    for now in range(times):
        correction.follow(values, float(now), 1.0, saturated=saturated)
    return correction


def test_it_gives_the_model_less_time_where_requests_are_late_and_more_where_they_are_early():
    assert followed(LATE).value < 1 < followed(EARLY).value
    assert followed(LATE).seconds == pytest.approx(10 * followed(LATE).value)


def test_it_takes_several_objectives_time_and_stays_within_its_limits():
    assert followed(LATE).value > 0.95
    assert followed(LATE, 1000).value == 0.5
    assert followed(EARLY, 1000).value == 1.25


def test_it_moves_alike_in_both_directions():
    assert followed(LATE).value * followed(EARLY).value == pytest.approx(1)


def test_it_saves_nothing_up_while_budgets_cannot_grow():
    assert followed(EARLY, 1000, saturated=True).value == 1
    grown = followed(EARLY, 50)
    assert 1 < followed(EARLY, 20, saturated=True, correction=grown).value < 1.25


def test_late_requests_count_even_where_budgets_cannot_grow():
    assert followed(LATE, saturated=True).value < 1


def test_too_few_requests_say_nothing():
    assert followed(LATE[:39]).value == 1
    assert followed(LATE[:40]).value < 1
    assert followed([], 10).value == 1


def test_requests_of_long_ago_do_not_count():
    correction = followed(LATE)
    before = correction.value
    correction.follow(EARLY, 100.0, 1.0, saturated=False)
    assert correction.value > before
