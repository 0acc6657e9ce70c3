"""The budget ledger: what may be spent, what is reserved, what was used. Pure arithmetic on reasoning tokens.

A window of n requests is granted n times the mean budget, plus what the bank can lend; its plan reserves at most that.
A request that ends reports what it used; the rest returns to the bank, which later windows may spend. Two sums hold
after every call: ``granted = reserved + used + returned`` and ``0 <= bank <= bank_limit``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LedgerState:
    """A snapshot; all in reasoning tokens since start, except the counts of requests."""

    granted: int
    reserved: int
    used: int
    returned: int
    bank: int
    requests: int
    covered: int


@dataclass
class BudgetLedger:
    """Keeps the account of one token budget.

    ``tokens_per_query``: the mean grant. ``bank_limit``: the most tokens that unspent grants may pile up for later
    windows; 0 lets them lapse.
    """

    tokens_per_query: int
    bank_limit: int = 0
    _reservations: dict[str, int] = field(default_factory=dict)
    _used: int = 0
    _returned: int = 0
    _bank: int = 0
    _requests: int = 0
    _covered: int = 0

    def available(self, requests: int) -> int:
        """Tokens that a window of ``requests`` may reserve now."""
        return requests * self.tokens_per_query + self._bank

    def reserve(self, budgets: dict[str, int], covered: int) -> None:
        """Reserve one window's budgets by request id; what it leaves of its grant and the bank stays in the bank.

        ``covered``: how many of them came from a fresh prediction. Raises ValueError for a budget that is negative, an
        id that is already reserved, or a total above what is available; then nothing changes.
        """
        total = sum(budgets.values())
        if any(tokens < 0 for tokens in budgets.values()):
            raise ValueError("budgets: must not be negative")
        if self._reservations.keys() & budgets.keys():
            raise ValueError("budgets: a request id is already reserved")
        if total > self.available(len(budgets)):
            raise ValueError(f"budgets: {total} tokens are more than the {self.available(len(budgets))} available")
        self._bank = min(self.bank_limit, self.available(len(budgets)) - total)
        self._reservations.update(budgets)
        self._requests += len(budgets)
        self._covered += covered

    def settle(self, request_id: str, used: int) -> int:
        """End a reservation; returns the tokens that it left unused. Using more than was reserved is counted as used.

        Raises KeyError for an id that is not reserved, ValueError for negative use.
        """
        if used < 0:
            raise ValueError("used: must not be negative")
        reserved = self._reservations.pop(request_id)
        returned = max(0, reserved - used)
        self._used += used
        self._returned += returned
        self._bank = min(self.bank_limit, self._bank + returned)
        return returned

    def state(self) -> LedgerState:
        """Return a snapshot of the account."""
        reserved = sum(self._reservations.values())
        granted = reserved + self._used + self._returned
        return LedgerState(granted, reserved, self._used, self._returned, self._bank, self._requests, self._covered)
