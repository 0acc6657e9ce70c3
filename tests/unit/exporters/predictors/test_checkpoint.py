"""Checkpoints come back as they were."""

import numpy as np
import pytest

from exporters.faults import CurvesFileError
from exporters.predictors.checkpoint import load_checkpoint, save_checkpoint
from exporters.predictors.train import TextRecipe, TrainedHead, train
from tests.builders.training import HEADS, RECIPE, TEXTS


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
