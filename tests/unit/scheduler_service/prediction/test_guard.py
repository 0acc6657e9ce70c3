"""A predictor that fails is left alone, and what it said is remembered."""

import pytest

from predictive_scheduling.circuit_breaker import CircuitBreaker
from scheduler_service.domain import HiddenState, Job, Prediction, PredictionOutcome
from scheduler_service.prediction.guard import GuardedPredictor
from tests.standins.predictor import FakePredictor

FRESH, TIMEOUT, UNAVAILABLE = PredictionOutcome.FRESH, PredictionOutcome.TIMEOUT, PredictionOutcome.UNAVAILABLE
REFUSED = PredictionOutcome.REFUSED


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def job(prompt, **fields):
    return Job("id", prompt, "", 0, 64, **fields)


def guarded(outcome=FRESH, **options):
    inner = FakePredictor(lambda prompt: (len(prompt) / 100,) * 4, outcome)
    clock = Clock()
    return inner, clock, GuardedPredictor(inner, clock=clock, **options)


async def outcomes(predictor, *prompts):
    return [prediction.outcome for prediction in await predictor.predict([job(prompt) for prompt in prompts])]


async def test_what_was_predicted_is_not_asked_again_until_it_is_old():
    inner, clock, predictor = guarded(seconds=10)
    first = await predictor.predict([job("a"), job("bb")])
    again = await predictor.predict([job("bb"), job("ccc"), job("a")])
    assert [prediction.curve.accuracy[0] for prediction in again] == [0.02, 0.03, 0.01]
    assert first[1] == again[0]
    assert inner.windows == [2, 1]
    clock.now = 11
    await predictor.predict([job("a")])
    assert inner.windows == [2, 1, 1]


async def test_hidden_states_and_failures_are_not_remembered():
    inner, _, predictor = guarded()
    state = job("a", hidden_state=HiddenState((1.0,)))
    await predictor.predict([state])
    await predictor.predict([state])
    assert inner.windows == [1, 1]
    inner.outcome = TIMEOUT
    assert await outcomes(predictor, "new") == [TIMEOUT]
    inner.outcome = FRESH
    assert await outcomes(predictor, "new") == [FRESH]


async def test_memory_is_bounded_and_can_be_turned_off():
    inner, _, predictor = guarded(entries=2)
    for prompt in ("a", "b", "c", "a"):
        await predictor.predict([job(prompt)])
    assert inner.windows == [1] * 4
    inner, _, predictor = guarded(entries=0)
    await predictor.predict([job("a")])
    await predictor.predict([job("a")])
    assert inner.windows == [1, 1]


async def test_another_version_of_the_model_empties_the_memory(monkeypatch):
    inner, _, predictor = guarded()
    await predictor.predict([job("a")])
    monkeypatch.setattr("tests.standins.predictor.FakePredictor.name", "fake@2")
    await predictor.predict([job("b")])
    await predictor.predict([job("a")])
    assert inner.windows == [1, 1, 1]


async def test_one_that_keeps_failing_is_left_alone_and_then_tried_by_one_call_a_second():
    inner, clock, predictor = guarded(TIMEOUT)
    for _ in range(10):
        await outcomes(predictor, "a")
    assert len(inner.windows) == 5
    assert await outcomes(predictor, "a") == [UNAVAILABLE]
    for second in range(1, 20):
        clock.now = second * 1.01
        assert await outcomes(predictor, "a") == [TIMEOUT]  # the one that tries
        assert await outcomes(predictor, "a") == [UNAVAILABLE]


@pytest.mark.parametrize("seconds", [2.0, 20.0, 3600.0])
async def test_one_that_was_frozen_is_found_within_a_second_however_long_it_was(seconds):
    inner, clock, predictor = guarded(entries=0)
    thawed = None
    while thawed is None or await outcomes(predictor, "a") != [FRESH]:
        inner.outcome = TIMEOUT if clock.now < seconds else FRESH
        thawed = clock.now if thawed is None and clock.now >= seconds else thawed
        await outcomes(predictor, "a")
        clock.now += 0.1
        assert clock.now < seconds + 1.3


async def test_what_is_refused_without_asking_does_not_close_the_breaker():
    inner, _, predictor = guarded(TIMEOUT)
    inner.most_characters = 3
    for at in range(40):
        assert await outcomes(predictor, "too long", f"{at}") == [REFUSED, TIMEOUT if at < 5 else UNAVAILABLE]
        assert await outcomes(predictor, "too long") == [REFUSED]
    assert inner.windows == [1] * 5


async def test_what_is_refused_without_asking_does_not_open_the_breaker_nor_use_up_its_try():
    inner, clock, predictor = guarded(TIMEOUT)
    inner.most_characters = 3
    for _ in range(50):
        await outcomes(predictor, "too long")
    inner.outcome = FRESH
    assert await outcomes(predictor, "a") == [FRESH]
    inner.outcome = TIMEOUT
    for _ in range(5):
        await outcomes(predictor, "b")
    clock.now, inner.outcome = 1.01, FRESH
    assert await outcomes(predictor, "too long") == [REFUSED]
    assert await outcomes(predictor, "b") == [FRESH]  # the try that was due


async def test_a_window_with_a_job_that_timed_out_counts_as_failed_though_others_were_refused():
    inner, _, predictor = guarded(entries=0)

    async def mixed(jobs):
        inner.windows.append(len(jobs))
        return [Prediction(REFUSED), *[Prediction(TIMEOUT)] * (len(jobs) - 1)]

    inner.predict = mixed
    for _ in range(40):
        await outcomes(predictor, "a", "b")
    assert len(inner.windows) == 5


async def test_long_curves_are_remembered_for_fewer_prompts(monkeypatch):
    monkeypatch.setattr("scheduler_service.prediction.guard._MOST_VALUES", 10)
    inner, _, predictor = guarded()  # curves of four values
    for prompt in ("a", "b", "c", "c", "b", "a"):
        await outcomes(predictor, prompt)
    assert inner.windows == [1] * 4


async def test_what_is_remembered_is_there_while_the_predictor_is_away():
    inner, _, predictor = guarded(breaker=CircuitBreaker(failures=1))
    await outcomes(predictor, "a")
    inner.outcome = UNAVAILABLE
    assert await outcomes(predictor, "b") == [UNAVAILABLE]
    assert await outcomes(predictor, "a", "b") == [FRESH, UNAVAILABLE]
    assert len(inner.windows) == 2
