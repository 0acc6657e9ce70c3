"""Training of predictors."""

import numpy as np
import pytest

from exporters.measure.curves import Curves, window_points
from exporters.predictors.export import export
from exporters.predictors.kinds import module_of
from exporters.predictors.train import TextRecipe, train
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from tests.builders.training import RECIPE, TEXTS


@pytest.mark.parametrize("kind", ["difficulty", "size"])
@pytest.mark.parametrize("with_states", [True, False])
def test_a_classifier_serves_the_curve_of_its_classes(tmp_path, learnable, kind, with_states):
    _, hidden = learnable
    accuracy = np.clip(np.arange(1, 17)[None, :] / 16 * (1.2 - hidden[:, :1] / 4), 0, 1).astype(float)
    curves = Curves.measured(TEXTS, TEXTS, window_points(accuracy.shape[1]), accuracy)
    states = hidden if with_states else None
    trained, held_out = train(kind, curves, states, RECIPE, TextRecipe(min_texts=3))
    manifest, _ = export(trained, tmp_path / "m", TEXTS, states, name="m", version="1", precision="float32")
    names = ("easy", "medium", "hard") if kind == "difficulty" else ("short", "medium", "long")
    assert tuple(manifest.class_curves) == names
    assert held_out.shape == curves.accuracy.shape
    assert trained.calibration.validation["class_accuracy"] > 0.5
    queries = [Query(text, hidden[row] if with_states else None) for row, text in enumerate(TEXTS[:20])]
    result = LoadedModel(tmp_path / "m").run(queries)
    if kind == "size":
        assert result.difficulty is None  # the API speaks of difficulty, and this is none
        return
    assert np.allclose(result.difficulty.sum(axis=1), 1, atol=1e-5)
    table = np.array(list(manifest.class_curves.values()))
    assert np.allclose(result.curves, result.difficulty @ table, atol=1e-3)


def test_a_trained_model_predicts_what_can_be_known(tmp_path, learnable):
    curves, hidden = learnable
    trained, _ = train("hidden_state_mlp", curves, hidden, RECIPE)
    export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="1")
    validation = trained.calibration.validation
    assert validation["pearson"] > 0.8
    assert validation["rmse"] < 0.6 * validation["rmse_of_mean_curve"]
    served = LoadedModel(tmp_path / "m").run([Query(hidden_state=state) for state in hidden]).curves
    assert np.corrcoef(served.ravel(), curves.accuracy.ravel())[0, 1] > 0.7


def test_the_same_seed_trains_the_same_model(learnable):
    curves, hidden = learnable
    one, other = (train("hidden_state_mlp", curves, hidden, RECIPE)[1] for _ in range(2))
    assert (one == other).all()


def test_what_cannot_be_trained_is_refused_by_name(learnable):
    curves, hidden = learnable
    with pytest.raises(ValueError, match="--hidden-states"):
        train("hybrid", curves, None, RECIPE)
    with pytest.raises(ValueError, match="kind"):
        module_of("oracle")
    with pytest.raises(ValueError, match="kind"):
        train("oracle", curves, hidden, RECIPE)
    few = curves.chosen(range(5))
    with pytest.raises(ValueError, match="too few"):
        train("hidden_state_mlp", few, hidden[:5], RECIPE)
