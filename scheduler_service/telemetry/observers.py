"""Who is told what becomes of requests: spans, metrics, the journal. A fault of theirs hurts no request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from scheduler_service.domain import Allocation, Job, SchedulingError, Usage

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told of every request, in this order: rejected, or allocated and then finished or failed."""

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """A request was not admitted."""
        ...

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """A request got its budget."""
        ...

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """A request ended as it should."""
        ...

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """A request ended otherwise: an error, by its name, or ``cancelled``. ``allocation``: ``None`` before it."""
        ...


class Observers:
    """Tells several; the first fault of each is logged."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        """Tell ``observers``, in their order."""
        self._observers = list(observers)
        self._faulty: set[Observer] = set()

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.rejected(job, error))

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.allocated(job, allocation))

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.finished(job, allocation, usage))

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.failed(job, allocation, reason))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:
                if observer not in self._faulty:
                    self._faulty.add(observer)
                    log.exception("%s fails, requests go on", type(observer).__name__)
