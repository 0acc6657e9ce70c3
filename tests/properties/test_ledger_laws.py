"""Laws of the budget ledger under any order of reservations and settlements."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from scheduler_service.ledger import BudgetLedger


class LedgerMachine(RuleBasedStateMachine):
    """Reserves windows and settles requests at random; every account must balance after every step."""

    running = Bundle("running")

    @initialize(mean=st.integers(1, 100), limit=st.integers(0, 500))
    def start(self, mean, limit):
        self.ledger = BudgetLedger(mean, limit)
        self.windows = 0
        self.paid_in = 0

    @rule(target=running, sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6))
    def reserve(self, sizes):
        self.windows += 1
        budgets = {f"{self.windows}-{at}": size for at, size in enumerate(sizes)}
        before = self.ledger.state()
        if sum(sizes) > self.ledger.available(len(sizes)):
            with pytest.raises(ValueError, match="more than the"):
                self.ledger.reserve(budgets, covered=0)
            assert self.ledger.state() == before
            return ()
        self.paid_in += len(sizes) * self.ledger.tokens_per_query
        self.ledger.reserve(budgets, covered=len(sizes))
        return tuple(budgets.items())

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
        assert 0 <= state.bank <= self.ledger.bank_limit

    @invariant()
    def never_promises_more_than_was_paid_in(self):
        # Used beyond its reservation (never by our own budget forcing) aside, what is out and in the bank was paid in.
        state = self.ledger.state()
        assert state.reserved + state.bank <= self.paid_in


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
