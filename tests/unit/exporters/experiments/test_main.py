"""The experiments' commands."""

import json

import numpy as np
from typer.testing import CliRunner

from exporters.experiments.__main__ import app
from exporters.measure.curves import write_curves
from exporters.measure.hidden_states import write_hidden_states
from tests.builders.measurements import METHODS


def test_the_command_compares_smoothings_on_a_small_file(truth, tmp_path):
    rng = np.random.default_rng(0)
    for name, rows in (("train", range(160)), ("test", range(200, 260))):
        ids = [f"{row}" for row in rows]
        write_curves(
            tmp_path / f"{name}.parquet",
            {"question_id": ids, "question": ids, "accuracy_at_window": truth[list(rows)].round(2).tolist()},
        )
        states = np.concatenate([truth[list(rows)], rng.normal(size=(len(ids), 4))], axis=1)
        write_hidden_states(tmp_path / f"{name}.npz", ids, states)
    files = {"--curves": "train.parquet", "--hidden-states": "train.npz", "--test": "test.parquet"}
    files |= {"--test-states": "test.npz", "--plot": "plot.svg", "--json": "rows.json"}
    given_files = [part for option, name in files.items() for part in (option, str(tmp_path / name))]
    chosen = ["--samples", "1", "--samples", "4", "--traces", "160", "--questions", "150", "--repeats", "1"]
    result = CliRunner().invoke(app, ["few-samples", *given_files, *chosen, "--epochs", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    trained, equal, scored = [table.splitlines()[2:] for table in result.stdout.strip().split("\n\n")]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(trained) == len(rows)
    assert {row["smoothing"] for row in rows} == {*METHODS, "the file as it is"}
    assert (rows[-1]["error"], rows[-1]["questions"]) == (0, 150)
    assert [line.split(" | ")[1:3] for line in equal] == [["80", "2"], ["40", "4"], ["20", "8"]]
    assert len(scored) == 2 + 3 + 1
    assert "samples a question" in (tmp_path / "plot.svg").read_text()


def test_the_command_shows_what_abstaining_saves_and_costs(tmp_path):
    kinds = ("add up", "walk along")
    for name, rows in (("own", 240), ("other", 120)):
        texts = [f"{name}: {kinds[n % 2]} {n // 2 % 7 * 'step '}now" for n in range(rows)]
        accuracy = [[float(window > n // 2 % 7) for window in range(8)] for n in range(rows)]
        columns = {"question_id": [str(n) for n in range(rows)], "question": texts, "accuracy_at_window": accuracy}
        write_curves(tmp_path / f"{name}.parquet", columns | {"group": [kinds[n % 2] for n in range(rows)]})
    files = [str(tmp_path / f"{name}.parquet") for name in ("own", "other", "other")]
    options = zip(("--curves", "--other", "--other-training"), files, strict=True)
    given = [part for option in options for part in option]
    result = CliRunner().invoke(app, ["abstention", *given, "--epochs", "1"], catch_exceptions=False)
    strange, known, words = result.stdout.strip().split("\n\n")
    assert [line.split(" | ")[0] for line in strange.splitlines()[2:]] == [
        "| add up", "| walk along", "| other, of own", "| own, of other"
    ]  # fmt: skip
    assert all("| 100% |" in line for line in strange.splitlines()[2:])
    assert len(known.splitlines()) == 2 + 3
    assert words.startswith("worst on an unseen kind +0.0 points")
