"""Requests decided one by one: by the price, within the account, and by uniform where nothing is known."""

from dataclasses import replace

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.price import DualPrice
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.planning.pricing import Pricing

POINTS = (16, 32, 48, 64)
EASY = Prediction(PredictionOutcome.FRESH, Curve(POINTS, (0.9, 0.9, 0.9, 0.9)), "p@1")
SLOW = Prediction(PredictionOutcome.FRESH, Curve(POINTS, (0.0, 0.0, 0.0, 0.9)), "p@1")
NONE = Prediction(PredictionOutcome.TIMEOUT)


def job(floor=16, cap=64, name="a"):
    return Job(name, "prompt", "", floor, cap)


def pricing():
    return Pricing(40, 8, DualPrice())


def test_a_stream_of_mixed_requests_is_split_where_it_helps():
    one, balance, given = pricing(), 0.0, {EASY: [], SLOW: []}
    for at in range(200):
        prediction = (EASY, SLOW)[at % 2]
        allocation = one.decide(job(), prediction, grant=40, balance=balance, overdraft=160)
        balance += 40 - allocation.expected_tokens
        given[prediction].append(allocation.budget_tokens)
        assert balance >= -160
    assert set(given[EASY][20:]) == {16}
    assert sum(budget == 64 for budget in given[SLOW][20:]) > 0.9 * 80
    assert balance <= 160


def test_without_a_prediction_a_request_gets_the_uniform_budget():
    allocation = pricing().decide(job(), NONE, grant=40, balance=0, overdraft=0)
    assert (allocation.budget_tokens, allocation.policy, allocation.price) == (40, "uniform", 0.0)


def test_an_empty_account_pays_the_floor_from_the_requests_own_grant_and_nothing_else():
    allocation = pricing().decide(job(), SLOW, grant=40, balance=-35, overdraft=0)
    assert allocation.budget_tokens == allocation.floor_tokens == 16
    assert pricing().decide(job(), NONE, grant=40, balance=-100, overdraft=0).budget_tokens == 16


def test_without_a_grant_even_the_floor_gives_way():
    """A budget a second grants nothing to a second request of the same moment."""
    allocation = pricing().decide(job(), SLOW, grant=0, balance=5, overdraft=0)
    assert allocation.budget_tokens == allocation.floor_tokens == 5


def test_a_long_budget_that_will_not_be_used_is_cheap():
    """Of two requests alike in accuracy, the one that ends by itself after 20 tokens gets the larger budget."""
    curve = SLOW.curve
    ends = Prediction(PredictionOutcome.FRESH, Curve(POINTS, curve.accuracy, (16.0, 20.0, 20.0, 20.0)), "p@1")
    one = pricing()
    for _ in range(20):
        one.decide(job(), ends, grant=40, balance=0, overdraft=0)
    allocation = one.decide(job(), ends, grant=20, balance=0, overdraft=0)
    assert (allocation.budget_tokens, allocation.expected_tokens) == (64, 20)
    assert pricing().decide(job(), SLOW, grant=20, balance=0, overdraft=0).budget_tokens == 16


def test_a_price_that_is_expected_to_lose_is_not_followed():
    one = pricing()
    one.expected_gain, one.decisions = -0.5, 100
    allocation = one.decide(job(), SLOW, grant=40, balance=0, overdraft=160)
    assert (allocation.budget_tokens, allocation.policy) == (40, "uniform")
    assert allocation.expected_accuracy == allocation.baseline_expected_accuracy


def test_a_request_buys_what_is_worth_the_price_at_its_weight():
    """The same curve at the same price: a weight of 1/4 makes it too dear, one of 4 pays four times as much."""
    given = {}
    for weight in (0.25, 1.0, 4.0):
        one = pricing()
        for _ in range(100):  # at this price 0.9 for 48 tokens are just not bought, or just so
            one.decide(job(), SLOW, grant=40, balance=0, overdraft=160)
        asked = replace(job(), weight=weight)
        given[weight] = one.decide(asked, SLOW, grant=40, balance=0, overdraft=160).budget_tokens
    assert given[0.25] == 16
    assert given[4.0] == 64


def test_the_guard_counts_gains_by_their_weight():
    for weight in (0.25, 1.0, 4.0):
        one = pricing()
        made = one.decide(replace(job(), weight=weight), SLOW, grant=64, balance=0, overdraft=0)
        assert (made.expected_accuracy, made.baseline_expected_accuracy) == (0.9, 0.0)
        assert one.expected_gain == weight * 0.9


def test_a_mean_that_is_followed_is_what_uniform_gives_and_what_the_price_spends():
    one = pricing()
    for at in range(100):
        one.decide(job(), (EASY, SLOW)[at % 2], grant=40, balance=0, overdraft=160)
    assert one.quoted > 0
    one.follow(20.0)
    allocation = one.decide(job(), NONE, grant=20, balance=0, overdraft=0)
    assert (allocation.budget_tokens, one.mean_tokens) == (20, 20.0)
    dear = one.decide(job(), SLOW, grant=20, balance=0, overdraft=160).price
    one.follow(64.0)
    assert one.decide(job(), SLOW, grant=64, balance=0, overdraft=160).price < dear or dear == 0


def test_what_a_token_costs_is_compared_with_a_larger_mean():
    """Half of the requests gain 0.9 by 48 tokens beyond their floor, half of them 0.09 by as many."""
    flat = Prediction(PredictionOutcome.FRESH, Curve(POINTS, (0.0, 0.0, 0.0, 0.09)), "p@1")
    one = Pricing(60, 8, DualPrice())
    assert one.times_the_price_at(60) is None
    for at in range(100):
        one.decide(job(), (SLOW, flat)[at % 2], grant=60, balance=0, overdraft=160)
    assert one.times_the_price_at(60) == 1.0
    one.follow(30.0)
    assert 9.5 < one.times_the_price_at(60) < 10.5
    assert one.times_the_price_at(70) is None  # more than anybody asked for: there, tokens are for nothing
    one.follow(16.0)
    assert one.times_the_price_at(60) is None  # nothing to be had beyond the floors
