"""What exact refuses."""

import numpy as np
import pytest

from scheduler_service.allocation import Problem
from scheduler_service.allocation.exact import Exact


def test_exact_refuses_what_would_not_fit_in_memory():
    points = np.arange(16, 257, 16)
    many = Problem(points, np.full((2000, 16), 0.5), np.full(2000, 1), np.full(2000, 256), 400_000)
    with pytest.raises(ValueError, match="use envelope"):
        Exact().allocate(many)
