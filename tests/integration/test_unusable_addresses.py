"""A service whose address is taken, or is none, ends with one line that names the setting."""

import socket

import pytest
from typer.testing import CliRunner

from predictive_scheduling_cli.main import app


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


SCHEDULER = ["scheduler", "--backend", "none", "--predictor", "127.0.0.1:1", "--drain-seconds", "0"]
EVERY = [
    (["predictor"], "listen"), (["predictor"], "metrics_listen"), (["predictor"], "health_listen"),
    (SCHEDULER, "listen"), (SCHEDULER, "http_listen"), (SCHEDULER, "status_listen"), (SCHEDULER, "metrics_listen"),
    (SCHEDULER, "ext_proc_listen"), (SCHEDULER, "health_listen"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "setting"), EVERY)
@pytest.mark.parametrize("address", ["taken", "nonsense", "127.0.0.1:99999", "host.invalid:0"])
def test_the_setting_and_the_address_are_named(command, setting, address, taken):
    where = taken if address == "taken" else address
    flags = {"listen": "127.0.0.1:0", setting: where}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = CliRunner().invoke(app, [*command, *words])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    assert f"{setting}: cannot listen at {where}: " in done.output
