"""Settings for all tests."""

from collections import Counter

import grpc.aio
import pytest
from hypothesis import HealthCheck, settings

from predictive_scheduling_cli.demo.services import free_port
from tests.programs import PROGRAMS, not_tested

# Timings vary on shared machines; what matters here are laws.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# Held for the whole session: when the last user of grpc.aio is collected while cancelled calls are still outstanding,
# it joins its poller thread, which waits for them for ever.
grpc.aio.init_grpc_aio()

_SKIPPED = pytest.StashKey[Counter[str]]()


@pytest.fixture
def unused_tcp_port():
    """A port to listen at that no connection takes before, as happens to one that the system gave."""
    return free_port()


@pytest.fixture
def unused_tcp_port_factory():
    """What gives such ports."""
    return free_port


def pytest_configure(config):
    """Begin to count what is skipped."""
    config.stash[_SKIPPED] = Counter()


def pytest_runtest_setup(item):
    """Skip a test that needs a program that is not here."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            if PROGRAMS[name].path is None:
                item.config.stash[_SKIPPED][name] += 1
                pytest.skip(f"needs {name}")


def pytest_terminal_summary(terminalreporter, config):
    """Say what was not tested, and how to change that."""
    if lines := not_tested(config.stash[_SKIPPED]):
        terminalreporter.section("not tested here")
        for line in lines:
            terminalreporter.line(line)
