"""Loads replayed through policies: what is late, right, refused, and who knows what."""

import numpy as np
import pytest

from exporters.measure.curves import Curves
from exporters.replay.engine_simulation import EngineKind
from exporters.replay.evaluate import Predicted
from exporters.replay.load import Change, Load
from exporters.replay.load_policies import Priced
from exporters.replay.load_simulation import Outcome, Questions, Setup, outside, simulate_load
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.objectives import parse_objectives

POINTS = np.array([100, 200])
KIND = EngineKind("plain", alone=0.01, each=0.0, prefill=1e9, slots=4)
(TOTAL,), (FIRST,) = parse_objectives(["total p90 2s"]), parse_objectives(["first_token p90 1s"])


def questions(used=None):
    accuracy = np.array([[0.2, 0.6], [0.9, 0.9]])
    measured = Curves.measured(["a", "b"], ["a", "b"], POINTS, accuracy, used)
    return Questions(measured, Predicted(accuracy, used))


def load(times, asked=None, changes=(), steps=()):
    count = len(times)
    return Load(
        np.array(times, float), np.zeros(count, int) if asked is None else np.array(asked), np.full(count, 10),
        np.full(count, 20), np.ones(count), 60.0, changes, steps,
    )  # fmt: skip


class Given:
    """Gives what it is told to, and notes what it is told."""

    mean, price = 1.0, 0.0

    def __init__(self, budgets):
        self.budgets, self.told, self.used = budgets, [], {}

    def decide(self, key, curve, weight, in_flight, now):
        return self.budgets[key]

    def ended(self, key, used):
        self.used[key] = used

    def observe(self, seen, now):
        self.told.append(seen)


def replay(given, policy, asked=None, objective=TOTAL, used=None, replicas=1):
    return simulate_load(given, questions(used), Setup(KIND, replicas, objective, Bounds(1, 2, 3), 1), policy)


def test_requests_are_as_right_as_their_curves_say_and_refused_ones_are_not_right():
    policy = Given([100, 200, None, 150])
    outcome = replay(load([0.0, 0.5, 1.0, 1.5], asked=[0, 0, 1, 0]), policy)
    assert outcome.accuracy.tolist() == pytest.approx([0.2, 0.6, 0.0, 0.4])
    assert outcome.refused.tolist() == [False, False, True, False]
    assert outcome.used.tolist() == [100, 200, 0, 150]
    assert policy.used == {0: 100, 1: 200, 3: 150}
    assert outcome.seconds.tolist() == pytest.approx([1.2, 2.2, np.inf, 1.7])


def test_requests_that_end_by_themselves_use_less():
    outcome = replay(load([0.0]), Given([200]), used=np.array([[50.0, 60.0], [50.0, 60.0]]))
    assert outcome.used.tolist() == [60]
    assert outcome.seconds.tolist() == pytest.approx([0.8])


def test_a_policy_is_told_every_second_what_was_seen():
    policy = Given([200] * 6)
    outcome = replay(load([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]), policy)
    first, second = policy.told[:2]
    assert (first.seconds, first.arrivals, first.slots, first.waiting) == (1.0, 6, 4, 2)
    assert 3 < first.running < 4
    assert first.tokens == pytest.approx(100 * (1 + 0.9 + 0.8 + 0.7), abs=8)
    assert first.outstanding == pytest.approx(6 * 220 - first.tokens)
    assert first.start == pytest.approx(0.01, abs=0.001)
    assert second.arrivals == 0
    ended = [seconds for seen in policy.told for seconds in seen.measured[TOTAL]]
    assert sorted(ended) == sorted(outcome.seconds.tolist())
    assert sum(len(seen.sizes) for seen in policy.told) == 6
    assert {answer for seen in policy.told for answer in seen.answers} == {20}
    assert [second.at for second in outcome.trace[:2]] == [1.0, 2.0]


def test_first_tokens_are_measured_where_they_are_promised():
    outcome = replay(load([0.0]), Given([200]), objective=FIRST)
    assert outcome.seconds.tolist() == pytest.approx([0.01], abs=1e-6)


def test_the_fleet_changes_when_it_is_said_to():
    slow = replay(load([0.0], changes=(Change(1.0, 0, 0.5),)), Given([200]))
    assert slow.seconds.tolist() == pytest.approx([1.0 + 2 * 1.2])
    lost = replay(load([0.0, 0.0], changes=(Change(1.0, 1, 0.0),)), Given([200, 200]), replicas=2)
    assert lost.seconds.tolist() == pytest.approx([2.2, 2.2], abs=0.02)


def outcome(seconds, refused=()):
    budgets = np.array([-1 if at in refused else 1 for at in range(len(seconds))])
    return Outcome(budgets, np.ones(len(seconds)), np.ones(len(seconds)), np.array(seconds, float))


def test_a_window_is_outside_where_more_are_late_than_may_be():
    given = load(np.arange(40) / 2)  # twenty in each ten seconds
    late = [3.0] * 2 + [1.0] * 18 + [3.0] * 3 + [1.0] * 17
    assert outside(given, outcome(late), TOTAL, window=10, reaction=10) == 0.5
    assert outside(given, outcome([1.0] * 40), TOTAL, window=10, reaction=10) == 0
    assert outside(given, outcome([np.inf] * 40, refused=range(40)), TOTAL, window=10, reaction=10) == 0


def test_what_runs_at_a_step_or_comes_shortly_after_it_does_not_count():
    given = load(np.arange(40) / 2, steps=(5.0,))
    seconds = np.where((given.arrivals >= 3) & (given.arrivals < 15), 3.0, 1.0)
    assert outside(given, outcome(seconds), TOTAL, window=10, reaction=10) == 0
    assert outside(given, outcome(seconds), TOTAL, window=10, reaction=2) > 0


def test_predicted_curves_have_their_use_and_its_mean():
    plain, used = questions(), questions(np.array([[50.0, 60.0], [30.0, 40.0]]))
    assert plain.curves[0].used == ()
    assert plain.mean_use.tolist() == [100, 200]
    assert used.curves[1].used == (30, 40)
    assert used.mean_use.tolist() == [40, 50]


def test_the_service_s_own_price_takes_part():
    setup = Setup(KIND, 1, TOTAL, Bounds(20, 120, 200), 20)
    result = simulate_load(load(np.arange(600.0)), questions(), setup, Priced(setup.bounds, 20))
    assert result.used.mean() == pytest.approx(120, rel=0.2)
