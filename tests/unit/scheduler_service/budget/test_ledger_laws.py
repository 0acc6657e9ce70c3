"""Laws of the budget ledger under any order of reservations and settlements."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from scheduler_service.allocation import POLICIES, Curve
from scheduler_service.allocation.price import DualPrice
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.planning.plan import Rules, plan_window
from scheduler_service.planning.pricing import Pricing


class LedgerMachine(RuleBasedStateMachine):
    """Reserves windows and settles requests at random; every account must balance after every step."""

    running = Bundle("running")

    @initialize(
        mean=st.integers(1, 100), limit=st.integers(0, 500), overdraft=st.integers(0, 300), opening=st.integers(0, 600)
    )
    def start(self, mean, limit, overdraft, opening):
        self.ledger = BudgetLedger(mean, limit, overdraft, opening=opening)
        self.windows = self.beyond = 0
        self.paid_in = min(opening, limit)

    @rule(target=running, sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6))
    def reserve(self, sizes):
        self.windows += 1
        budgets = {f"{self.windows}-{at}": size for at, size in enumerate(sizes)}
        before = self.ledger.state()
        grant, bank = self.ledger.grant(len(sizes)), self.ledger.bank
        if sum(sizes) > max(0, grant, grant + bank + self.ledger.overdraft):
            with pytest.raises(ValueError, match="more than the"):
                self.ledger.reserve(budgets, covered=0)
            assert self.ledger.state() == before
            return ()
        self.paid_in += len(sizes) * self.ledger.tokens_per_query
        self.ledger.reserve(budgets, covered=len(sizes))
        assert self.ledger.bank >= min(bank, -self.ledger.overdraft)  # what is reserved never adds to a debt beyond it
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
            used, before = data.draw(st.integers(0, 2 * reserved + 5)), self.ledger.bank
            assert self.ledger.settle(request, used) == max(0, reserved - used)
            assert self.ledger.bank == min(self.ledger.bank_limit, before + reserved - used)
            self.beyond += max(0, used - reserved)
            with pytest.raises(KeyError):
                self.ledger.settle(request, 0)

    @invariant()
    def balances(self):
        state = self.ledger.state()
        assert state.granted == state.reserved + state.used + state.returned
        assert -self.ledger.overdraft - self.beyond <= self.ledger.bank <= self.ledger.bank_limit

    @invariant()
    def never_promises_more_than_was_paid_in(self):
        # What is out and in the bank was paid in; what is used beyond an expectation only takes from the bank.
        state = self.ledger.state()
        assert state.reserved + self.ledger.bank <= self.paid_in


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30)

REQUESTS = st.lists(
    st.tuples(
        st.lists(st.floats(0, 1), min_size=4, max_size=4),  # accuracy at 256, 1,024, 4,096 and 16,384 tokens
        st.integers(0, 20_000),  # the length that the predictor expects
        st.integers(0, 100_000),  # the length that it has
        st.booleans(),  # whether its prediction came
    ),
    max_size=80,
)


# Each is expected to use no more than its floor, if that, and uses all that it is given.
UNDERESTIMATED = [([0.1, 0.2, 0.3, 0.9], 0, 100_000, True)] * 20


@example(requests=UNDERESTIMATED, in_flight=1, burst=0, floor=0)
@example(requests=UNDERESTIMATED, in_flight=3, burst=2, floor=2000)
@given(requests=REQUESTS, in_flight=st.integers(1, 12), burst=st.integers(0, 4), floor=st.sampled_from([0, 16, 2000]))
def test_what_requests_use_together_is_bounded_whatever_their_lengths(requests, in_flight, burst, floor):
    """N requests use at most N grants, the overdraft, and the budgets of those in flight; each has its floor."""
    mean, cap, points = 2000, 16_384, (256, 1024, 4096, 16_384)
    ledger = BudgetLedger(mean, bank_limit=4 * mean, overdraft=burst * mean)
    pricing, running, used = Pricing(mean, 32, DualPrice()), [], 0
    for at, (accuracy, expected, length, fresh) in enumerate(requests):
        curve = Curve(points, tuple(accuracy), tuple(float(min(expected, point)) for point in points))
        prediction = (
            Prediction(PredictionOutcome.FRESH, curve, "p@1") if fresh else Prediction(PredictionOutcome.TIMEOUT)
        )
        allocation = pricing.decide(
            Job(str(at), "prompt", "", floor, cap), prediction,
            grant=ledger.grant(1), balance=ledger.bank, overdraft=ledger.overdraft,
        )  # fmt: skip
        assert floor <= allocation.budget_tokens <= cap
        ledger.reserve({allocation.request_id: allocation.expected_tokens}, int(fresh))
        running.append((allocation.request_id, min(length, allocation.budget_tokens)))
        if len(running) == in_flight:
            name, spent = running.pop(0)
            ledger.settle(name, spent)
            used += spent
    for name, spent in running:
        ledger.settle(name, spent)
        used += spent
    assert used <= len(requests) * mean + ledger.overdraft + in_flight * cap
    assert ledger.state().used == used


@example(requests=UNDERESTIMATED, size=1, floor=0)
@example(requests=UNDERESTIMATED, size=4, floor=2000)
@given(requests=REQUESTS, size=st.integers(1, 8), floor=st.sampled_from([0, 16, 2000]))
def test_windows_are_bounded_alike(requests, size, floor):
    """A window that is in debt gives its floors from its own grant, and nothing else."""
    mean, cap, points = 2000, 16_384, (256, 1024, 4096, 16_384)
    ledger, used, rules = BudgetLedger(mean, bank_limit=4 * mean), 0, Rules(POLICIES["envelope"], 32)
    for start in range(0, len(requests), size):
        window = requests[start : start + size]
        jobs = [Job(f"{start}-{at}", "prompt", "", floor, cap) for at in range(len(window))]
        predictions = [
            Prediction(
                PredictionOutcome.FRESH,
                Curve(points, tuple(accuracy), tuple(float(min(expected, point)) for point in points)),
                "p@1",
            )
            if fresh
            else Prediction(PredictionOutcome.TIMEOUT)
            for accuracy, expected, _, fresh in window
        ]
        total, grant = ledger.available(len(jobs)), ledger.grant(len(jobs))
        plan = plan_window(jobs, predictions, total, rules, grant)
        ledger.reserve({one.request_id: one.expected_tokens for one in plan.allocations}, 0)
        for allocation, (_, _, length, _) in zip(plan.allocations, window, strict=True):
            assert floor <= allocation.budget_tokens <= cap
            spent = min(length, allocation.budget_tokens)
            ledger.settle(allocation.request_id, spent)
            used += spent
    assert used <= len(requests) * mean + size * cap
