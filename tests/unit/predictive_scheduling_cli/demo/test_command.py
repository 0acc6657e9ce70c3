"""The demo's command, where it shows a load."""

import pytest
from typer.testing import CliRunner

from predictive_scheduling_cli.demo import load_run
from predictive_scheduling_cli.demo.engines import EngineFailedError
from predictive_scheduling_cli.main import app


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [(None, 0, "load.json"), (EngineFailedError("nothing was answered"), 1, "nothing was answered")],
)
def test_a_load_is_shown_and_what_keeps_it_from_being_shown_is_said(monkeypatch, tmp_path, failure, code, said):
    asked = []

    async def run(out, sockets, console, *, telemetry):
        asked.append((out, telemetry))
        if failure:
            raise failure
        return out / "load.json"

    monkeypatch.setattr(load_run, "run_load_demo", run)
    done = CliRunner().invoke(app, ["demo", "--load", "--out", str(tmp_path / "new")])
    assert done.exit_code == code
    assert said in done.output
    assert asked == [(tmp_path / "new", False)]
    assert (tmp_path / "new").is_dir()
