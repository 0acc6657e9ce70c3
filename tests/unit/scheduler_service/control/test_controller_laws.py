"""Laws of the controller: bounds, steps, load, and that it does not swing."""

from itertools import pairwise, product
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.control.capacity import Bounds
from scheduler_service.control.controller import Controller
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import parse_objectives
from tests.builders.fluid_engine import ANSWER, FluidEngine

BOUNDS = Bounds(32, 256, 1024)
FITS = 200 / (0.02 + 306 * 0.015)

anything = st.floats(0, 1e9)
lists = st.lists(st.floats(1e-6, 1e6), max_size=30)


@st.composite
def observations(draw, objectives):
    return Observation(
        seconds=draw(st.floats(0.01, 100)),
        arrivals=draw(anything),
        running=draw(anything),
        waiting=draw(anything),
        tokens=draw(anything),
        outstanding=draw(anything),
        slots=draw(anything),
        start=draw(st.none() | st.floats(0, 1e4)),
        paces=draw(lists),
        answers=draw(lists),
        sizes=draw(lists),
        measured={objective: draw(lists) * 20 for objective in objectives},
    )


@settings(deadline=None)
@given(st.data(), st.sampled_from([["total p99 20s"], ["first_token p95 1s", "gold: total p50 5s"]]))
def test_bounds_hold_and_steps_are_bounded_whatever_is_seen(data, texts):
    objectives = parse_objectives(texts)
    controller, now, before = Controller(objectives, BOUNDS), 0.0, BOUNDS.most
    for _ in range(data.draw(st.integers(1, 8))):
        seen = data.draw(observations(objectives))
        now += seen.seconds
        decision = controller.observe(seen, now)
        assert BOUNDS.least <= decision.mean <= BOUNDS.most
        assert all(BOUNDS.least <= longest <= BOUNDS.cap for longest in decision.longest.values())
        assert 0 <= decision.refuse <= 1
        assert 0 <= decision.retry_seconds <= 60
        assert decision.refuse == 0 or decision.mean == BOUNDS.least
        assert all(0.5 <= value <= 1.25 for value in controller.corrections.values())
        change = 2**seen.seconds * (1 + 1e-9)
        assert before / change <= decision.mean <= before * change
        before = decision.mean


def settled(rate, *, seconds=100, noise=(1.0,), promised=20, **engine):
    objectives = parse_objectives([f"total p99 {promised}s"])
    run = FluidEngine(Controller(objectives, BOUNDS), objectives[0], **engine)
    run.run(rate, seconds, noise)
    return run


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 6.0), st.floats(1.05, 3.0))
def test_more_load_never_means_larger_budgets_or_fewer_refusals(times, more):
    less, much = settled(times * FITS, seconds=60), settled(more * times * FITS, seconds=60)
    assert fmean(much.means[-20:]) <= fmean(less.means[-20:]) * 1.02
    assert fmean(much.shares[-20:]) >= fmean(less.shares[-20:]) - 0.02


@pytest.mark.parametrize("overload", [20, 300])
def test_recovery_starts_at_once_however_long_the_overload_was(overload):
    run = settled(4 * FITS, seconds=overload)
    low = run.means[-1]
    run.run(FITS / 2, 12)
    after = run.means[-12:]
    assert max(after[:3]) > low
    assert after[-1] == BOUNDS.most


def test_recovery_is_as_quick_as_the_onset():
    run = settled(FITS / 2, seconds=60)
    run.run(3 * FITS, 120)
    onset = next(at for at, mean in enumerate(run.means[60:]) if mean < 128)
    run.run(FITS / 2, 60)
    recovery = next(at for at, mean in enumerate(run.means[180:]) if mean > 128)
    assert recovery <= onset + 8


GAINS = (0.5, 1.0, 2.0)  # what is true of a token's time, by what was learned of it before
DELAYS = (0, 1, 3)


@pytest.mark.parametrize(("gain", "delay", "promised"), list(product(GAINS, DELAYS, (20, 6))))
def test_it_does_not_swing_whatever_gain_and_delay(gain, delay, promised):
    run = settled(FITS / 2, seconds=30, delay=delay, promised=promised)
    run.alone, run.each = gain * run.alone, gain * run.each
    run.run(2 * FITS / gain, 150)
    tail = run.means[-60:]
    assert max(tail) - min(tail) <= 0.2 * fmean(tail)
    assert max(run.seconds[-60:]) <= promised


@pytest.mark.parametrize("delay", DELAYS)
def test_noise_in_the_arrivals_is_not_amplified(delay):
    """Arrivals that come by threes and ones, in seconds or longer: tokens swing by less than they do."""
    for length in (1, 4):
        noise = (1.5,) * length + (0.5,) * length
        run = settled(2 * FITS, seconds=150, noise=noise, delay=delay)
        tail = [mean + ANSWER for mean in run.means[-60:]]
        assert max(tail) / min(tail) < 1.5 / 0.5
        assert max(run.seconds[-60:]) <= 20


def test_budgets_do_not_turn_around_more_often_than_the_load():
    run = settled(FITS / 2, seconds=40)
    run.run(2 * FITS, 100)
    run.run(FITS / 2, 40)
    steps = [after - before for before, after in pairwise(run.means) if abs(after - before) > 0.02 * before]
    turns = sum(first * second < 0 for first, second in pairwise(steps))
    assert turns <= 4
