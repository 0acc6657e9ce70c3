"""What a budget earns: so many tokens a request, a second, or a window. Pure arithmetic; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Income(Protocol):
    """How a budget fills: asked for the tokens earned, and told when they were taken."""

    def of(self, requests: int, seconds: float) -> float:
        """Tokens earned by a window of ``requests`` that closes ``seconds`` after the one before it."""
        ...

    def taken(self) -> None:
        """Take note that the tokens of the last ``of`` were added to the bank."""
        ...


@dataclass(frozen=True)
class PerQuery:
    """A mean budget a request, whatever the rate."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """Return the tokens of ``requests``; the time does not matter."""
        return requests * self.tokens

    def taken(self) -> None:
        """Ignore it: each request earns anew."""


@dataclass
class Controlled:
    """A mean budget a request that follows the load: whoever controls it sets ``tokens``."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """Return the tokens of ``requests`` at the present mean; the time does not matter."""
        return requests * self.tokens

    def taken(self) -> None:
        """Ignore it: each request earns anew."""


@dataclass(frozen=True)
class PerSecond:
    """A rate, whatever the number of requests; the bank's limit bounds what an idle hour saves up."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """Return the tokens of ``seconds``; the number of requests does not matter."""
        return seconds * self.tokens

    def taken(self) -> None:
        """Ignore it: the ledger keeps the time."""


@dataclass(frozen=True)
class PerWindow:
    """A fixed budget for every window of requests."""

    tokens: float

    def of(self, requests: int, seconds: float) -> float:
        """Return the tokens of one window, whatever its requests and time."""
        return self.tokens

    def taken(self) -> None:
        """Ignore it: each window earns anew."""
