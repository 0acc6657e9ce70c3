"""The simulation's page."""

import pytest

from exporters.replay.evaluate import Predicted
from exporters.replay.simulation import Scenario
from exporters.replay.simulation_report import write_report
from tests.builders.simulating import known, simulate, three_sorts, traffic


@pytest.fixture(scope="module")
def curves():
    return three_sorts()


def test_the_page_has_its_three_plots(curves, tmp_path, monkeypatch):
    monkeypatch.setattr("exporters.replay.simulation_report._SWEEP_REQUESTS", 300)
    result = simulate(curves, curves, traffic(curves), Scenario())
    write_report(tmp_path / "page.html", Predicted(curves), known(curves), Scenario(), result)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 3
    assert "points over uniform" in text
