"""What is learned from a second of traffic."""

import pytest

from scheduler_service.control.learning import Learner, Observation, quantile_of


def second(**seen):
    usual = {
        "seconds": 1.0, "arrivals": 10, "running": 20, "waiting": 0, "tokens": 2000, "outstanding": 1000, "slots": 64,
    }  # fmt: skip
    return Observation(**(usual | seen))


def learned(*observations, patience=20.0):
    learner = Learner(0.99, patience)
    for seen in observations:
        engine = learner.learn(seen)
    return engine


def test_the_quantile_of_values_is_one_of_them():
    assert quantile_of([3, 1, 2], 0.5) == 2
    assert quantile_of([3, 1, 2], 0.99) == 3
    assert quantile_of([1], 0.5) == 1


def test_the_first_second_is_believed_and_later_ones_are_averaged():
    assert learned(second(arrivals=10)).demand.rate == 10
    rate = learned(second(arrivals=10), second(arrivals=100)).demand.rate
    assert 20 < rate < 60


def test_few_arrivals_are_counted_over_longer_but_not_longer_than_the_objective_bears():
    seldom = [second(arrivals=1)] * 3
    patient = learned(*seldom, second(arrivals=2), patience=60.0).demand.rate - 1
    pressed = learned(*seldom, second(arrivals=2), patience=4.0).demand.rate - 1
    assert 0 < 2 * patient < pressed


def test_requests_that_wait_while_slots_are_free_show_how_many_the_memory_holds():
    assert learned(second(running=64)).slots == 64
    full = second(running=30, waiting=5)
    assert learned(full).slots == 64  # they may have come just now
    assert learned(full, full).slots == 30
    recovered = learned(full, full, *[second(running=20)] * 20)
    assert recovered.slots == 64


def test_a_fleet_without_slots_is_taken_to_have_one():
    assert learned(second(slots=0, running=0, tokens=0)).slots == 1


def test_the_demand_has_what_requests_needed():
    demand = learned(second(start=0.2, answers=[40, 60], sizes=[100, 300], paces=[0.01] * 99 + [0.03])).demand
    assert (demand.start, demand.answer) == (0.2, 50)
    assert demand.variation == pytest.approx(0.25)
    assert demand.unlike == pytest.approx(1, abs=0.03)  # one of a hundred is not beyond p99
    assert learned(second(paces=[0.01] * 50 + [0.02] * 50)).demand.unlike == pytest.approx(4 / 3)


def test_too_few_paces_say_nothing_of_the_slowest():
    assert learned(second(paces=[0.01, 0.09])).demand.unlike == 1


def test_a_learner_starts_with_nothing():
    engine = learned(second(running=0, tokens=0, arrivals=0))
    assert not engine.line.known
    assert engine.demand.variation == 0


@pytest.mark.parametrize("size", [5, 10, 40, 160])
def test_the_time_in_which_prompts_are_computed_is_in_that_of_no_token(size):
    """Four requests a second take 0.3 s to start and 0.2 s to be forced, and 20 ms a token, however many they have."""
    running = 4 * (0.5 + 0.02 * size)
    here = {"arrivals": 4, "running": running, "tokens": 4 * size, "sizes": [size] * 4, "start": 0.3, "forcing": 0.2}
    engine = learned(*[second(**here)] * 120)
    # Of the requests that run, a quarter is left to the tokens at the least.
    assert engine.line.at(running) == pytest.approx(max(0.02, running / 4 / (4 * size)), rel=0.05)
    if size > 5:
        assert engine.tokens_at(running) == pytest.approx(size, rel=0.05)
    assert engine.first_token_at(0, size, 0.5) == pytest.approx(0.3)
