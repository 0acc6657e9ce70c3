"""The simulator replays the scheduler's own decisions: budgets hold under any traffic, faults cost coverage only."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.measure.curves import Curves, window_points, write_curves
from exporters.replay.evaluate import Predicted
from exporters.replay.simulation import Scenario, Traffic, ask, bursts, poisson
from exporters.replay.simulation import simulate as replay
from exporters.replay.simulation_report import write_report
from predictive_scheduling_cli.main import app

COUNT = 3000


@pytest.fixture(scope="module")
def curves():
    """Questions of three sorts: answered at once, after long reasoning, never."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 17)[None, :]
    needed = np.concatenate([rng.uniform(0, 2, 70), rng.uniform(3, 14, 90), np.full(40, 40.0)])[:, None]
    return 0.9 / (1 + np.exp(-(steps - needed) * 1.5)) + 0.05 * steps / 16  # more never hurts


def known(curves, used=None):
    names = [str(n) for n in range(len(curves))]
    return Curves.measured(names, names, window_points(curves.shape[1]), curves, used)


def simulate(predicted, measured, given, scenario, used=(None, None)):
    """Replay arrays of curves at 16, 32, … tokens; ``used``: predicted and measured use."""
    return replay(Predicted(predicted, used[0]), known(measured, used[1]), given, scenario)


def traffic(curves, times=None, order="shuffled", seed=1):
    rng = np.random.default_rng(seed)
    times = poisson(COUNT, 50, rng) if times is None else times
    return Traffic(times, ask(curves, len(times), order, rng))


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


def test_the_command_reads_a_trace_of_times_and_writes_figures_and_a_page(curves, tmp_path):
    names = [str(n) for n in range(len(curves))]
    write_curves(
        tmp_path / "c.parquet", {"question_id": names, "question": names, "accuracy_at_window": curves.tolist()}
    )
    np.savetxt(tmp_path / "times.txt", poisson(500, 20, np.random.default_rng(0)))
    options = ["simulate", "--curves", str(tmp_path / "c.parquet"), "--arrivals", str(tmp_path / "times.txt")]
    done = CliRunner().invoke(app, [*options, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out.json").read_text())["requests"] == 500
    assert "points" in done.output
    bad = CliRunner().invoke(app, [*options[:3], "--arrivals", "nowhere"])
    assert bad.exit_code == 1
    assert "--arrivals" in bad.output
    bad = CliRunner().invoke(app, [*options, "--policy", "nope"])
    assert bad.exit_code == 1


def test_the_page_has_its_three_plots(curves, tmp_path, monkeypatch):
    monkeypatch.setattr("exporters.replay.simulation_report._SWEEP_REQUESTS", 300)
    result = simulate(curves, curves, traffic(curves), Scenario())
    write_report(tmp_path / "page.html", Predicted(curves), known(curves), Scenario(), result)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 3
    assert "points over uniform" in text
