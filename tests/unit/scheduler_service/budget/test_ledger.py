"""The ledger: what it refuses, what it pays for, and how far it may owe."""

import pytest

from scheduler_service.budget.ledger import BudgetLedger


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


def test_an_overdraft_is_used_and_paid_back():
    ledger = BudgetLedger(32, bank_limit=50, overdraft=64)
    ledger.reserve({"a": 96}, 1)
    assert ledger.bank == -64
    assert ledger.available(1) == 0
    with pytest.raises(ValueError, match="more than the"):
        ledger.reserve({"b": 33}, 1)
    ledger.reserve({"b": 0}, 1)
    assert ledger.bank == -32


def test_a_budget_below_zero_is_refused():
    with pytest.raises(ValueError, match="negative"):
        BudgetLedger(10).reserve({"a": -1}, covered=0)


def test_an_id_cannot_be_reserved_twice():
    ledger = BudgetLedger(10)
    ledger.reserve({"a": 5}, covered=1)
    with pytest.raises(ValueError, match="already reserved"):
        ledger.reserve({"a": 5}, covered=1)
