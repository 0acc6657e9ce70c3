"""Observers are told what becomes of requests: spans, metrics, the journal. A failing observer fails no request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from scheduler_service.domain import Allocation, Job, SchedulingError, Usage

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told of every request: ``rejected``, or ``allocated`` and then ``finished`` or ``failed``.

    ``wasted`` may come at any time after the admission, also after the end, and more than once.
    """

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Take note of a request that was not admitted, and why."""
        ...

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Take note of the budget that a request got."""
        ...

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Take note of a request that ended with its answer, and of what it used."""
        ...

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Take note of a request that ended without an answer.

        ``allocation``: ``None`` where it ended before it had one. ``reason``: the error's class name, or ``cancelled``.
        """
        ...

    def wasted(self, job: Job, tokens: int) -> None:
        """Take note of tokens that the engine generated for a call beyond those that were read, as it reports."""
        ...


class Observers:
    """Passes each event on to several observers; what one raises is logged once for each observer, and not raised."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        """Tell ``observers``, in their order."""
        self._observers = list(observers)
        self._faulty: set[Observer] = set()

    def add(self, observer: Observer) -> None:
        """Tell another one from now on."""
        self._observers.append(observer)

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Pass it on to every observer."""
        self._tell(lambda observer: observer.rejected(job, error))

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Pass it on to every observer."""
        self._tell(lambda observer: observer.allocated(job, allocation))

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Pass it on to every observer."""
        self._tell(lambda observer: observer.finished(job, allocation, usage))

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Pass it on to every observer."""
        self._tell(lambda observer: observer.failed(job, allocation, reason))

    def wasted(self, job: Job, tokens: int) -> None:
        """Pass it on to every observer."""
        self._tell(lambda observer: observer.wasted(job, tokens))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:
                if observer not in self._faulty:
                    self._faulty.add(observer)
                    log.exception("%s fails, requests go on", type(observer).__name__)
