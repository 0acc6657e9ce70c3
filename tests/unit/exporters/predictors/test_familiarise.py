"""A model folder of before learns what was in its training, and keeps its curves."""

import shutil

import numpy as np
import onnx
import pytest

from exporters.demo.tasks import split_tasks
from exporters.measure.curves import Curves, window_points
from exporters.predictors.export import export
from exporters.predictors.familiarise import familiarise
from exporters.predictors.familiarity import LEAST_QUESTIONS
from exporters.predictors.train import TextRecipe, train
from predictor_service.artifact import digest, read_manifest
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from tests.builders.model_folders import change
from tests.builders.training import RECIPE

TEXTS = [task.question for task in split_tasks().curves[:180]]
STATES = np.random.default_rng(0).normal(size=(len(TEXTS), 6)).astype(np.float32)
CURVES = Curves.measured(TEXTS, TEXTS, window_points(4), np.tile([0.1, 0.2, 0.3, 0.4], (len(TEXTS), 1)))


@pytest.fixture(scope="module", params=["text_curve", "hidden_state_mlp", "hybrid"])
def before(request, tmp_path_factory):
    """A folder that does not know what it was trained on, by training on few questions."""
    few = CURVES.chosen(range(LEAST_QUESTIONS - 1))
    hidden = None if request.param == "text_curve" else STATES[: len(few.ids)]
    trained, _ = train(request.param, few, hidden, RECIPE, TextRecipe(min_texts=3))
    folder = tmp_path_factory.mktemp("models") / "m"
    export(trained, folder, few.questions, hidden, name="m", version="1")
    return folder


@pytest.fixture
def folder(before, tmp_path):
    return shutil.copytree(before, tmp_path / "m")


def test_it_abstains_on_what_is_unlike_its_training_and_predicts_as_before(folder):
    queries = [Query(text, state) for text, state in zip(TEXTS[:20], STATES, strict=False)]
    before = LoadedModel(folder).run(queries)
    assert before.unfamiliarity is None
    manifest = familiarise(folder, "2", TEXTS, STATES)
    model = LoadedModel(folder)
    assert model.manifest == manifest == read_manifest(folder)
    assert (manifest.version, manifest.false_alarm_rate) == ("2", 0.02)
    after = model.run([*queries, Query("zzz yyy xxx!", np.full(6, 99, np.float32))])
    np.testing.assert_allclose(after.curves[:20], before.curves, atol=1e-5)
    assert after.abstained[:20].mean() < 0.2
    assert after.abstained[20] == 1


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weights_stay_in_the_precision_that_they_have(tmp_path, precision):
    few, wide = CURVES.chosen(range(LEAST_QUESTIONS - 1)), np.tile(STATES, (1, 50))
    trained, _ = train("hidden_state_mlp", few, wide[: len(few.ids)], RECIPE)
    folder = tmp_path / "m"
    export(trained, folder, few.questions, wide, name="m", version="1", precision=precision)

    def weights():
        known = onnx.load(folder / "model.onnx").graph.initializer
        return {weight.name: weight.SerializeToString() for weight in known}

    had = weights()
    familiarise(folder, "2", TEXTS, wide)
    assert had.items() <= weights().items()
    assert ("states_whiten_float16" in weights()) == (precision == "float16")


def test_it_is_taught_once_and_by_enough_questions(folder):
    with pytest.raises(ValueError, match="too few"):
        familiarise(folder, "2", TEXTS[:20], STATES[:20])
    if read_manifest(folder).hidden_size:
        with pytest.raises(ValueError, match="--hidden-states"):
            familiarise(folder, "2", TEXTS, None)
    familiarise(folder, "2", TEXTS, STATES)
    with pytest.raises(ValueError, match="already"):
        familiarise(folder, "3", TEXTS, STATES)


def test_a_model_with_an_encoder_is_refused(folder):
    (folder / "tokenizer.json").write_text("{}")
    files = read_manifest(folder).files | {"tokenizer.json": digest(folder / "tokenizer.json")}
    change(folder, max_tokens=8, files=files)
    with pytest.raises(ValueError, match="has an encoder"):
        familiarise(folder, "2", TEXTS, STATES)
