"""An ensemble's curves are shrunk as far as they are noise."""

import numpy as np
import pytest

from exporters.predictors.ensemble import best_shrinkage


def test_noise_is_shrunk_to_the_mean_curve():
    rng = np.random.default_rng(0)
    mean = np.full(16, 0.5, np.float32)
    measured = rng.random((400, 16), dtype=np.float32)
    assert best_shrinkage(rng.random((400, 16), dtype=np.float32), measured, mean) < 0.1
    assert best_shrinkage(measured, measured, mean) == pytest.approx(1.0)
    assert best_shrinkage(np.tile(mean, (400, 1)), measured, mean) == 0.0
