"""How a budget fills: with requests, with windows, or with time."""

from scheduler_service.budget.income import Controlled, PerQuery, PerSecond, PerWindow
from scheduler_service.budget.ledger import BudgetLedger


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


def test_a_controlled_income_is_what_it_was_last_set_to():
    income = Controlled(40.0)
    ledger = BudgetLedger(40, bank_limit=1000, income=income)
    assert ledger.grant(2) == 80
    income.tokens = 10.0
    assert ledger.grant(2) == 20
    ledger.reserve({"a": 5}, 1)
    assert ledger.bank == 5
