"""A predictor that fails is left alone, and what it said is remembered."""

from scheduler_service.domain import HiddenState, Job, PredictionOutcome
from scheduler_service.prediction.circuit_breaker import CircuitBreaker
from scheduler_service.prediction.guard import GuardedPredictor
from tests.standins.predictor import FakePredictor

FRESH, TIMEOUT, UNAVAILABLE = PredictionOutcome.FRESH, PredictionOutcome.TIMEOUT, PredictionOutcome.UNAVAILABLE


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
    assert [prediction.curve[0] for prediction in again] == [0.02, 0.03, 0.01]
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


async def test_one_that_keeps_failing_is_left_alone_and_then_tried_by_one_call():
    inner, clock, predictor = guarded(TIMEOUT, breaker=CircuitBreaker(failures=3, rest_seconds=1.0))
    for _ in range(10):
        await outcomes(predictor, "a")
    assert len(inner.windows) == 3
    assert await outcomes(predictor, "a") == [UNAVAILABLE]
    clock.now = 1.1
    assert await outcomes(predictor, "a") == [TIMEOUT]  # the one that tries
    assert await outcomes(predictor, "a") == [UNAVAILABLE]
    inner.outcome = FRESH
    clock.now = 1.1 + 1.5
    assert await outcomes(predictor, "a") == [UNAVAILABLE]  # the rest has doubled
    clock.now = 1.1 + 2.1
    assert await outcomes(predictor, "a") == [FRESH]
    assert await outcomes(predictor, "b") == [FRESH]


async def test_what_is_remembered_is_there_while_the_predictor_is_away():
    inner, _, predictor = guarded(breaker=CircuitBreaker(failures=1))
    await outcomes(predictor, "a")
    inner.outcome = UNAVAILABLE
    assert await outcomes(predictor, "b") == [UNAVAILABLE]
    assert await outcomes(predictor, "a", "b") == [FRESH, UNAVAILABLE]
    assert len(inner.windows) == 2


def test_many_that_fail_at_once_make_one_rest_and_each_failed_try_doubles_it():
    breaker = CircuitBreaker(failures=5, rest_seconds=1.0, longest_rest_seconds=3.0)
    for _ in range(50):  # calls that were all under way
        breaker.failed(10.0)
    assert breaker.resting(10.9)
    for now, rest in ((11.1, 2.0), (13.2, 3.0), (16.3, 3.0)):
        assert breaker.allows(now)
        assert not breaker.allows(now)  # one tries, the others wait
        breaker.failed(now)
        assert breaker.resting(now + rest - 0.05)
        assert not breaker.resting(now + rest + 0.05)
    assert breaker.allows(20.0)
    breaker.answered()
    assert breaker.allows(20.0)
    assert breaker.allows(20.0)
