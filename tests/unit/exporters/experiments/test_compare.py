"""Predictors side by side."""

import json

from exporters.experiments.compare import compare
from exporters.experiments.table import Table, save
from exporters.measure.curves import Curves, window_points
from exporters.replay.evaluate import Evaluation, Predicted, evaluate


def test_predictors_stand_side_by_side_with_both_oracles(measured, tmp_path):
    names = [str(n) for n in range(len(measured))]
    curves = Curves.measured(names, names, window_points(16), measured)
    found = evaluate(Predicted(measured), curves, {"name": "m", "version": "1"})
    table = compare({"m": Evaluation.from_json(json.loads(json.dumps(found.as_json())))})
    assert [row[0] for row in table.rows[:1]] == ["m"]
    assert float(table.rows[-1][4]) >= float(table.rows[-2][4]) - 2
    drawn = Table([table.head[0], *table.head[2:]], [[row[0], *row[2:]] for row in table.rows])
    save(drawn.lines(1, "tokens"), tmp_path / "one.svg")
    save(drawn.lines(1, "tokens"), tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    save(Table(["layer", "r"], [["1", "0.5"], ["2", "0.6"]]).columns("layer", "r"), tmp_path / "columns.svg")
    assert "layer" in (tmp_path / "columns.svg").read_text()
