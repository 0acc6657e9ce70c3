"""Laws of ejection: never are all left out, nobody for ever, and what keeps failing gets few calls."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.generation.backends.ejection import Ejection, EjectionRules

HISTORY = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("fse"), st.floats(0, 50)), max_size=80)
RULES = st.builds(
    EjectionRules,
    failures=st.integers(1, 5),
    base_seconds=st.floats(0.1, 30),
    longest_seconds=st.floats(0.1, 300),
    most_percent=st.integers(0, 100),
)


@given(st.integers(1, 5), RULES, HISTORY)
def test_one_is_always_left_and_no_more_are_ejected_than_allowed(count, rules, history):
    ejection, now = Ejection(count, rules), 0.0
    for at, what, seconds in history:
        now += seconds
        at %= count
        match what:
            case "f":
                ejection.failed(at, now)
            case "s":
                ejection.succeeded(at, now)
            case "e":
                ejection.eject(at, now)
        ejected = sum(ejection.ejected(one, now) for one in range(count))
        assert ejected < count
        assert ejected <= max(1, count * rules.most_percent // 100)
    longest = max(rules.longest_seconds, rules.base_seconds)
    assert not any(ejection.ejected(at, now + longest) for at in range(count))


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 8))
def test_each_ejection_is_longer_by_the_base_time(count, failures, times):
    ejection, now = Ejection(count, EjectionRules(failures, 5.0, 1000.0)), 0.0
    for _ in range(failures - 1):
        assert not ejection.failed(0, now)
    for ordinal in range(1, times + 1):
        assert ejection.failed(0, now)
        assert ejection.ejected(0, now + 5.0 * ordinal - 0.1)
        now += 5.0 * ordinal
        assert ejection.on_trial(0, now)


@given(st.integers(2, 5), st.integers(0, 10))
def test_calls_under_way_that_fail_after_an_ejection_do_not_lengthen_it(count, late):
    ejection = Ejection(count, EjectionRules(3, 5.0))
    for _ in range(3 + late):
        ejection.failed(0, 1.0)
    assert not ejection.ejected(0, 6.0)


@given(st.integers(2, 5), st.integers(1, 20))
def test_a_success_ends_the_trial_and_time_without_failures_ends_the_record(count, ejections):
    ejection, now = Ejection(count, EjectionRules(1, 5.0, 1000.0)), 0.0
    for ordinal in range(1, ejections + 1):
        ejection.failed(0, now)
        now += 5.0 * ordinal
    ejection.succeeded(0, now)
    assert not ejection.on_trial(0, now)
    for _ in range(ejections):
        now += 5.0
        ejection.succeeded(0, now)
    ejection.failed(0, now)
    assert not ejection.ejected(0, now + 5.0)


@given(st.lists(st.booleans(), max_size=50))
def test_an_endpoint_that_is_alone_is_never_left_out(outcomes):
    ejection = Ejection(1)
    for failed in outcomes:
        (ejection.failed if failed else ejection.succeeded)(0, 0.0)
        assert not ejection.ejected(0, 0.0)
