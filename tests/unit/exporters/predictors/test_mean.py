"""The predictor that knows no question."""

import numpy as np
import pytest

from exporters.measure.curves import Curves
from exporters.predictors.checkpoint import load_checkpoint, save_checkpoint
from exporters.predictors.export import export
from exporters.predictors.kinds import Training, module_of
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel

POINTS = np.array([16, 32, 64])
ACCURACY = np.array([[0.0, 0.2, 1.0], [0.2, 0.4, 0.6]])


def trained(used=None, accuracy=ACCURACY):
    curves = Curves.measured(["a", "b"], ["one", "two"], POINTS, accuracy, used)
    return module_of("mean_curve").fit("mean_curve", Training(curves))


@pytest.mark.parametrize("used", [None, np.array([[10.0, 20, 30], [16, 32, 40]])])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_query_gets_the_mean_curve_and_the_mean_use(tmp_path, used, precision):
    manifest, parity = export(
        trained(used), tmp_path / "m", ["one", "two"], None, name="m", version="1", precision=precision
    )
    served = LoadedModel(tmp_path / "m").run([Query("any"), Query(""), Query("three")])
    assert served.curves == pytest.approx(np.tile([0.1, 0.3, 0.8], (3, 1)), abs=1e-6)
    assert (manifest.kind, parity.rows) == ("mean_curve", 2)
    if used is None:
        assert served.used is None
    else:
        assert served.used == pytest.approx(np.tile([13, 26, 35], (3, 1)))


def test_a_checkpoint_brings_it_back(tmp_path):
    for at, used in enumerate((None, np.array([[10.0, 20, 30], [16, 32, 40]]))):
        save_checkpoint(trained(used), tmp_path / str(at))
        again = load_checkpoint(tmp_path / str(at))
        assert again.reference(["x"], None)[0] == pytest.approx([0.1, 0.3, 0.8])
        assert (again.used is None) == (used is None)


def test_a_level_curve_has_no_correlation_and_can_be_served(tmp_path):
    manifest, _ = export(trained(accuracy=np.full((2, 3), 0.5)), tmp_path / "m", ["one"], None, name="m", version="1")
    assert (manifest.validation["pearson"], manifest.reliability) == (0, 0)


def test_a_precision_that_it_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--precision: int8"):
        trained().write(tmp_path, "int8")


QUESTIONS = [f"What is {at} plus {at + 1}, and then {at} more?" for at in range(60)]


def read(questions=QUESTIONS):
    accuracy = np.tile(ACCURACY, (len(questions) // 2, 1))
    curves = Curves.measured([str(at) for at in range(len(questions))], questions, POINTS, accuracy)
    return module_of("mean_curve").fit("mean_curve", Training(curves))


def test_it_abstains_on_texts_unlike_those_that_it_is_the_mean_of(tmp_path):
    strange = "Translate into French: the quick brown fox jumps over the lazy dog near the river bank at dawn"
    manifest, parity = export(read(), tmp_path / "m", QUESTIONS, None, name="m", version="1")
    model = LoadedModel(tmp_path / "m")
    served = model.run([Query(QUESTIONS[0]), Query(strange), Query("")])
    assert served.abstained.tolist()[:2] == [0, 1]
    assert manifest.false_alarm_rate == pytest.approx(3 / 60)
    assert parity.unfamiliarity < 1e-3


def test_a_checkpoint_brings_back_what_it_knows(tmp_path):
    own = read()
    save_checkpoint(own, tmp_path / "c")
    again = load_checkpoint(tmp_path / "c")
    assert again.unfamiliarity(["any words"], None) == pytest.approx(own.unfamiliarity(["any words"], None))


def test_of_few_questions_it_does_not_know(tmp_path):
    assert trained().unfamiliarity(["one"], None) is None
    assert read(QUESTIONS[:20]).interface.most_unfamiliarity is None
