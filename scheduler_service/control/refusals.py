"""Which requests go when not even the least budgets fit: those of the least value, and no more than must."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

_REMEMBERED = 256


class LeastValuable:
    """Refuses a share of the requests by their value, compared to those of the last requests.

    The value of a request is its weight times its expected accuracy per token of its least budget. Equal values are
    refused in the same proportion, evenly spread, so that the share holds whatever the values are.
    """

    def __init__(self) -> None:
        """Start without a past: nothing is refused before there is something to compare with."""
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self._owed = 0.0

    def admits(self, value: float, share: float) -> bool:
        """Whether a request of this ``value`` comes in while a ``share`` of all, 0 to 1, must be refused."""
        below, upto = bisect_left(self._sorted, value), bisect_right(self._sorted, value)
        count = len(self._sorted)
        self._remember(value)
        if share <= 0 or not count:
            return True
        if share >= 1:
            return False
        of_equals = (share * (count + 1) - below) / (upto - below + 1)  # itself among them
        if not 0 < of_equals < 1:
            return of_equals <= 0
        self._owed += of_equals
        if self._owed < 1:
            return True
        self._owed -= 1
        return False

    def _remember(self, value: float) -> None:
        self._last.append(value)
        insort(self._sorted, value)
        if len(self._last) > _REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]
