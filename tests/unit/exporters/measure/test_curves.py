"""Curves files: read as written, refused with row and column."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporters.experiments.samples import EACH, SHARED, draw
from exporters.faults import CurvesFileError
from exporters.measure.curves import read_curves, sampling_variance, write_curves


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"question_id": ["a"], "question": ["q"]}, "no column accuracy_at_window"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, 1.5]]}, "row 0.*window 1 is 1.5"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, float("nan")]]}, "window 1 is nan"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, None]]}, "window 1 is None"),
        (
            {"question_id": ["a", "b"], "question": ["q", "r"], "accuracy_at_window": [[0.5], [0.5, 0.6]]},
            "row 1.*2 windows, the first row has 1",
        ),
        (
            {"question_id": ["a", "a"], "question": ["q", "r"], "accuracy_at_window": [[0.5], [0.5]]},
            "row 1, question_id: a is also in row 0",
        ),
    ],
)
def test_a_faulty_curves_file_is_refused_with_row_and_column(tmp_path, columns, words):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(CurvesFileError, match=words):
        read_curves(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(CurvesFileError, match="not a readable parquet file"):
        read_curves(path)


def test_curves_come_back_as_written(tmp_path):
    path = tmp_path / "deep" / "c.parquet"
    write_curves(path, {"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.25, 0.5]], "more": [1]})
    curves = read_curves(path)
    assert (curves.ids, curves.questions, curves.accuracy.tolist()) == (["a"], ["q"], [[0.25, 0.5]])


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("budget_tokens", [0, 256, 256, 8192], "row 0, budget_tokens: must rise; 256 at place 2 follows 256"),
        ("budget_tokens", [0, 256, 1024], "row 0, accuracy: has 4 values for 3 points"),
        ("budget_tokens", [0, 256, 1024, 200_000], "row 0, budget_tokens: must be from 0 to 131072 tokens"),
        ("accuracy", [0.1, 0.2, 0.3, 1.5], "row 0, accuracy: is 1.5 at place 3"),
        ("accuracy", [0.1, None, 0.3, 0.5], "row 0, accuracy: is nan at place 1"),
        ("used_tokens", [0, 300, 500, 900], "row 0, used_tokens: is 300.0 at place 1, not from 0 to its budget of 256"),
        ("used_tokens", [0, 200, 100, 900], "row 0, used_tokens: falls from 200.0 to 100.0 at place 2"),
        ("used_tokens", [0, 200], "row 0, used_tokens: has 2 values for 4 points"),
    ],
)
def test_a_file_whose_points_are_none_is_refused_with_row_and_field(tmp_path, column, value, fault):
    row = {
        "question_id": "a", "question": "a", "budget_tokens": [0, 256, 1024, 8192],
        "accuracy": [0.1, 0.2, 0.3, 0.4], "used_tokens": [0.0, 200.0, 500.0, 900.0],
    }  # fmt: skip
    write_curves(tmp_path / "c.parquet", {name: [cell] for name, cell in (row | {column: value}).items()})
    with pytest.raises(CurvesFileError, match=re.escape(f"{tmp_path / 'c.parquet'}: {fault}")):
        read_curves(tmp_path / "c.parquet")


def test_rows_at_other_points_than_the_first_are_refused(tmp_path):
    rows = {
        "question_id": ["a", "b"], "question": ["a", "b"], "budget_tokens": [[16, 64], [16, 128]],
        "accuracy": [[0.1, 0.2]] * 2,
    }  # fmt: skip
    write_curves(tmp_path / "c.parquet", rows)
    with pytest.raises(CurvesFileError, match="row 1, budget_tokens"):
        read_curves(tmp_path / "c.parquet")


@pytest.mark.parametrize("drawn", [EACH, SHARED])
def test_what_chance_gives_to_measured_curves_is_known_from_two_samples_on(truth, drawn):
    for samples in (2, 5):
        measured = draw(np.tile(truth, (50, 1)), samples, np.random.default_rng(0), drawn)
        expected = (truth * (1 - truth)).mean(axis=0) / samples
        assert np.allclose(sampling_variance(measured, samples), expected, rtol=0.1, atol=1e-3)


def test_a_curves_file_says_how_many_samples_it_averages(tmp_path):
    columns = {
        "question_id": ["a", "b"],
        "question": ["", ""],
        "budget_tokens": [[8, 20]] * 2,
        "accuracy": [[0, 0.5]] * 2,
    }
    write_curves(tmp_path / "silent.parquet", columns)
    write_curves(tmp_path / "curves.parquet", {**columns, "samples": [2, 4]})
    assert read_curves(tmp_path / "silent.parquet").samples is None
    found = read_curves(tmp_path / "curves.parquet")
    assert found.samples.tolist() == [2, 4]
    assert found.chosen([1]).samples.tolist() == [4]


@pytest.mark.parametrize("count", [0, -1, None, 2.5, "many"])
def test_samples_that_are_no_count_are_refused_by_row(tmp_path, count):
    columns = {"question_id": ["a"], "question": [""], "accuracy_at_window": [[0.5]], "samples": [count]}
    write_curves(tmp_path / "curves.parquet", columns)
    with pytest.raises(CurvesFileError, match=r"curves\.parquet: row 0, samples: "):
        read_curves(tmp_path / "curves.parquet")
