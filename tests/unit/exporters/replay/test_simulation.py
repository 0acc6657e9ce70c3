"""The simulator replays the scheduler's own decisions: budgets hold under any traffic, faults cost coverage only."""

import numpy as np
import pytest

from exporters.measure.curves import window_points
from exporters.replay.evaluate import Predicted
from exporters.replay.simulation import Scenario, Traffic, bursts, poisson
from exporters.replay.simulation import simulate as replay
from tests.builders.simulating import COUNT, known, simulate, three_sorts, traffic


@pytest.fixture(scope="module")
def curves():
    return three_sorts()


def test_the_price_gains_what_large_windows_gain_and_nobody_waits(curves):
    price = simulate(curves, curves, traffic(curves), Scenario())
    full = {"policy": "envelope", "window_seconds": 1e9, "adaptive": False}
    window, small = (simulate(curves, curves, traffic(curves), Scenario(**full, window_size=size)) for size in (500, 2))
    assert price.gain > 0.95 * window.gain > small.gain > 0
    assert price.mean_wait == 0
    assert price.mean_window == 1
    assert price.spend == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("order", ["shuffled", "easy-first", "hard-first"])
def test_the_budget_holds_when_the_questions_change(curves, order):
    result = simulate(curves, curves, traffic(curves, order=order), Scenario())
    assert 64 * 0.95 <= result.tokens_per_query <= 64 * 1.05
    assert result.gain >= -1e-9


@pytest.mark.parametrize("shape", ["doubled", "idle", "bursts"])
def test_a_rate_of_tokens_holds_when_the_traffic_changes(curves, shape):
    rng = np.random.default_rng(2)
    first = poisson(COUNT // 2, 50, rng)
    if shape == "bursts":
        times = bursts(COUNT, 50, rng)
    else:
        pause, rate = (0.0, 100) if shape == "doubled" else (3600.0, 50)
        times = np.concatenate([first, first[-1] + pause + poisson(COUNT // 2, rate, rng)])
    scenario = Scenario(tokens_per_second=3200.0)
    result = simulate(curves, curves, traffic(curves, times), scenario)
    busy = times[-1] - (3600.0 if shape == "idle" else 0.0)
    # The idle hour pays a debt, fills the bank, and gives the first request its cap; then there is the burst.
    most = 3200 * busy + (scenario.bank_requests + 2 * scenario.burst_requests) * 64 + 256
    assert result.tokens_per_query * COUNT <= most
    assert result.tokens_per_query * COUNT >= 0.9 * 3200 * busy
    assert result.gain > 0


@pytest.mark.parametrize("policy", ["price", "envelope"])
def test_what_the_predictor_abstains_on_gets_the_uniform_budget(curves, policy):
    half = np.arange(len(curves)) % 2 == 0
    trusted, partly, never = (
        replay(Predicted(curves, stands=stands), known(curves), traffic(curves), Scenario(policy))
        for stands in (None, half, np.zeros(len(curves), dtype=bool))
    )
    assert partly.coverage == pytest.approx(0.5, abs=0.05)
    assert never.coverage == 0
    assert trusted.gain > partly.gain > never.gain == pytest.approx(0, abs=0.001)


def test_faults_cost_gain_and_coverage_never_the_budget(curves):
    whole, broken, dark = (
        simulate(curves, curves, traffic(curves), Scenario(faults=share)) for share in (0.0, 0.5, 1.0)
    )
    assert whole.gain > broken.gain > dark.gain
    assert broken.coverage == pytest.approx(0.5, abs=0.05)
    assert dark.gain == pytest.approx(0, abs=1e-9)
    assert dark.tokens_per_query == pytest.approx(64)
    windows = simulate(curves, curves, traffic(curves), Scenario("envelope", faults=1.0))
    assert windows.gain == pytest.approx(0, abs=0.01)


def test_replicas_share_traffic_and_budget(curves):
    one, four = (simulate(curves, curves, traffic(curves), Scenario(replicas=count)) for count in (1, 4))
    assert four.tokens_per_query == pytest.approx(64, rel=0.02)
    assert four.gain > 0.9 * one.gain


def test_tokens_that_end_early_come_back(curves):
    ends = np.minimum(24.0, np.tile(window_points(16), (len(curves), 1)))
    short, whole = (simulate(curves, curves, traffic(curves), Scenario(), (None, used)) for used in (ends, None))
    assert short.tokens_per_query > whole.tokens_per_query  # what came back was given again


def test_where_use_is_predicted_the_whole_grant_is_used(curves):
    """Half of the questions end their reasoning early: counted whole, their budgets leave tokens idle."""
    rng = np.random.default_rng(5)
    lengths = np.where(rng.random(len(curves)) < 0.5, 40.0, 400.0)[:, None]
    used = np.minimum(lengths, window_points(16)[None, :])
    scenario = Scenario(tokens_per_query=48)
    blind, seeing = (simulate(curves, curves, traffic(curves), scenario, (given, used)) for given in (None, used))
    assert seeing.spend == pytest.approx(1.0, abs=0.02)
    assert seeing.used_tokens_per_query == pytest.approx(48, rel=0.02)
    assert seeing.accuracy > blind.accuracy


def test_lengths_that_were_not_expected_stay_within_the_account(curves):
    """Every request uses its whole budget, though a tenth was expected: the overdraft ends what the price would buy."""
    whole = np.tile(window_points(16).astype(float), (len(curves), 1))
    scenario = Scenario(seconds_per_token=0.0001)
    result = simulate(curves, curves, traffic(curves), scenario, (whole / 10, whole))
    assert result.used_tokens_per_query * COUNT <= 64 * COUNT + 64 * scenario.burst_requests + 40 * 256


def test_arrivals_have_the_rate_that_was_asked_for():
    rng = np.random.default_rng(0)
    assert poisson(20_000, 10, rng)[-1] == pytest.approx(2000, rel=0.05)
    assert bursts(20_000, 10, rng)[-1] == pytest.approx(2000, rel=0.25)
    with pytest.raises(ValueError, match="rising"):
        Traffic(np.array([2.0, 1.0]), np.array([0, 0]))
