"""What keeps failing is left alone, for ever longer."""

from predictive_scheduling.circuit_breaker import CircuitBreaker


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
