"""Curves whose best plan is known."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(3)
    middle, height = rng.uniform(20, 220, 200), rng.uniform(0.2, 1.0, 200)
    return height[:, None] / (1 + np.exp(-(np.arange(16, 257, 16)[None, :] - middle[:, None]) / 12))
