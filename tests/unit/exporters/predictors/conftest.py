"""Questions that can be learnt."""

import numpy as np
import pytest

from exporters.measure.curves import Curves, window_points
from tests.builders.training import TEXTS


@pytest.fixture(scope="module")
def learnable():
    """Questions whose needed tokens follow from their text, and from the first component of their hidden state."""
    needed = np.array([len(text) % 40 for text in TEXTS])
    accuracy = (np.arange(1, 17)[None, :] * 2.5 > needed[:, None]).astype(float)
    hidden = np.random.default_rng(0).normal(size=(len(TEXTS), 6)).astype(np.float32)
    hidden[:, 0] = needed / 10
    return Curves.measured(TEXTS, TEXTS, window_points(accuracy.shape[1]), accuracy), hidden
