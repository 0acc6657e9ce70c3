"""Better curves from few samples a question: what order and shrinkage make of measured proportions.

All take proportions (n, K): of n questions, at K budget points, each the mean of equally many samples. A proportion at
one point is binomial. How the points of one question hang together is assumed by ``joint`` alone, and helps
``isotonic``: both want points that were sampled independently of each other, and where one trace serves all points,
as in ``collect``, they are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import sampling_variance

Floats = NDArray[np.float64]
_RIDGE = 1e-9  # where neither questions nor chance vary, any weight is right


def isotonic(measured: Floats) -> Floats:
    """The rising curves nearest to ``measured`` (n, K) by least squares: what pooling adjacent violators finds.

    By the max-min formula (Robertson, Wright & Dykstra 1988, Order Restricted Statistical Inference, theorem 1.4.4): at
    point k the largest, over starts i ≤ k, of the smallest mean over i … j, j ≥ k. O(n K²) time, O(n K) memory.
    """
    count = measured.shape[1]
    sums = np.concatenate([np.zeros((len(measured), 1)), np.cumsum(measured, axis=1)], axis=1)
    found = np.full(measured.shape, -np.inf)
    for start in range(count):
        means = (sums[:, start + 1 :] - sums[:, start : start + 1]) / np.arange(1, count - start + 1)
        smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        np.maximum(found[:, start:], smallest, out=found[:, start:])
    np.clip(found, 0, 1, out=found)  # sums of floats may pass 1 by their last digit
    return found


def shrunk(measured: Floats, samples: int, kinds: NDArray[np.generic] | None = None) -> Floats:
    """Posterior means (n, K) under a beta prior at each point, the same for all questions, fitted by moments.

    The beta-binomial model (Kleinman 1973, J. Am. Stat. Assoc. 68:46-54). With N samples, V the variance of a point's
    proportions y over questions, and W = mean(y (1 - y)) / (N - 1) the part of it that is chance, the prior's strength
    is N W / (V - W), and the posterior mean lies N / (N + strength) = 1 - W / V of the way from the mean curve to y.
    One sample does not tell chance from questions: it is returned as it is. ``kinds``: (n,), where each kind of
    question has a prior of its own.
    """
    if samples < 2:
        return measured
    if kinds is not None:
        found = np.empty_like(measured)
        for kind in np.unique(kinds):
            found[kinds == kind] = shrunk(measured[kinds == kind], samples)
        return found
    mean = measured.mean(axis=0)
    variance, chance = measured.var(axis=0), sampling_variance(measured, samples)
    keep = 1 - np.divide(chance, variance, out=np.ones_like(mean), where=variance > chance)
    result: Floats = np.clip(mean + keep * (measured - mean), 0, 1)
    return result


def joint(measured: Floats, samples: int) -> Floats:
    """Best linear predictions (n, K) of each question's curve from all its points, which were sampled independently.

    Multivariate credibility (Bühlmann & Gisler 2005, A Course in Credibility Theory, ch. 7): with S the covariance
    (K, K) of the points over questions and D the diagonal of what is chance, (S - D) S⁻¹ of the distance to the mean
    curve is kept; negative eigenvalues of S - D count as 0. ``shrunk`` is the same without covariances. From one sample
    a point's own variance is not known: the mean covariance with its neighbours stands for it.
    """
    mean = measured.mean(axis=0)
    away = measured - mean
    total = away.T @ away / len(measured)
    if samples > 1:
        chance = np.minimum(sampling_variance(measured, samples), np.diag(total))
    else:
        beside = np.diag(total, 1)
        near = (np.append(beside, beside[-1:]) + np.append(beside[:1], beside)) / 2
        chance = np.clip(np.diag(total) - near, 0, None) if near.size else np.zeros(1)
    values, vectors = np.linalg.eigh(total - np.diag(chance))
    latent = (vectors * np.maximum(values, 0)) @ vectors.T
    weights = np.linalg.solve(latent + np.diag(chance + _RIDGE), latent)
    found: Floats = np.clip(mean + away @ weights, 0, 1)
    return found
