"""Model folders are checked against their manifest before they are served."""

import json

import pytest

from predictor_service.artifact import ArtifactError, read_manifest
from tests.builders.model_folders import change


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
        ({"most_unfamiliarity": None}, "both or neither"),
        ({"false_alarm_rate": None}, "both or neither"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate"),
        ({"most_unfamiliarity": 0}, "most_unfamiliarity"),
    ],
)
def test_a_wrong_field_is_named(folder, fields, named):
    change(folder, **fields)
    with pytest.raises(ArtifactError, match=named):
        read_manifest(folder)


def test_a_manifest_of_before_models_abstained_is_read(folder):
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["most_unfamiliarity"], fields["false_alarm_rate"]
    path.write_text(json.dumps(fields))
    assert read_manifest(folder).most_unfamiliarity is None


def test_a_manifest_that_is_not_json_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        read_manifest(folder)
