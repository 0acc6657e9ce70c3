"""A load that rises and falls, and the figures of what became of it."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling_cli.demo.load import (
    AFTER,
    BUSY,
    CALM,
    Capacity,
    Phase,
    by_phase,
    figures,
    given_up,
    phase_at,
    poisson_arrivals,
    rise_and_fall,
    starts,
)
from scheduler_service.control.objectives import parse_objectives
from tests.builders.asked import answered, refused

PHASES = rise_and_fall(40, 60, 50)
SOME = st.lists(
    st.builds(
        answered,
        st.floats(0, 200),
        st.floats(0.01, 100),
        family=st.sampled_from(["sum", "product"]),
        right=st.booleans(),
        tokens=st.integers(0, 256),
    )
    | st.builds(refused, st.floats(0, 200), family=st.sampled_from(["sum", "halve"])),
    max_size=20,
)


def test_phases_follow_one_another():
    assert starts(PHASES) == [0, 40, 100, 150]
    assert [phase_at(PHASES, at).name for at in (0, 39.9, 40, 99, 100, 149, 999)] == [
        CALM, CALM, BUSY, BUSY, AFTER, AFTER, AFTER,
    ]  # fmt: skip


@given(
    loads=st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 3)), min_size=1, max_size=4),
    capacity=st.floats(0.05, 20),
    seed=st.integers(0, 99),
)
def test_arrivals_rise_within_the_load_and_are_the_same_for_a_seed(loads, capacity, seed):
    phases = [Phase("p", seconds, load) for seconds, load in loads]
    found = poisson_arrivals(phases, capacity, seed)
    assert found == sorted(found) == poisson_arrivals(phases, capacity, seed)
    assert all(0 < at < starts(phases)[-1] for at in found)


def test_arrivals_come_at_the_rate_of_their_phase():
    found = poisson_arrivals(PHASES, 100.0, seed=3)
    counts = [sum(one <= at < other for at in found) for one, other in itertools.pairwise(starts(PHASES))]
    for count, expected in zip(counts, (2000, 12000, 2500), strict=True):
        assert abs(count - expected) < 5 * math.sqrt(expected)
    assert poisson_arrivals(PHASES, 100.0, seed=4) != found


@pytest.mark.parametrize("capacity", [0.0, -1.0, math.nan])
def test_a_capacity_that_is_none_is_refused(capacity):
    with pytest.raises(ValueError, match="capacity"):
        poisson_arrivals(PHASES, capacity, seed=0)


def test_half_as_much_time_again_is_promised_in_whole_seconds():
    capacity = Capacity(2.0, [4.0] * 90 + [6.1] * 10)
    assert capacity.objective == "total p95 10s"
    assert parse_objectives([capacity.objective])[0].seconds == 10


@given(
    seconds=st.lists(st.floats(0.01, 99), min_size=1, max_size=30), rate=st.floats(0.01, 99), late=st.floats(0.1, 99)
)
def test_as_many_are_let_in_as_the_engine_answers_within_the_objective_at_the_most(seconds, rate, late):
    assert 1 <= Capacity(rate, seconds).in_flight(late) <= max(1, rate * late * 100)
    alike = Capacity(rate, [3.0])
    assert alike.in_flight(late) == max(1, int(rate * late))


def test_refused_questions_are_wrong_and_have_neither_tokens_nor_seconds():
    asked = [answered(1, 2.0, tokens=10), answered(2, 4.0, right=False, tokens=30), refused(3), refused(4)]
    assert figures(asked) == {
        "asked": 4, "refused": 2, "right_of_asked": 0.25, "right_of_served": 0.5, "tokens": 20,
        "p50_seconds": 2.0, "p99_seconds": 4.0,
    }  # fmt: skip
    assert asked[2].seconds == math.inf
    nothing = figures([refused(1)])
    assert (nothing["right_of_asked"], nothing["right_of_served"], nothing["p50_seconds"]) == (0, None, None)
    assert figures([])["right_of_asked"] is None


@given(asked=SOME)
def test_every_question_is_in_one_phase(asked):
    rows = by_phase(asked, PHASES)
    assert list(rows) == [CALM, BUSY, AFTER]
    assert sum(row["asked"] for row in rows.values()) == len(asked)
    assert sum(row["refused"] for row in rows.values()) == figures(asked)["refused"]


def test_what_kinds_of_question_gave_up_is_told_the_most_first():
    asked = [
        answered(1, 1, family="sum", tokens=40), answered(2, 1, family="sum", tokens=50, right=False),
        answered(50, 1, family="sum", tokens=35),
        answered(3, 1, family="product", tokens=80, right=False), refused(51, family="product"),
        answered(4, 1, family="lookup", tokens=8), answered(52, 1, family="until"),
    ]  # fmt: skip
    rows = given_up(asked, lambda at: phase_at(PHASES, at).name == BUSY)
    assert [(row.family, row.tokens, row.calm_right, row.busy_right) for row in rows] == [
        ("product", 80, 0, 0),
        ("sum", 10, 0.5, 1),
    ]


@given(asked=SOME, busy=st.booleans())
def test_without_two_times_nobody_gave_up_anything(asked, busy):
    assert given_up(asked, lambda at: busy) == []
