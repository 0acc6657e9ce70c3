"""Training of predictors: the graph that is served computes what was trained, for every kind."""

import numpy as np
import pytest

from exporters.curves import Curves
from exporters.demo.tasks import split_tasks
from exporters.ensemble import Recipe, best_shrinkage
from exporters.text_graph import NUMERIC_FEATURES, text_features, tokenise, vocabulary_of
from exporters.train import KINDS, TextRecipe, export, parity, train
from predictor_service.features import Query
from predictor_service.model import LoadedModel

TEXTS = [task.question for task in split_tasks().test]
RECIPE = Recipe(
    members=3, hidden=16, epochs=60, batch=16, learning_rate=1e-2, dropout=0.1, input_dropout=0.0, mixup=0.0
)


@pytest.fixture(scope="module")
def learnable():
    """Questions whose needed tokens follow from their text, and from the first component of their hidden state."""
    needed = np.array([len(text) % 40 for text in TEXTS])
    accuracy = (np.arange(1, 17)[None, :] * 2.5 > needed[:, None]).astype(float)
    hidden = np.random.default_rng(0).normal(size=(len(TEXTS), 6)).astype(np.float32)
    hidden[:, 0] = needed / 10
    return Curves(TEXTS, TEXTS, accuracy), hidden


def test_text_is_split_into_numbers_words_and_signs():
    assert tokenise(["Add 12+3, größer?"])[0] == ["Add", "12", "+", "3", ",", "gr", "ö", "ß", "er", "?", "."]


def test_the_numbers_of_a_text_become_features():
    row = text_features(["Start at 58 and take 7"], [("Start",)])[0]
    logs = np.log1p([7, 2, 65, 58, 58, 7])
    assert row[:6] == pytest.approx(list(logs), rel=1e-5)
    assert row[6] == pytest.approx(58 / 8 / 10)
    assert row[7] == pytest.approx(7 / 59 / 10)
    assert row[NUMERIC_FEATURES] == pytest.approx(np.log(2))


@pytest.mark.parametrize("text", ["", " \n\t", "no numbers", "9" * 400, "\x00", "🙂" * 10, "00012"])
def test_any_text_has_finite_features(text):
    assert np.isfinite(text_features([text], [("a",), ("a", "b")])).all()


def test_a_text_has_the_same_features_in_any_batch():
    vocabulary = vocabulary_of(TEXTS, min_texts=3, most=100)
    whole = text_features(TEXTS, vocabulary)
    assert np.allclose(whole[5], text_features([TEXTS[5]], vocabulary)[0])
    assert not any(token.isdigit() for gram in vocabulary for token in gram)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [True, False])
def test_what_is_served_is_what_was_trained(tmp_path, learnable, kind, half):
    curves, hidden = learnable
    trained = train(kind, curves, hidden, RECIPE, TextRecipe(min_texts=3))
    manifest = export(trained, tmp_path, name="m", version="1", data={"name": "d", "digest": "x"}, half=half)
    assert manifest.kind == kind
    assert manifest.takes_text == (kind != "hidden_state_mlp")
    assert manifest.hidden_size == (0 if kind == "text_curve" else 6)
    found = parity(trained, tmp_path)
    assert found.rows == len(TEXTS)
    assert found.largest < (5e-3 if half else 1e-5)


def test_a_trained_model_predicts_what_can_be_known(tmp_path, learnable):
    curves, hidden = learnable
    trained = train("hidden_state_mlp", curves, hidden, RECIPE)
    export(trained, tmp_path, name="m", version="1", data={})
    assert trained.validation["pearson"] > 0.8
    assert trained.validation["rmse"] < 0.6 * trained.validation["rmse_of_mean_curve"]
    served = LoadedModel(tmp_path).run([Query(hidden_state=state) for state in hidden]).curves
    assert np.corrcoef(served.ravel(), curves.accuracy.ravel())[0, 1] > 0.7


def test_the_same_seed_trains_the_same_model(learnable):
    curves, hidden = learnable
    one, other = (train("hidden_state_mlp", curves, hidden, RECIPE).ensemble for _ in range(2))
    assert (one.held_out == other.held_out).all()


def test_noise_is_shrunk_to_the_mean_curve():
    rng = np.random.default_rng(0)
    mean = np.full(16, 0.5, np.float32)
    measured = rng.random((400, 16), dtype=np.float32)
    assert best_shrinkage(rng.random((400, 16), dtype=np.float32), measured, mean) < 0.1
    assert best_shrinkage(measured, measured, mean) == pytest.approx(1.0)
    assert best_shrinkage(np.tile(mean, (400, 1)), measured, mean) == 0.0


def test_what_cannot_be_trained_is_refused_by_name(learnable):
    curves, hidden = learnable
    with pytest.raises(ValueError, match="--hidden-states"):
        train("hybrid", curves, None, RECIPE)
    with pytest.raises(ValueError, match="kind"):
        train("oracle", curves, hidden, RECIPE)
    few = Curves(TEXTS[:5], TEXTS[:5], curves.accuracy[:5])
    with pytest.raises(ValueError, match="too few"):
        train("hidden_state_mlp", few, hidden[:5], RECIPE)
