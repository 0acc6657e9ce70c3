"""What is made of a load on a real engine: the time outside of the objective, figures, lines of a picture."""

import pytest

from benchmarks.load_step import (
    FIXED,
    PRICE,
    UNIFORM,
    Run,
    courses,
    outside_fraction,
    over_time,
    running_engine,
    summary,
    told,
)
from predictive_scheduling_cli.demo.load import rise_and_fall
from scheduler_service.control.objectives import parse_objectives
from tests.builders.asked import answered, refused

PHASES = rise_and_fall(40, 60, 40)
(OBJECTIVE,) = parse_objectives(["total p90 5s"])


def steady(seconds, at=range(140)):
    return [answered(one, seconds) for one in at]


def test_time_is_outside_where_more_are_late_than_the_objective_allows():
    assert outside_fraction(steady(4), PHASES, OBJECTIVE) == 0
    assert outside_fraction(steady(6), PHASES, OBJECTIVE) == 1
    one_in_ten = [answered(at, 6 if at % 10 == 9 else 4) for at in range(140)]
    assert outside_fraction(one_in_ten, PHASES, OBJECTIVE) == 0


def test_the_reaction_to_the_rise_does_not_count_nor_does_what_runs_then():
    late = [answered(at, 9 if 35 <= at < 50 else 4) for at in range(140)]
    assert outside_fraction(late, PHASES, OBJECTIVE) == 0
    late_once_more = [answered(at, 9 if 35 <= at < 53 else 4) for at in range(140)]
    assert outside_fraction(late_once_more, PHASES, OBJECTIVE) == pytest.approx(1 / 13)


def test_refused_questions_are_not_late():
    half = [answered(at, 4) if at % 2 else refused(at) for at in range(140)]
    assert outside_fraction(half, PHASES, OBJECTIVE) == 0
    row = summary(Run(half, []), PHASES, OBJECTIVE)
    assert (row["late_fraction"], row["refused"], row["right_of_asked"], row["right_of_served"]) == (0, 70, 0.5, 1)
    assert [one["asked"] for one in row["phases"].values()] == [40, 60, 40]


def test_figures_are_told_by_policy_and_phase():
    row = summary(Run(steady(6, range(60)), []), PHASES, OBJECTIVE)
    lines = told(PRICE, row).splitlines()
    assert len(lines) == 3  # nothing came in the last phase
    assert "outside 100.0%" in lines[0]
    assert "right 100.0%,  40.0 tokens" in lines[1]


def test_a_picture_has_the_windows_in_which_somebody_was_answered():
    asked = [answered(1, 2, tokens=40, price=0.01), answered(2, 4, tokens=20, price=0.03), refused(7), answered(12, 9)]
    lines = over_time(Run(asked, []), 15.0)
    assert lines["latency"] == [(2.5, 4), (12.5, 9)]
    assert lines["tokens"] == [(2.5, 30), (12.5, 40)]
    assert lines["price"] == [(2.5, pytest.approx(200)), (12.5, 0)]


def test_uniform_budgets_have_no_price_to_draw():
    runs = {name: Run(steady(4), []) for name in (FIXED, UNIFORM, PRICE)}
    latency, tokens, price = courses(runs, PHASES, OBJECTIVE)
    assert latency.limit == OBJECTIVE.seconds
    assert list(latency.lines) == list(tokens.lines) == [FIXED, UNIFORM, PRICE]
    assert list(price.lines) == [FIXED, PRICE]


async def test_the_embedded_engine_runs_in_the_scheduler(tmp_path):
    async with running_engine("embedded", tmp_path, tmp_path / "log") as settings:
        assert settings == {"backend": "embedded"}
