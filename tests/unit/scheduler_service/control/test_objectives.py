"""Objectives as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.control.objectives import Measure, Objective, parse_objectives


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("total p99 20s", Objective(Measure.TOTAL, 0.99, 20.0)),
        (" first_token   p95 1s ", Objective(Measure.FIRST_TOKEN, 0.95, 1.0)),
        ("gold: total p99.9 5s", Objective(Measure.TOTAL, 0.999, 5.0, "gold")),
        ("total p50 250ms", Objective(Measure.TOTAL, 0.5, 0.25)),
        ("total p90 1.5m", Objective(Measure.TOTAL, 0.9, 90.0)),
    ],
)
def test_an_objective_is_read_as_it_is_written(text, objective):
    (read,) = parse_objectives([text])
    assert (read.measure, read.of) == (objective.measure, objective.of)
    assert (read.quantile, read.seconds) == pytest.approx((objective.quantile, objective.seconds))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not of the form"),
        ("total 20s", "is not of the form"),
        ("total p99 20", "is not of the form"),
        ("total p99 -20s", "is not of the form"),
        ("total p99 infs", "is not of the form"),
        ("gold: silver: total p99 5s", "is not of the form"),
        ("latency p99 20s", "'latency' is none of total, first_token"),
        ("total p100 20s", "from p50 to below p100"),
        ("total p49 20s", "from p50 to below p100"),
        ("total p99 0s", "above 0 and at most an hour"),
        ("total p99 61m", "above 0 and at most an hour"),
        (" : total p99 5s", "names nobody"),
    ],
)
def test_what_is_no_objective_is_refused_by_the_settings_name(text, says):
    with pytest.raises(ValueError, match="slo: ") as refused:
        parse_objectives([text], setting="slo")
    assert says in str(refused.value)


def test_the_same_requests_have_one_objective_of_a_measure():
    assert len(parse_objectives(["total p99 20s", "first_token p95 1s", "gold: total p99 5s"])) == 3
    with pytest.raises(ValueError, match="second objective for total"):
        parse_objectives(["total p99 20s", "total p95 5s"])


@given(st.text(max_size=40))
def test_whatever_is_written_it_is_an_objective_or_refused(text):
    try:
        (objective,) = parse_objectives([text])
    except ValueError as error:
        said = str(error)
    else:
        said = f"objective: {objective}"
        assert objective.quantile < 1
        assert objective.seconds > 0
    assert said.startswith("objective: ")


@given(
    st.sampled_from(Measure),
    st.integers(50, 99),
    st.integers(1, 3600),
    st.sampled_from(["", "gold", "team a"]),
)
def test_an_objective_written_out_is_read_again(measure, percent, seconds, of):
    objective = Objective(measure, percent / 100, float(seconds), of)
    (read,) = parse_objectives([str(objective)])
    assert (read.measure, read.of, read.seconds) == (measure, of, seconds)
    assert read.quantile == pytest.approx(objective.quantile)
