"""A model folder is loaded, and its graph is held against its manifest."""

import shutil

import onnx
import pytest

import predictor_service.model
from predictor_service.artifact import ArtifactError, read_manifest, write_manifest
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS
from tests.builders.learning import mean_model
from tests.builders.model_folders import change


def test_the_shipped_model_loads_and_predicts_curves():
    for folder in SHIPPED_MODELS.iterdir():
        assert LoadedModel(folder).manifest.windows == (8 if folder.name == "demo-long-text" else 16)


def test_a_limit_of_what_the_graph_does_not_tell_is_refused(folder):
    path, manifest = folder / "model.onnx", read_manifest(folder)
    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != "unfamiliarity"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    write_manifest(folder, manifest)
    with pytest.raises(ArtifactError, match="no output named unfamiliarity"):
        LoadedModel(folder)


@pytest.mark.parametrize("at", ["open_graph", "GraphInputs"])
def test_a_folder_that_is_exchanged_while_it_is_loaded_is_not_served_in_halves(at, tmp_path, monkeypatch):
    one, other = mean_model(tmp_path / "one", 1), mean_model(tmp_path / "other", 2)
    link = tmp_path / "learned"
    link.symlink_to(one)
    real = getattr(predictor_service.model, at)

    def exchanged(*arguments):
        link.unlink()
        link.symlink_to(other)
        return real(*arguments)

    monkeypatch.setattr(predictor_service.model, at, exchanged)
    with pytest.raises(ArtifactError, match="changed while it was loaded"):
        LoadedModel(link)
    monkeypatch.undo()
    assert LoadedModel(link).manifest.version == "2"


def test_a_graph_that_is_overwritten_while_it_is_loaded_is_not_served(tmp_path, monkeypatch):
    folder, other = mean_model(tmp_path / "one", 1), mean_model(tmp_path / "other", 2)
    real = predictor_service.model.open_graph

    def overwritten(*arguments):
        shutil.copyfile(other / "model.onnx", folder / "model.onnx")  # as in a bucket that is mounted
        return real(*arguments)

    monkeypatch.setattr(predictor_service.model, "open_graph", overwritten)
    with pytest.raises(ArtifactError, match="digest"):
        LoadedModel(folder)


def test_a_graph_with_other_windows_than_the_manifest_says_is_refused(folder):
    points = list(range(16, 129, 16))
    change(folder, budget_points=points, mean_curve=[0.5] * 8, uncertainty=[0.1] * 8, mean_used_tokens=points)
    with pytest.raises(ArtifactError, match="16 points, the manifest says 8"):
        LoadedModel(folder)
