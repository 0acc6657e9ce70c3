"""The queue before a model: what runs as the next batch. Pure: the time is an argument, nothing waits here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """Something that waits: a group of queries of one call."""

    @property
    def size(self) -> int:
        """How many queries it holds, at least 1."""
        ...

    @property
    def abandoned(self) -> bool:
        """Whether its call has been cancelled or has ended."""
        ...


E = TypeVar("E", bound=Entry)


@dataclass
class BatchQueue(Generic[E]):
    """First in, first out; batches of at most ``max_batch`` queries; no entry waits longer than ``max_delay`` seconds.

    ``max_queries`` bounds what may wait.
    """

    max_batch: int
    max_delay: float
    max_queries: int
    _entries: deque[tuple[float, E]] = field(default_factory=deque)
    _queries: int = 0

    def __len__(self) -> int:
        """How many queries wait."""
        return self._queries

    def offer(self, entries: list[E], now: float) -> bool:
        """Queue all ``entries`` of one call; returns False, queueing none, where they do not fit."""
        size = sum(entry.size for entry in entries)
        if self._queries + size > self.max_queries:
            return False
        self._entries.extend((now, entry) for entry in entries)
        self._queries += size
        return True

    def due_at(self) -> float | None:
        """When the next batch should run: at once (0) if it is full, else when its oldest entry has waited enough."""
        self._drop_abandoned_head()
        if not self._entries:
            return None
        if self._queries >= self.max_batch:
            return 0.0
        return self._entries[0][0] + self.max_delay

    def take(self) -> list[tuple[float, E]]:
        """Return the next batch with the times its entries came in; abandoned entries are dropped on the way."""
        batch: list[tuple[float, E]] = []
        size = 0
        while self._entries:
            came, entry = self._entries[0]
            if not entry.abandoned and batch and size + entry.size > self.max_batch:
                break
            self._entries.popleft()
            self._queries -= entry.size
            if not entry.abandoned:
                batch.append((came, entry))
                size += entry.size
        return batch

    def _drop_abandoned_head(self) -> None:
        while self._entries and self._entries[0][1].abandoned:
            self._queries -= self._entries.popleft()[1].size
