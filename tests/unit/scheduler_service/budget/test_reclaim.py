"""What a deadline allows at the backend's pace, and where unspent tokens go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.shares import max_min_shares
from scheduler_service.budget.income import PerQuery, PerSecond, PerWindow
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.budget.reclaim import Reclaimer, Running
from scheduler_service.generation.pace import Pace


def test_the_pace_is_learned_and_leaves_time_for_the_answer():
    pace = Pace(memory=100)
    assert pace.budget_within(10, 8) is None
    pace.observe(0.1, 50)
    assert pace.seconds_per_token == 0.1
    assert pace.budget_within(12, 20) == 78  # (12 − 1.2·22·0.1) / (1.2·0.1)
    assert pace.budget_within(1, 20) == 0
    pace.observe(0.2, 100)
    assert pace.seconds_per_token == pytest.approx(0.15)
    pace.observe(0, 100)
    pace.observe(9, 1)
    assert pace.seconds_per_token == pytest.approx(0.15)


def running(name, curve, budget, grown, cap=64, reasons=lambda: True):
    return Running(
        name, Curve((16, 32, 48, 64), curve), budget, cap, lambda tokens: grown.__setitem__(name, tokens), reasons
    )


def test_what_is_left_goes_where_the_next_gain_is_best():
    grown = {}
    reclaimer = Reclaimer()
    reclaimer.start(running("flat", (0.5, 0.5, 0.5, 0.5), 16, grown))
    reclaimer.start(running("good", (0.1, 0.2, 0.8, 0.8), 32, grown))
    reclaimer.start(running("fair", (0.1, 0.3, 0.4, 0.5), 16, grown))
    assert reclaimer.offer(40, lambda *_: True) == 32
    assert grown == {"good": 48, "fair": 32}


def test_nothing_goes_to_a_request_that_answers_already_or_below_the_price():
    grown = {}
    reclaimer = Reclaimer()
    reclaimer.start(running("answers", (0.1, 0.9, 0.9, 0.9), 16, grown, reasons=lambda: False))
    reclaimer.start(running("cheap", (0.1, 0.11, 0.12, 0.13), 16, grown))
    assert reclaimer.offer(64, lambda *_: True, least_slope=0.01) == 0
    reclaimer.stop("cheap")
    assert reclaimer.offer(64, lambda *_: True) == 0
    assert grown == {}


def test_the_ledger_pays_for_what_is_reclaimed():
    ledger = BudgetLedger(32, bank_limit=100)
    ledger.reserve({"a": 32, "b": 32}, 2)
    assert not ledger.extend("b", 16)  # nothing in the bank yet
    assert ledger.settle("a", 12) == 20
    assert ledger.extend("b", 16)
    assert not ledger.extend("gone", 1)
    assert ledger.state().bank == 4
    assert ledger.settle("b", 48) == 0
    state = ledger.state()
    assert state.granted == state.used + state.returned == 80


def test_budgets_a_second_fill_with_time_and_stop_at_the_banks_limit():
    assert BudgetLedger(32, bank_limit=50, income=PerSecond(10), opening=80).available(1, 0.0) == 50
    ledger = BudgetLedger(32, bank_limit=50, income=PerSecond(10))
    assert ledger.available(1, 0.0) == 0
    ledger.reserve({"a": 0}, 0, now=0.0)
    assert ledger.available(5, 3.0) == 30
    ledger.reserve({"b": 20}, 1, now=3.0)
    assert ledger.available(1, 4.0) == 20
    ledger.reserve({"c": 0}, 1, now=3600.0)
    assert ledger.bank == 50
    assert (PerQuery(8).of(3, 9), PerWindow(8).of(3, 9)) == (24, 8)


def test_an_overdraft_is_used_and_paid_back():
    ledger = BudgetLedger(32, bank_limit=50, overdraft=64)
    ledger.reserve({"a": 96}, 1)
    assert ledger.bank == -64
    assert ledger.available(1) == 0
    with pytest.raises(ValueError, match="more than the"):
        ledger.reserve({"b": 33}, 1)
    ledger.reserve({"b": 0}, 1)
    assert ledger.bank == -32


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


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights"):
        max_min_shares(10, {"a": 5}, {"a": 0})
