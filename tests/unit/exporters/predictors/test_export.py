"""The graph that is served computes what was trained, for every kind."""

import numpy as np
import pytest

from exporters.predictors.export import export
from exporters.predictors.train import TextRecipe, TrainedHead, train
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from tests.builders.training import HEADS, RECIPE, TEXTS


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_is_served_is_what_was_trained(tmp_path, learnable, kind, precision):
    curves, hidden = learnable
    trained, _ = train(kind, curves, hidden, RECIPE, TextRecipe(min_texts=3), layer=7)
    manifest, parity = export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="1", precision=precision)
    assert (manifest.kind, manifest.layer) == (kind, 7)
    assert manifest.takes_text == (kind in ("text_curve", "hybrid"))
    assert manifest.hidden_size == (0 if kind == "text_curve" else 6)
    assert parity.rows == len(TEXTS)
    assert parity.largest < (5e-3 if precision == "float16" else 1e-5)
    assert parity.unfamiliarity < (5e-3 if precision == "float16" else 1e-4)
    assert manifest.false_alarm_rate == pytest.approx(3 / len(TEXTS))  # as few as they are
    alarms = trained.unfamiliarity(TEXTS, hidden) > manifest.most_unfamiliarity
    assert alarms.mean() < 0.1
    served = LoadedModel(tmp_path / "m").run([Query(text, state) for text, state in zip(TEXTS, hidden, strict=True)])
    assert (served.abstained.astype(bool) == alarms).mean() > 0.97  # all but what lies on the limit itself


def test_stored_in_float16_a_model_takes_half_the_room(tmp_path, learnable):
    curves, hidden = learnable
    wide = np.tile(hidden, (1, 50))
    trained, _ = train("hidden_state_mlp", curves, wide, RECIPE)
    sizes = [
        export(trained, tmp_path / name, TEXTS, wide, name="m", version="1", precision=name)[1].megabytes
        for name in ("float32", "float16")
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_failed_export_leaves_the_old_folder_as_it_was(tmp_path, learnable, monkeypatch):
    curves, hidden = learnable
    trained, _ = train("hidden_state_mlp", curves, hidden, RECIPE)
    before, _ = export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="1")
    with pytest.raises(ValueError, match="--precision: int8 is for predictors with an encoder"):
        export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="2", precision="int8")
    right = trained.reference(TEXTS, hidden)
    for wrong in (right - 0.2, right * np.nan):
        with monkeypatch.context() as patched:
            patched.setattr(TrainedHead, "reference", lambda *_, wrong=wrong: wrong)
            with pytest.raises(ValueError, match="use float16 or float32"):
                export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="2")
    far = trained.unfamiliarity(TEXTS, hidden) + trained.familiarity.limit
    for off in (far, far * np.nan):
        monkeypatch.setattr(TrainedHead, "unfamiliarity", lambda *_, off=off: off)
        with pytest.raises(ValueError, match="unfamiliarity is off"):
            export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="2")
    assert LoadedModel(tmp_path / "m").manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
