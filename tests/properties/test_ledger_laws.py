"""Laws of the budget ledger under any order of reservations and settlements."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from scheduler_service.budget.ledger import BudgetLedger


class LedgerMachine(RuleBasedStateMachine):
    """Reserves windows and settles requests at random; every account must balance after every step."""

    running = Bundle("running")

    @initialize(
        mean=st.integers(1, 100), limit=st.integers(0, 500), overdraft=st.integers(0, 300), opening=st.integers(0, 600)
    )
    def start(self, mean, limit, overdraft, opening):
        self.ledger = BudgetLedger(mean, limit, overdraft, opening=opening)
        self.windows = 0
        self.paid_in = min(opening, limit)

    @rule(target=running, sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6))
    def reserve(self, sizes):
        self.windows += 1
        budgets = {f"{self.windows}-{at}": size for at, size in enumerate(sizes)}
        before = self.ledger.state()
        if sum(sizes) > max(0, self.ledger.grant(len(sizes)) + self.ledger.bank + self.ledger.overdraft):
            with pytest.raises(ValueError, match="more than the"):
                self.ledger.reserve(budgets, covered=0)
            assert self.ledger.state() == before
            return ()
        self.paid_in += len(sizes) * self.ledger.tokens_per_query
        self.ledger.reserve(budgets, covered=len(sizes))
        return tuple(budgets.items())

    @rule(target=running, window=consumes(running), tokens=st.integers(0, 100))
    def extend(self, window, tokens):
        before = self.ledger.bank
        if not window:
            return window
        (request, reserved), *others = window
        paid = self.ledger.extend(request, tokens)
        assert paid == (tokens <= before)
        assert self.ledger.bank == before - (tokens if paid else 0)
        return ((request, reserved + (tokens if paid else 0)), *others)

    @rule(window=consumes(running), data=st.data())
    def settle(self, window, data):
        for request, reserved in window:
            used = data.draw(st.integers(0, reserved + 5))
            assert self.ledger.settle(request, used) == max(0, reserved - used)
            with pytest.raises(KeyError):
                self.ledger.settle(request, 0)

    @invariant()
    def balances(self):
        state = self.ledger.state()
        assert state.granted == state.reserved + state.used + state.returned
        assert -self.ledger.overdraft <= self.ledger.bank <= self.ledger.bank_limit

    @invariant()
    def never_promises_more_than_was_paid_in(self):
        # Used beyond its reservation (never by our own budget forcing) aside, what is out and in the bank was paid in.
        state = self.ledger.state()
        assert state.reserved + self.ledger.bank <= self.paid_in


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_budget_below_zero_is_refused():
    with pytest.raises(ValueError, match="negative"):
        BudgetLedger(10).reserve({"a": -1}, covered=0)


def test_an_id_cannot_be_reserved_twice():
    ledger = BudgetLedger(10)
    ledger.reserve({"a": 5}, covered=1)
    with pytest.raises(ValueError, match="already reserved"):
        ledger.reserve({"a": 5}, covered=1)
