"""Training of predictors: the graph that is served computes what was trained, for every kind."""

import numpy as np
import pytest

from exporters.demo.tasks import split_tasks
from exporters.faults import CurvesFileError
from exporters.measure.classes import difficulty_of, size_of, soft_difficulty
from exporters.measure.curves import Curves, window_points
from exporters.predictors.checkpoint import load_checkpoint, save_checkpoint
from exporters.predictors.ensemble import Recipe, best_shrinkage
from exporters.predictors.export import export
from exporters.predictors.kinds import KINDS, module_of
from exporters.predictors.text_graph import NUMERIC_FEATURES, text_features, tokenise, vocabulary_of
from exporters.predictors.train import TextRecipe, TrainedHead, train
from predictor_service.features import Query
from predictor_service.model import LoadedModel

HEADS = [kind for kind, module in KINDS.items() if module == "exporters.predictors.train"]
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
    return Curves.measured(TEXTS, TEXTS, window_points(accuracy.shape[1]), accuracy), hidden


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


def test_stored_in_float16_a_model_takes_half_the_room(tmp_path, learnable):
    curves, hidden = learnable
    wide = np.tile(hidden, (1, 50))
    trained, _ = train("hidden_state_mlp", curves, wide, RECIPE)
    sizes = [
        export(trained, tmp_path / name, TEXTS, wide, name="m", version="1", precision=name)[1].megabytes
        for name in ("float32", "float16")
    ]
    assert sizes[1] < 0.6 * sizes[0]


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


def test_classes_are_the_outer_fifths():
    accuracy = np.linspace(0, 1, 10)[:, None].repeat(4, axis=1)
    assert difficulty_of(accuracy).tolist() == [2, 2, 1, 1, 1, 1, 1, 1, 0, 0]
    needed = np.arange(10)
    rising = (np.arange(12)[None, :] >= needed[:, None]).astype(float)
    assert size_of(rising).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]


def test_soft_classes_agree_with_the_hard_ones_away_from_the_borders():
    accuracy = np.linspace(0, 1, 101)[:, None].repeat(4, axis=1)
    soft = soft_difficulty(accuracy)
    assert np.allclose(soft.sum(axis=1), 1)
    assert soft[[0, 50, 100]].argmax(axis=1).tolist() == [2, 1, 0]
    assert (soft.argmax(axis=1) == difficulty_of(accuracy)).mean() > 0.9
    assert np.all(np.diff(soft[:, 0]) >= -1e-6)  # the more often right, the easier


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


@pytest.mark.parametrize("kind", HEADS)
def test_a_checkpoint_comes_back_as_it_was(tmp_path, learnable, kind):
    curves, hidden = learnable
    trained, _ = train(kind, curves, hidden, RECIPE, TextRecipe(min_texts=3), data={"name": "d", "digest": "x"})
    save_checkpoint(trained, tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c")
    assert isinstance(loaded, TrainedHead)
    assert loaded.interface == trained.interface
    assert loaded.calibration == trained.calibration
    assert np.allclose(loaded.reference(TEXTS, hidden), trained.reference(TEXTS, hidden), atol=1e-6)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CurvesFileError, match=r"checkpoint\.json: not a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(CurvesFileError, match=r"checkpoint\.json: not a checkpoint"):
        load_checkpoint(tmp_path)


def test_a_failed_export_leaves_the_old_folder_as_it_was(tmp_path, learnable, monkeypatch):
    curves, hidden = learnable
    trained, _ = train("hidden_state_mlp", curves, hidden, RECIPE)
    before, _ = export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="1")
    with pytest.raises(ValueError, match="--precision: int8 is for predictors with an encoder"):
        export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="2", precision="int8")
    wrong = trained.reference(TEXTS, hidden) - 0.2
    monkeypatch.setattr(TrainedHead, "reference", lambda *_: wrong)
    with pytest.raises(ValueError, match="use float16 or float32"):
        export(trained, tmp_path / "m", TEXTS, hidden, name="m", version="2")
    assert LoadedModel(tmp_path / "m").manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


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
        module_of("oracle")
    with pytest.raises(ValueError, match="kind"):
        train("oracle", curves, hidden, RECIPE)
    few = curves.chosen(range(5))
    with pytest.raises(ValueError, match="too few"):
        train("hidden_state_mlp", few, hidden[:5], RECIPE)
