"""Training of text predictors: the graph that trains is the graph that serves."""

import numpy as np
import pytest

from exporters.curves import Curves, write_curves
from exporters.demo.tasks import split_tasks
from exporters.text_graph import NUMERIC_FEATURES, text_features, tokenise, vocabulary_of
from exporters.train_text_curve import Recipe, best_shrinkage, export, train
from predictor_service.features import Query
from predictor_service.model import LoadedModel

TEXTS = [task.question for task in split_tasks().test]


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


def test_a_trained_model_beats_the_mean_curve_and_serves_what_it_learned(tmp_path):
    needed = np.array([len(text) % 40 for text in TEXTS])  # tokens needed follow the length of the text
    accuracy = (np.arange(1, 17)[None, :] * 2.5 > needed[:, None]).astype(float)
    recipe = Recipe(hidden=16, members=5, epochs=40, patience=10)
    graph, mean_curve, uncertainty, metrics = train(Curves(TEXTS, TEXTS, accuracy), recipe)
    data = tmp_path / "curves.parquet"
    write_curves(data, {"question_id": TEXTS, "question": TEXTS, "accuracy_at_window": accuracy.tolist()})
    export(
        graph, tmp_path / "m", name="m", version="1", data=data, mean_curve=mean_curve, uncertainty=uncertainty,
        metrics=metrics,
    )  # fmt: skip
    assert metrics["rmse"] <= metrics["rmse_of_mean_curve"] + 1e-6
    curves = LoadedModel(tmp_path / "m").run([Query(text) for text in TEXTS]).curves
    assert np.corrcoef(curves.ravel(), accuracy.ravel())[0, 1] > 0.5


def test_noise_is_shrunk_to_the_mean_curve():
    rng = np.random.default_rng(0)
    mean = np.full(16, 0.5, np.float32)
    measured = rng.random((400, 16), dtype=np.float32)
    assert best_shrinkage(rng.random((400, 16), dtype=np.float32), measured, mean) < 0.1
    assert best_shrinkage(measured, measured, mean) == pytest.approx(1.0)
    assert best_shrinkage(np.tile(mean, (400, 1)), measured, mean) == 0.0
