"""Model folders are checked against their manifest before they are served."""

import json
import shutil

import pytest

from predictor_service.artifact import ArtifactError, read_manifest
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SHIPPED_MODELS / "demo-text", tmp_path / "model")


def change(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_shipped_model_loads_and_predicts_curves():
    for folder in SHIPPED_MODELS.iterdir():
        assert LoadedModel(folder).manifest.windows == 16


def test_a_changed_file_is_refused(folder):
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"model\.onnx: its digest"):
        read_manifest(folder)


def test_a_missing_file_is_refused(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx: missing"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "An oracle"}, "kind"),
        ({"mean_curve": [0.5]}, "mean_curve"),
        ({"uncertainty": [2.0] * 16}, "uncertainty"),
        ({"takes_text": False}, "takes_text"),
        ({"files": {}}, "files"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(folder, fields, named):
    change(folder, **fields)
    with pytest.raises(ArtifactError, match=named):
        read_manifest(folder)


def test_a_manifest_that_is_not_json_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        read_manifest(folder)


def test_a_graph_with_other_windows_than_the_manifest_says_is_refused(folder):
    change(folder, windows=8, mean_curve=[0.5] * 8, uncertainty=[0.1] * 8)
    with pytest.raises(ArtifactError, match="16 points, the manifest says 8"):
        LoadedModel(folder)
