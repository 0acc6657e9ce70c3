"""The page of an evaluation: what is drawn, where half of the samples can judge the other and where not."""

from dataclasses import replace

import numpy as np
import pytest

from exporters.measure.curves import Curves, window_points
from exporters.replay.evaluate import Predicted, evaluate
from exporters.replay.report import overview_figure, write_report


@pytest.mark.parametrize(("samples", "figures", "columns"), [(4, 4, 16), (1, 3, 0)])
def test_a_split_oracle_is_shown_where_samples_can_be_split(tmp_path, samples, figures, columns):
    rng = np.random.default_rng(0)
    curve = np.linspace(0, 1, 16)[None, :] ** rng.uniform(0.3, 3, 60)[:, None]
    names = [str(n) for n in range(60)]
    measured = Curves.measured(names, names, window_points(16), rng.binomial(samples, curve) / samples)
    found = evaluate(Predicted(curve), replace(measured, samples=np.full(60, samples)), {"name": "m", "version": "1"})
    write_report(tmp_path / "e.html", found)
    page = (tmp_path / "e.html").read_text()
    assert page.count("<svg") == figures
    assert page.count("<td></td>") == 16 - columns
    labels = [text.get_text() for text in overview_figure(found).axes[0].get_legend().get_texts()]
    assert labels[0].startswith("oracle")
