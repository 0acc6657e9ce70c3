"""The commands that score: evaluate and simulate."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.measure.curves import write_curves
from exporters.replay import simulation_report
from exporters.replay.simulation import poisson
from predictive_scheduling_cli.main import app
from predictor_service.settings import SHIPPED_MODELS
from tests.builders.measurements import write_files
from tests.builders.simulating import three_sorts
from tests.integration.models import hidden_state_model


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_writes_figures_and_a_report(tmp_path):
    write_files(tmp_path)
    model = hidden_state_model(tmp_path / "model")
    out = tmp_path / "out" / "e.json"
    result = run(
        "evaluate", "--curves", tmp_path / "c.parquet", "--hidden-states", tmp_path / "h.npz", "--model", model,
        "--json", out, "--report", tmp_path / "e.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["queries"] == 30
    assert found["model"] == {"name": "hidden", "version": "7"}
    assert set(found["budgets"][0]) == {
        "tokens_per_query", "uniform", "oracle", "oracle_split", "policies",
        "policies_at_equal_reserved", "uniform_used_tokens_per_query",
    }  # fmt: skip
    assert (tmp_path / "e.html").read_text().count("<svg") == 4


def test_a_text_model_needs_no_hidden_states_and_a_hidden_one_says_that_it_does(tmp_path):
    write_files(tmp_path)
    model = hidden_state_model(tmp_path / "model")
    words = ["evaluate", "--curves", tmp_path / "c.parquet", "--json", tmp_path / "e.json", "--model"]
    assert run(*words, SHIPPED_MODELS / "demo-text").exit_code == 0
    refused = run(*words, model)
    assert refused.exit_code == 1
    assert "--hidden-states: model hidden needs them" in refused.output


@pytest.fixture(scope="module")
def curves():
    return three_sorts()


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


@pytest.mark.parametrize("words", [
    ("evaluate", "--model", SHIPPED_MODELS / "demo-text", "--json", "DIR"),
    ("evaluate", "--model", SHIPPED_MODELS / "demo-text", "--json", "OUT", "--report", "DIR"),
    ("simulate", "--requests", "20", "--json", "DIR"),
    ("simulate", "--requests", "20", "--report", "DIR"),
])  # fmt: skip
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, words):
    monkeypatch.setattr(simulation_report, "write_report", lambda path, *_: path.write_text("its sweeps take long"))
    write_curves(tmp_path / "c.parquet", {
        "question_id": ["a", "b"], "question": ["1 + 1?", "2 + 2?"],
        "budget_tokens": [list(range(16, 257, 16))] * 2, "accuracy": [[0.5] * 16, [1.0] * 16],
    })  # fmt: skip
    named = {"DIR": tmp_path, "OUT": tmp_path / "out.json"}
    done = run(words[0], "--curves", tmp_path / "c.parquet", *(named.get(word, word) for word in words[1:]))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    assert str(tmp_path) in done.output


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("times", ["1\nnan\n2\n", "1\ninf\n", "2\n1\n", ""])
def test_times_at_which_nothing_can_come_are_refused(tmp_path, times):
    (tmp_path / "times").write_text(times)
    done = run("simulate", "--curves", "exporters/demo/data/curves.parquet", "--arrivals", tmp_path / "times")
    assert isinstance(done.exception, SystemExit), done.exception
    assert "must be rising times" in done.output
