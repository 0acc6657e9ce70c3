"""The commands that make predictors."""

import json
import shutil

import numpy as np
from typer.testing import CliRunner

from exporters.demo.tasks import split_tasks
from exporters.measure.curves import Curves, window_points, write_curves
from exporters.measure.hidden_states import write_hidden_states
from exporters.predictors.export import export
from exporters.predictors.familiarity import LEAST_QUESTIONS
from exporters.predictors.train import train
from predictive_scheduling_cli.main import app
from predictor_service.artifact import read_manifest
from tests.builders.training import RECIPE

TEXTS = [task.question for task in split_tasks().curves[:120]]


def familiarise(*words):
    return CliRunner().invoke(app, ["familiarise", *(str(word) for word in words)])


def test_a_folder_of_before_learns_its_training_by_a_command(tmp_path):
    accuracy = np.tile([0.1, 0.2, 0.3, 0.4], (120, 1))
    states = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    few = Curves.measured(TEXTS, TEXTS, window_points(4), accuracy).chosen(range(LEAST_QUESTIONS - 1))
    trained, _ = train("hidden_state_mlp", few, states[: LEAST_QUESTIONS - 1], RECIPE)
    export(trained, tmp_path / "m", few.questions, states[: LEAST_QUESTIONS - 1], name="m", version="1")
    shutil.copytree(tmp_path / "m", tmp_path / "before")
    names = [str(at) for at in range(120)]
    columns = {"question_id": names, "question": TEXTS, "accuracy_at_window": accuracy.tolist()}
    write_curves(tmp_path / "c.parquet", columns)
    write_hidden_states(tmp_path / "h.npz", names, states)
    given = ["--model", tmp_path / "m", "--curves", tmp_path / "c.parquet", "--version", "2"]
    refused = familiarise(*given)
    assert refused.exit_code != 0
    assert "--hidden-states" in refused.output
    assert read_manifest(tmp_path / "m") == read_manifest(tmp_path / "before")
    done = familiarise(*given, "--hidden-states", tmp_path / "h.npz")
    manifest = read_manifest(tmp_path / "m")
    assert json.loads(done.stdout) == {
        "version": "2", "most_unfamiliarity": manifest.most_unfamiliarity, "false_alarm_rate": 3 / 120
    }  # fmt: skip
