"""Laws of fair shares."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.shares import max_min_shares


@given(
    total=st.integers(0, 500),
    demands=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 300), min_size=1),
    weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 10)),
)
def test_shares_are_weighted_max_min_fair(total, demands, weights):
    shares = max_min_shares(total, demands, weights)
    assert sum(shares.values()) == min(total, sum(demands.values()))
    assert all(0 <= shares[name] <= demand for name, demand in demands.items())
    weight = sum(weights.get(name, 1.0) for name in demands)
    for name, demand in demands.items():  # the guarantee, but for rounding
        assert shares[name] >= min(demand, int(total * weights.get(name, 1.0) / weight)) - len(demands)
    for poor in demands:  # nobody who wants more has less per weight than somebody else, but for rounding
        for rich in demands:
            if shares[poor] < demands[poor]:
                levels = (shares[rich] - len(demands)) / weights.get(rich, 1.0), shares[poor] / weights.get(poor, 1.0)
                assert levels[0] <= levels[1] + len(demands) / min(weights.get(poor, 1.0), weights.get(rich, 1.0))
