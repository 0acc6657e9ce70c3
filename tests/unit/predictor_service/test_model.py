"""A model folder is loaded, and its graph is held against its manifest."""

import onnx
import pytest

from predictor_service.artifact import ArtifactError, read_manifest, write_manifest
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS
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


def test_a_graph_with_other_windows_than_the_manifest_says_is_refused(folder):
    points = list(range(16, 129, 16))
    change(folder, budget_points=points, mean_curve=[0.5] * 8, uncertainty=[0.1] * 8, mean_used_tokens=points)
    with pytest.raises(ArtifactError, match="16 points, the manifest says 8"):
        LoadedModel(folder)
