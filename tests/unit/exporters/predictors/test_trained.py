"""What a predictor says of its own error."""

import numpy as np

from exporters.experiments.samples import SHARED, draw
from exporters.measure.curves import Curves, window_points
from exporters.predictors.trained import Calibration


def test_a_predictors_stated_error_does_not_grow_as_samples_get_fewer(truth):
    names = [f"{row}" for row in range(len(truth))]
    predicted = np.clip(truth + np.random.default_rng(1).normal(0, 0.1, (len(truth), 1)), 0, 1)
    own = (predicted - truth).std(axis=0)

    def stated(samples, count):
        measured = draw(truth, samples, np.random.default_rng(0), SHARED)
        counts = None if count is None else np.full(len(names), count)
        curves = Curves.measured(names, names, window_points(16), measured)
        curves = Curves(**{**curves.__dict__, "samples": counts})
        return np.array(Calibration.of(predicted, curves, {}).uncertainty)

    assert np.abs(stated(4, 4) - own).mean() < 0.03
    assert (stated(4, None) > own + 0.05).mean() > 0.7  # a file that does not say: chance counts as error
    assert (stated(1, 1) > own + 0.05).mean() > 0.7  # one sample cannot tell
