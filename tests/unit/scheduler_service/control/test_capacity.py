"""The model of the engines: the line that is fitted, and what it says of a load."""

import math

import pytest

from scheduler_service.control.capacity import Bounds, Demand, Engine, EngineLine, high

ALONE, EACH = 0.004, 0.00004


def seen(line, running, seconds=1.0, *, factor=1.0, slots=128.0):
    line.observe(running, running * seconds / (factor * (ALONE + EACH * running)), seconds, slots)


def fitted():
    line = EngineLine()
    for running in (10, 40, 80, 120, 60, 30):
        for _ in range(10):
            seen(line, running)
    return line


def test_a_line_is_fitted_to_what_was_seen():
    line = fitted()
    for running in (5, 50, 128):
        assert line.at(running) == pytest.approx(ALONE + EACH * running, rel=0.05)
    assert sum(line.parts()) == pytest.approx(line.at(1), rel=1e-9)


def test_nothing_is_known_before_something_was_seen():
    line = EngineLine()
    for nothing in ((0, 10, 1), (10, 0, 1)):
        line.observe(*nothing, 128.0)
    assert not line.known
    assert line.at(10) == 0
    assert line.parts() == (0, 0)


def test_while_one_concurrency_was_seen_a_token_takes_twice_as_long_with_all_slots_taken():
    line = EngineLine()
    seen(line, 1.0, slots=128)
    assert line.at(128) == pytest.approx(2 * line.at(0.001), rel=0.01)


def test_a_fleet_that_slows_down_shows_within_seconds():
    line = fitted()
    for _ in range(6):
        seen(line, 60, factor=2.0)
    assert line.at(60) == pytest.approx(2 * (ALONE + EACH * 60), rel=0.2)


def test_engines_that_write_nothing_are_ever_slower_until_they_write_again():
    line = fitted()
    for _ in range(5):
        line.observe(60, 0, 1.0, 128.0)
    assert line.at(60) > 4 * (ALONE + EACH * 60)
    for _ in range(20):
        seen(line, 60)
    assert line.at(60) == pytest.approx(ALONE + EACH * 60, rel=0.1)


def test_seconds_in_which_prompts_are_computed_count_for_what_they_cost():
    line = EngineLine()
    for at in range(60):
        line.observe(60, 60 / (ALONE + EACH * 60) * (at % 2) * 2, 1.0, 128.0)
    assert line.at(60) == pytest.approx(ALONE + EACH * 60, rel=0.2)


def test_neither_part_of_the_line_is_negative():
    line = EngineLine()
    for running in (10, 100) * 20:  # pace falls with the concurrency, as no engine's does for long
        line.observe(running, running / (0.02 / running), 1.0, 128.0)
    assert min(line.parts()) >= 0


def engine(rate=20.0, slots=128.0, **demand):
    return Engine(fitted(), slots, Demand(rate, demand.get("start", 0.05), 40.0, unlike=demand.get("unlike", 1.0)))


def test_tokens_and_concurrency_of_a_load_belong_together():
    model = engine()
    for running in (20, 60, 100):
        assert model.running_at(model.tokens_at(running)) == pytest.approx(running, rel=0.02)
    assert model.running_at(1e9) == 128
    assert model.tokens_at(0.001) == 0
    assert engine(rate=0.0).tokens_at(10) == math.inf
    assert Engine(EngineLine(), 128.0, Demand(1.0, 0.0, 0.0)).tokens_at(10) == math.inf


def test_requests_wait_only_beyond_the_slots_and_longer_at_a_slow_replica():
    assert engine().wait_at(128, 200) == 0
    waited = engine().wait_at(256, 200)
    assert waited == pytest.approx(0.05 + 200 * engine().line.at(128))
    assert engine(unlike=2.0).wait_at(256, 200) == pytest.approx(2 * waited)


def test_the_first_token_comes_after_the_wait_and_the_last_one_after_all_others():
    model = engine()
    assert model.first_token_at(50, 200, 0.99) == pytest.approx(0.05)
    assert model.first_token_at(200, 200, 0.99) > 0.5
    total = model.total_at(50, 200, 400, 0.99)
    assert total == pytest.approx(0.05 + 400 * model.line.at(high(50, 0.99)))
    assert model.tokens_within(total, 50, 200, 0.99) == pytest.approx(400)
    assert model.tokens_within(0.01, 50, 200, 0.99) < 0
    assert model.throughput_at(50) == pytest.approx(50 / model.line.at(50))


def test_a_crowd_is_larger_than_its_mean_at_high_quantiles():
    assert high(100, 0.99) == pytest.approx(123.3, abs=0.1)
    assert high(100, 0.5) == pytest.approx(100)
    assert high(0, 0.99) == 0


@pytest.mark.parametrize("bounds", [(0, 1, 2), (-1, 1, 2), (3, 2, 4), (1, 3, 2), (1, 2, math.inf)])
def test_bounds_that_leave_nothing_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds: need"):
        Bounds(*bounds)
