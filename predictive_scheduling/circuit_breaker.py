"""Leaving alone what keeps failing, for ever longer, and trying it again by one call. Pure; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CircuitBreaker:
    """Opens after ``failures`` in a row; after a rest one call may try, and each time it fails the rest is doubled.

    Calls that were under way when it opened may fail, too: that many fail at once says nothing about how long.
    """

    failures: int = 5
    rest_seconds: float = 1.0
    longest_rest_seconds: float = 30.0
    in_a_row: int = 0
    _rests: int = 0
    _rests_until: float = 0.0
    _trying: bool = False

    def resting(self, now: float) -> bool:
        """Whether the one behind it is left alone at ``now``."""
        return self.in_a_row >= self.failures and now < self._rests_until

    def allows(self, now: float) -> bool:
        """Whether to call now. The call that is allowed after a rest is the only one until it has ended."""
        if self.resting(now):
            return False
        if self.in_a_row >= self.failures:
            self._trying = True  # the others go on resting while this one tries
            self._rests_until = now + self._rest()
        return True

    def failed(self, now: float) -> None:
        """Note a failed call; enough of them in a row begin a rest."""
        self.in_a_row += 1
        if self.in_a_row < self.failures or (self.resting(now) and not self._trying):
            return
        self._trying = False
        self._rests += 1
        self._rests_until = now + self._rest()

    def answered(self) -> None:
        """Note an answered call: failures are counted from 0 again."""
        self.in_a_row, self._rests, self._trying = 0, 0, False

    def _rest(self) -> float:
        doubled: float = self.rest_seconds * 2 ** min(10, max(0, self._rests - 1))
        return min(self.longest_rest_seconds, doubled)
