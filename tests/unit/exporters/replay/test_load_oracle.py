"""The oracle: it holds what can be held, and gains at least what others gain."""

import numpy as np
import pytest

from exporters.measure.curves import Curves
from exporters.replay.engine_simulation import EngineKind
from exporters.replay.evaluate import Predicted
from exporters.replay.load import Change, Shape
from exporters.replay.load_oracle import Oracle
from exporters.replay.load_policies import Even
from exporters.replay.load_simulation import Questions, Setup, outside, simulate_load
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.objectives import parse_objectives

KIND = EngineKind("plain", alone=0.005, each=0.0001, prefill=50_000.0, slots=32)
(OBJECTIVE,) = parse_objectives(["total p95 10s"])
SETUP = Setup(KIND, 2, OBJECTIVE, Bounds(32, 200, 800), 16)
POINTS = np.array([50, 200, 800])


def questions():
    rng = np.random.default_rng(3)
    accuracy = np.sort(rng.uniform(0, 1, (30, 3)), axis=1)
    measured = Curves.measured([str(at) for at in range(30)], [""] * 30, POINTS, accuracy)
    return Questions(measured, Predicted(accuracy))


def loaded(height, changes=(), seconds=40.0):
    shape = Shape("flat", seconds, lambda at: np.full_like(at, height), changes)
    return shape.draw(KIND.capacity(2, 250, 264), 30, np.random.default_rng(1))


def best(load):
    asked = questions()
    return Oracle(load, asked, SETUP).best(
        lambda plan: simulate_load(load, asked, SETUP, plan),
        lambda outcome: outside(load, outcome, OBJECTIVE, window=10, reaction=0),
        0.01,
    )


def test_it_holds_the_objective_and_gains_more_than_even_budgets_that_are_scaled():
    load, asked = loaded(2.0), questions()
    found = best(load)
    rival = simulate_load(load, asked, SETUP, Even(SETUP.bounds, POINTS.tolist(), POINTS.astype(float), [OBJECTIVE]))
    assert outside(load, found, OBJECTIVE, window=10, reaction=0) <= 0.01
    assert not found.refused.any()
    assert found.accuracy.mean() > rival.accuracy.mean()


def test_at_half_load_it_gives_the_most():
    found = best(loaded(0.5))
    assert found.used.mean() == pytest.approx(200, rel=0.05)


def test_it_refuses_the_least_valuable_where_not_even_the_least_fits():
    load, asked = loaded(8.0, seconds=20.0), questions()
    found = best(load)
    assert 0.1 < found.refused.mean() < 0.9
    worth = asked.predicted.accuracy[load.questions, 0]
    assert worth[found.refused].mean() < worth[~found.refused].mean()


def test_it_knows_that_a_replica_will_be_lost():
    before, after = Change(0.0, 0, 1.0), Change(0.0, 0, 0.0)
    plans = [Oracle(loaded(1.0, (change,)), questions(), SETUP).plan(1.0, 0.9) for change in (before, after)]
    assert plans[1].mean < 0.7 * plans[0].mean
