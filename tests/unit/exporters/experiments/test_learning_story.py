"""The loop's story on measured traces: on questions whose kinds, and whose truth, the test makes."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from exporters.experiments import learning_story
from exporters.experiments.__main__ import app
from exporters.experiments.learning import Traces
from exporters.measure.checkers import exact

POINTS = [8, 16, 32, 64, 96]
VERBS = ["add", "count", "halve", "sort", "spell", "weigh"]
# The first kinds need no thinking, the next a middling amount, and one is never answered right.
NEEDED = [8, 8, 64, 64, 64, 1000]


@pytest.fixture
def traces(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for at in range(480):
        kind = at % len(VERBS)
        needed = NEEDED[kind]
        answers = [
            ["42" if point >= needed else f"{rng.integers(9)}" for point in POINTS] for _ in range(2)
        ]  # fmt: skip
        rows.append(
            {
                "question_id": f"q{at}",
                "question": f"{VERBS[kind]} {' '.join(VERBS[kind][:at] for at in (2, 3))} {at} with {at + 1}",
                "expected": "42",
                "group": VERBS[kind],
                "budget_tokens": POINTS,
                "answers": answers,
                "used_tokens": [float(min(point, needed)) for point in POINTS],
                "generated_tokens": 100,
            }
        )
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(learning_story, "_RULES", replace(learning_story._RULES, least=40, look=20, least_text=10**9))


@pytest.fixture
def story(traces):
    return learning_story.tell(Traces.read(traces), exact, seed=0)


def test_it_begins_without_a_predictor_and_learns_one(story):
    assert story.rounds[0].version == 0
    assert story.rounds[0].gain == 0
    assert story.first is not None
    assert story.first_tokens == 100 * story.first
    assert story.gain_known > 0
    assert story.requests_to_earn_back == story.first_tokens / story.saved_tokens


def test_new_kinds_come_late_and_are_abstained_on_at_once(story):
    before, after = [one for one in story.rounds if not one.new], [one for one in story.rounds if one.new]
    assert len(story.new_kinds) == learning_story.NEW_KINDS
    assert before[-1].come < after[0].come
    assert learning_story.first_abstained(story) > 0.9
    assert story.gain_new_before == pytest.approx(0, abs=2)


def test_a_shuffled_candidate_is_never_served(story):
    assert story.bad in ("refused", "undecided", "never trained")


def test_every_request_is_in_one_round_and_tokens_only_grow(story, traces):
    assert story.rounds[-1].come == len(Traces.read(traces).ids)
    spent = [one.tokens for one in story.rounds]
    assert spent == sorted(spent)
    assert spent[-1] == 100 * story.rounds[-1].come


def test_the_command_tells_all_seeds(traces, tmp_path):
    out, plot = tmp_path / "s.json", tmp_path / "s.svg"
    ran = CliRunner().invoke(
        app, ["learning-story", "--samples", str(traces), "--seeds", "2", "--json", str(out), "--plot", str(plot)]
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(out.read_text())
    assert [one["seed"] for one in found] == [0, 1]
    assert found[0]["new_kinds"] != found[1]["new_kinds"]
    assert "questions until the first default" in ran.output
    assert "shuffled candidates:" in ran.output
    assert plot.read_text().count("<svg") == 1


def test_what_never_happened_is_left_out_of_the_table():
    came = learning_story.Round(24, 0, 0.0, 3, 0.0, 0.0, 0.0, 100)
    nothing = learning_story.Story(0, [], [came])
    row = learning_story.story_table([nothing]).rows[0]
    assert row == ["questions until the first default", "", "", "", "0 of 1"]
    assert nothing.requests_to_earn_back == float("inf")
