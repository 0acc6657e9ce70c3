"""The request window: which requests are allocated together. Pure: the time is an argument, nothing waits here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class RequestWindow(Generic[Item]):
    """Gathers items until ``max_size`` are in or the oldest is ``max_age_seconds`` old; then it gives them up.

    A window closes at once where waiting would bring no company: ``adaptive`` windows do while, at the rate at which
    items came lately, less than one more is expected within the age. Items leave in order of priority (higher first),
    then of arrival, so that a plan and its dispatch are deterministic.
    """

    max_size: int
    max_age_seconds: float
    adaptive: bool = False
    _items: list[tuple[int, Item]] = field(default_factory=list)
    _opened_at: float = 0.0
    _came_at: float | None = None
    _gap: float = math.inf

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._items)

    def add(self, item: Item, now: float, priority: int = 0) -> list[Item]:
        """Add an item; returns the window's items if this closes it, else an empty list."""
        self._learn_rate(now)
        if not self._items:
            self._opened_at = now
        self._items.append((priority, item))
        lonely = self.adaptive and self._gap > self.max_age_seconds
        return self.close() if lonely or len(self._items) >= self.max_size else []

    def _learn_rate(self, now: float) -> None:
        """Keep the mean time between items: an average over about four of them, long pauses cut."""
        if self._came_at is not None:
            gap = min(now - self._came_at, 4 * self.max_age_seconds)
            self._gap = gap if math.isinf(self._gap) else self._gap + (gap - self._gap) / 4
        self._came_at = now

    def remove(self, item: Item) -> bool:
        """Drop an abandoned item; returns whether it was still waiting."""
        kept = [entry for entry in self._items if entry[1] is not item]
        removed = len(kept) < len(self._items)
        self._items = kept
        return removed

    def due_at(self) -> float | None:
        """When the window closes by age; ``None`` while it is empty."""
        return self._opened_at + self.max_age_seconds if self._items else None

    def close_if_due(self, now: float) -> list[Item]:
        """Return the window's items if its age closes it, else an empty list."""
        due = self.due_at()
        return self.close() if due is not None and now >= due else []

    def close(self) -> list[Item]:
        """Give up all items, the most urgent first."""
        items = [item for _, item in sorted(self._items, key=lambda entry: -entry[0])]
        self._items = []
        return items
