"""Refusing the least valuable requests."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.control.refusals import LeastValuable


def test_nothing_is_refused_without_need_or_before_there_is_something_to_compare_with():
    refusals = LeastValuable()
    assert refusals.admits(0.1, 1.0)
    assert all(refusals.admits(value, 0.0) for value in (0.0, 0.5, 1.0))
    assert not refusals.admits(1e9, 1.0)


def test_the_least_valuable_go_first():
    refusals, rng = LeastValuable(), random.Random(1)
    for _ in range(300):
        refusals.admits(rng.random(), 0.0)
    admitted = [value for value in (rng.random() for _ in range(500)) if refusals.admits(value, 0.4)]
    assert min(admitted) > 0.25
    assert len(admitted) == pytest.approx(300, abs=40)


@given(st.floats(0.05, 0.95), st.sampled_from([[1.0], [0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
def test_the_share_holds_where_values_are_equal(share, values):
    refusals, rng = LeastValuable(), random.Random(2)
    for _ in range(300):
        refusals.admits(rng.choice(values), 0.0)
    refused = sum(not refusals.admits(rng.choice(values), share) for _ in range(1000))
    assert refused == pytest.approx(1000 * share, abs=80)


def test_old_requests_are_forgotten():
    refusals = LeastValuable()
    for _ in range(300):
        refusals.admits(100.0, 0.0)
    for _ in range(300):
        refusals.admits(1.0, 0.0)
    assert refusals.admits(2.0, 0.5)
