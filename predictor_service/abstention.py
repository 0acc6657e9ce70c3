"""Which predictions a model does not stand by, and why. Pure."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray


class Abstention(enum.IntEnum):
    """Why a prediction is not one; ``NONE`` for one that is. The order is that of the proto's ``AbstainReason``."""

    NONE = 0
    UNFAMILIAR = 1
    NOT_FINITE = 2


def abstentions(
    curves: NDArray[np.float32],
    used: NDArray[np.float32] | None,
    unfamiliarity: NDArray[np.float32] | None,
    most_unfamiliarity: float | None,
) -> NDArray[np.int8]:
    """For each query an ``Abstention`` (n,): of curves and use (n, K), and how far it lies from training (n,).

    A distance that is no number is no small one.
    """
    found = np.zeros(len(curves), np.int8)
    if unfamiliarity is not None and most_unfamiliarity is not None:
        found[~(unfamiliarity <= most_unfamiliarity)] = Abstention.UNFAMILIAR
    finite = np.isfinite(curves).all(axis=1)
    if used is not None:
        finite &= np.isfinite(used).all(axis=1)
    found[~finite] = Abstention.NOT_FINITE
    return found
