"""Observers are all told, and a fault of one hurts neither the others nor the request."""

import pytest

from scheduler_service.domain import OverloadedError
from scheduler_service.telemetry.observers import Observers
from tests.builders.jobs import JOB, given, used


class Notes:
    """Notes what it is told; fails afterwards where it is broken."""

    def __init__(self, *, broken=False):
        self.told, self.broken = [], broken

    def __getattr__(self, name):
        if name not in ("rejected", "allocated", "finished", "failed"):
            raise AttributeError(name)

        def note(*what):
            self.told.append((name, *what))
            if self.broken:
                raise RuntimeError("broken")

        return note


EVENTS = [
    ("rejected", JOB, OverloadedError("full", 1.0)),
    ("allocated", JOB, given()),
    ("finished", JOB, given(), used()),
    ("failed", JOB, None, "cancelled"),
]


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, *what in EVENTS])
def test_each_is_told_everything_though_the_first_is_broken(name, what, caplog):
    broken, sound = Notes(broken=True), Notes()
    getattr(Observers([broken, sound]), name)(*what)
    assert broken.told == sound.told == [(name, *what)]


def test_the_first_fault_of_each_is_logged_and_no_other(caplog):
    observers = Observers([Notes(broken=True), Notes(), Notes(broken=True)])
    for _ in range(3):
        observers.allocated(JOB, given())
    assert caplog.messages == ["Notes fails, requests go on"] * 2
    assert all(record.exc_info for record in caplog.records)
