"""Traffic of questions whose curves are known, replayed."""

import numpy as np

from exporters.measure.curves import Curves, window_points
from exporters.replay.evaluate import Predicted
from exporters.replay.simulation import Traffic, ask, poisson
from exporters.replay.simulation import simulate as replay

COUNT = 3000


def three_sorts():
    """Curves of 200 questions of three sorts: answered at once, after long reasoning, never."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 17)[None, :]
    needed = np.concatenate([rng.uniform(0, 2, 70), rng.uniform(3, 14, 90), np.full(40, 40.0)])[:, None]
    return 0.9 / (1 + np.exp(-(steps - needed) * 1.5)) + 0.05 * steps / 16  # more never hurts


def known(curves, used=None):
    names = [str(n) for n in range(len(curves))]
    return Curves.measured(names, names, window_points(curves.shape[1]), curves, used)


def simulate(predicted, measured, given, scenario, used=(None, None)):
    """Replay arrays of curves at 16, 32, … tokens; ``used``: predicted and measured use."""
    return replay(Predicted(predicted, used[0]), known(measured, used[1]), given, scenario)


def traffic(curves, times=None, order="shuffled", seed=1):
    rng = np.random.default_rng(seed)
    times = poisson(COUNT, 50, rng) if times is None else times
    return Traffic(times, ask(curves, len(times), order, rng))
