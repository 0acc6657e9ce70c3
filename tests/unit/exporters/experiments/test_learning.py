"""What learning without labels is worth: on traces whose truth the test makes."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from exporters.experiments import learning
from exporters.experiments.__main__ import DEMO_CURVES, app
from exporters.experiments.learning import Traces, drawn_agreement, kept, poisoned
from exporters.faults import CurvesFileError
from exporters.measure.checkers import exact

NEVER = 1000
POINTS = [8, 16, 24, 32, 64]


def trace(rng, needed):
    """Answers at the points: right once it has thought as long as is needed, else one of several wrong ones."""
    return ["42" if point >= needed else f"{rng.integers(5)}" for point in POINTS]


@pytest.fixture
def file(tmp_path):
    """Short questions need hardly any reasoning, longer ones more, and the longest are never answered right."""
    rng = np.random.default_rng(0)
    rows = []
    for at in range(90):
        needed = (8, 24, NEVER)[at % 3]
        rows.append(
            {
                "question_id": f"q{at}",
                "question": f"Number {at}: add " + "and one more " * (at % 3 * 8),
                "expected": "42",
                "group": "g",
                "budget_tokens": POINTS,
                "answers": [trace(rng, needed) for _ in range(3)],
                "used_tokens": [float(min(point, needed)) for point in POINTS],
                "generated_tokens": 100,
            }
        )
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, members=2, hidden=16, epochs=60, batch=16))


@pytest.mark.usefixtures("quick")
def test_agreement_trains_as_labels_do_where_wrong_answers_differ(file, tmp_path):
    out, plot = tmp_path / "l.json", tmp_path / "l.svg"
    kinds = tmp_path / "curves.parquet"
    pq.write_table(pq.read_table(DEMO_CURVES).slice(0, 240), kinds)
    files = ["--samples", str(file), "--curves", str(kinds), "--json", str(out), "--plot", str(plot)]
    result = CliRunner().invoke(app, ["learning", *files, "--epochs", "2"])
    assert result.exit_code == 0, result.output
    assert "sure and wrong" in result.output
    assert plot.read_text().startswith("<?xml")
    found = json.loads(out.read_text())
    assert found["kept_share"]
    assert all(share > 0.8 for share in found["kept_share"].values())
    assert found["poisoned_gain_lost_share"] < 0.5
    assert -100 <= found["unseen_worst_points"] <= 100
    assert 0 <= found["known_gain_lost_share"] <= 1
    assert 0 < found["requests_to_earn_back"] < 10_000
    assert [row["samples"] for row in found["agreement"]] == [2, 3]
    assert found["agreement"][0]["sure_and_wrong"] < 0.15  # two of five wrong answers meet by chance


def test_traces_without_an_answer_column_are_refused(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"question_id": ["a"], "question": ["q"]}), path)
    with pytest.raises(CurvesFileError, match="no column expected, group"):
        Traces.read(path)


def test_labels_and_agreement_judge_the_same_answers(file):
    traces = Traces.read(file)
    assert traces.samples == 3
    known, agreed = traces.labelled(exact, 2), traces.agreed(exact, 2)
    assert known.accuracy[0].tolist() == [1.0] * 5  # needs 8 tokens
    assert agreed.accuracy[0].tolist() == [1.0] * 5
    assert known.accuracy[1].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert agreed.accuracy[1].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


@given(st.integers(0, 99), st.integers(2, 4), st.floats(0, 1))
@settings(max_examples=50)
def test_drawn_agreement_is_a_fraction_sure_of_what_is_always_right(seed, samples, alike):
    rng = np.random.default_rng(seed)
    accuracy = np.sort(rng.random((20, 4)), axis=1)
    accuracy[0], accuracy[1] = 1.0, 0.0
    found = drawn_agreement(accuracy, samples, alike, rng)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[0] == 1).all()
    if alike == 0:
        assert (found[1] == 0).all()
    assert (drawn_agreement(accuracy, samples, 1.0, rng)[1] == 1).all()


def test_drawn_agreement_means_what_its_proportions_say():
    accuracy = np.tile([[0.2, 0.5]], (40_000, 1))
    found = drawn_agreement(accuracy, 2, 0.0, np.random.default_rng(0)).mean(axis=0)
    assert found == pytest.approx([0.2 * 0.5, 0.5 * 0.5], abs=0.01)


def test_an_attack_changes_a_tenth_of_the_questions(file):
    curves = Traces.read(file).labelled(exact)
    for name, bad in poisoned(curves, np.random.default_rng(0)).items():
        changed = (bad.accuracy != curves.accuracy).any(axis=1).sum()
        assert 0 < changed <= 9, name
    assert (bad.ids, bad.questions) == (curves.ids, curves.questions)


def test_the_share_that_is_kept_has_an_interval_around_it():
    gains = np.random.default_rng(0).normal(0.1, 0.2, 500)
    share, (low, high) = kept(gains, gains * 0.9, np.random.default_rng(0))
    assert share == pytest.approx(0.9)
    assert low == pytest.approx(high)
    share, (low, high) = kept(gains, gains[::-1] * 0.9, np.random.default_rng(0))
    assert low < share < high
