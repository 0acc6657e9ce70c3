"""What a budget earns: so many tokens a request, a second, or a window. Pure arithmetic; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Income(Protocol):
    """How a budget fills."""

    def of(self, requests: int, seconds: float) -> float:
        """Tokens earned by a window of ``requests`` that closes ``seconds`` after the one before it."""
        ...

    def taken(self) -> None:
        """What ``of`` said was taken."""
        ...


@dataclass(frozen=True)
class PerQuery:
    """A mean budget a request, whatever the rate."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """So much for every request."""
        return requests * self.tokens

    def taken(self) -> None:
        """Nothing to note."""


@dataclass(frozen=True)
class PerSecond:
    """A rate, whatever the number of requests; the bank's limit bounds what an idle hour saves up."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """So much for the time."""
        return seconds * self.tokens

    def taken(self) -> None:
        """Nothing to note."""


@dataclass(frozen=True)
class PerWindow:
    """A fixed budget for every window of requests."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """So much for the window."""
        return self.tokens

    def taken(self) -> None:
        """Nothing to note."""
