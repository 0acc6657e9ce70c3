"""Loads are drawn as their shapes say."""

import numpy as np
import pytest

from exporters.replay.load import shapes


def drawn(name, capacity=50.0):
    shape = next(shape for shape in shapes() if shape.name == name)
    return shape.draw(capacity, 7, np.random.default_rng(0))


def rate(load, start, end):
    return ((load.arrivals >= start) & (load.arrivals < end)).sum() / (end - start)


def test_a_step_goes_from_half_the_capacity_to_twice_of_it_and_back():
    load = drawn("step")
    assert rate(load, 0, 40) == pytest.approx(25, rel=0.1)
    assert rate(load, 40, 160) == pytest.approx(100, rel=0.1)
    assert rate(load, 160, 200) == pytest.approx(25, rel=0.1)
    assert (np.diff(load.arrivals) >= 0).all()
    assert load.steps == (40.0,)


def test_a_day_rises_and_falls_and_bursts_are_short():
    day = drawn("diurnal")
    assert rate(day, 50, 70) > 2.5 * rate(day, 0, 20)
    bursts = drawn("bursts")
    rates = [rate(bursts, at, at + 1) for at in range(120)]
    assert max(rates) == pytest.approx(150, rel=0.3)
    assert np.median(rates) == pytest.approx(30, rel=0.3)
    assert 0.1 < np.mean(np.array(rates) > 90) < 0.4
    assert bursts.steps == ()


def test_requests_ask_all_questions_with_prompts_answers_and_weights():
    plain, weighted = drawn("step"), drawn("step, weights")
    assert set(plain.questions.tolist()) == set(range(7))
    assert (plain.prompts.min(), plain.prompts.max()) == (100, 400)
    assert (plain.answers.min(), plain.answers.max()) == (32, 96)
    assert set(plain.weights.tolist()) == {1.0}
    assert set(weighted.weights.tolist()) == {0.25, 0.5, 1.0, 2.0, 4.0}


def test_replicas_are_lost_and_slow_down():
    (lost,), (slow,) = drawn("replica lost").changes, drawn("replica slow").changes
    assert (lost.speed, slow.speed) == (0, 0.5)
    assert lost.at == slow.at == 40


def test_a_longer_scenario_is_the_same_in_slow_motion():
    (short, *_), (long, *_) = shapes(), shapes(3.0)
    assert long.seconds == 3 * short.seconds
