"""The price over long streams, against one plan over all requests."""

import numpy as np

from scheduler_service.allocation import POLICIES, Curve, Problem
from scheduler_service.allocation.price import DualPrice, Price


def test_the_price_nears_the_gain_of_one_allocation_over_all_queries():
    rng = np.random.default_rng(0)
    reached = rng.integers(1, 17, size=2000)
    height = rng.random(2000)
    steps = np.arange(1, 17)
    curves = np.clip(height[:, None] * (1 - np.exp(-2 * steps / reached[:, None])), 0, 1)
    for mean in (32, 64, 128):
        problem = Problem(16 * steps, curves, np.full(2000, 16), np.full(2000, 256), mean * 2000)
        plans = {name: POLICIES[name].allocate(problem) for name in ("uniform", "envelope")}
        expected = {name: problem.accuracy_at(plan).mean() for name, plan in plans.items()}
        budgets = Price().allocate(problem)
        price = problem.accuracy_at(budgets).mean()
        gain = expected["envelope"] - expected["uniform"]
        assert price - expected["uniform"] > 0.97 * gain
        assert budgets.mean() > 0.99 * mean


def test_long_and_short_budgets_share_a_price_without_starving_each_other():
    """Half of the requests need 16 tokens, half 16,384: as accurate, over a long stream, as one plan over all."""
    rng = np.random.default_rng(0)
    count = 2000
    scale = np.where(rng.random(count) < 0.5, 1, 1024)
    points = np.array([0, 4, 16, 64, 256, 1024, 4096, 16384])
    needed = 16 * scale * rng.uniform(0.5, 1.5, count)
    accuracy = 0.9 / (1 + np.exp(-3 * np.log2((points[None, :] + 1) / needed[:, None])))
    total = 6000.0 * count
    problem = Problem(points, accuracy, np.zeros(count, np.int64), np.full(count, 16384), total)
    best = problem.accuracy_at(POLICIES["envelope"].allocate(problem)).mean()
    pricing, balance, reached = DualPrice(), 0.0, np.zeros(count)
    for at, row in enumerate(accuracy.tolist()):
        curve = Curve(tuple(points.tolist()), tuple(row))
        budget = pricing.decide(curve, 0, 16384, 6000.0, balance, max(0.0, balance + 6000.0 + 60_000.0))
        balance += 6000.0 - budget
        assert balance >= -60_000.0 - 1e-6
        reached[at] = curve.accuracy_at(budget)
    assert reached[200:].mean() > best - 0.02
    assert reached[scale == 1][100:].mean() > 0.8


def test_a_gain_too_small_for_a_slope_is_priced_like_any_other():
    pricing = DualPrice()
    assert pricing.decide(Curve((2,), (5e-324,)), 0, 2, 16, 0.0, 16.0) in (0, 2)  # 5e-324 / 2 is 0
    assert pricing.decide(Curve((2,), (0.5,)), 0, 2, 16, 0.0, 16.0) == 2


def test_requests_that_weigh_more_buy_more_and_the_total_stays():
    """Alike but for their weights: those that weigh 4 get what the price of weighted accuracy gives them."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 17)
    curves = 1 - np.exp(-2 * steps / rng.integers(1, 17, size=2000)[:, None])
    weights = np.where(np.arange(2000) % 2, 4.0, 0.25)
    plain = Problem(16 * steps, curves, np.full(2000, 16), np.full(2000, 256), 64 * 2000)
    weighted = Problem(16 * steps, curves, np.full(2000, 16), np.full(2000, 256), 64 * 2000, weights=weights)
    equal, budgets = Price().allocate(plain), Price().allocate(weighted)
    assert budgets[weights > 1].mean() > 1.2 * equal[weights > 1].mean()
    assert budgets[weights < 1].mean() < 0.8 * equal[weights < 1].mean()
    assert 0.99 * 64 < budgets.mean() <= 64
    best = POLICIES["envelope"].allocate(weighted)
    gain = weighted.worth(best) - weighted.worth(equal)
    assert weighted.worth(budgets) - weighted.worth(equal) > 0.9 * gain > 0


def test_the_next_request_is_priced_at_the_new_grant_when_grants_change():
    """What was asked is remembered over hundreds of requests; what was granted is not."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.random((900, 4)), axis=1).tolist()

    def spent(pricing, rows, grant):
        used = [pricing.decide(Curve((16, 64, 128, 256), tuple(row)), 16, 256, grant, 0.0, 1e9) for row in rows]
        return sum(used) / len(used)

    told, untold, new = DualPrice(), DualPrice(), DualPrice()
    for pricing in (told, untold):
        spent(pricing, rows[:300], 128.0)
    told.grant_changes(48.0 - 128.0)
    spent(new, rows[:300], 48.0)
    wanted = spent(new, rows[300:360], 48.0)
    assert abs(spent(told, rows[300:360], 48.0) - wanted) < 6
    assert spent(untold, rows[300:360], 48.0) > wanted + 20
    told.grant_changes(128.0 - 48.0)
    assert spent(told, rows[400:460], 128.0) > 110
