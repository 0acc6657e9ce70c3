"""Rates of tenants."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.admission.rates import Rate

gaps = st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=200)


@given(gaps, st.floats(0.5, 20), st.floats(0.1, 5))
def test_no_tenant_gets_more_than_its_burst_and_its_rate(gaps, per_second, burst_seconds):
    rate, now, admitted = Rate(per_second, burst_seconds), 0.0, 0
    for gap in gaps:
        now += gap
        if not rate.wait_seconds("t", 1, now):
            rate.charge("t", 1, now)
            admitted += 1
    assert admitted <= max(1.0, per_second * burst_seconds) + per_second * now + 1


@given(gaps, st.floats(0.5, 20))
def test_whoever_waits_as_long_as_told_is_admitted(gaps, per_second):
    rate, now = Rate(per_second, 1.0), 0.0
    for gap in gaps:
        now += gap
        now += rate.wait_seconds("t", 1, now) * (1 + 1e-9)
        assert not rate.wait_seconds("t", 1, now + 1e-6)
        rate.charge("t", 1, now)


def test_tenants_that_come_once_are_forgotten():
    rate = Rate(1, 1)
    for at in range(100_100):
        rate.charge(f"t{at}", 1, float(at))
    assert len(rate) == 100_000
