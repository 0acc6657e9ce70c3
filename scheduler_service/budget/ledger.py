"""The budget ledger: what may be spent, what is reserved, what was used. Pure arithmetic on reasoning tokens.

A window of n requests is granted what the budget's income says, plus what the bank can lend. It reserves what its
budgets are expected to use, and a request that ends settles what it really used: less than was expected returns to the
bank, more is taken from it. ``granted = reserved + used + returned`` holds after every call.

What N requests use together is bounded whatever the lengths of their reasoning. A reservation takes the bank below
``-overdraft`` only where the budgets' own grant pays for them; a request that ends takes it further only by what its
budget exceeded its expectation by. So they use at most N grants, ``overdraft``, and, of the requests that were in
flight when the overdraft was reached, the budgets less what was expected of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from scheduler_service.budget.income import Income, PerQuery

_ROUNDING = 1e-6


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

    ``tokens_per_query``: what uniform gives. ``bank_limit``: the most tokens that unspent grants may pile up for later
    windows; 0 lets them lapse. ``overdraft``: how far the bank may be below zero (the price policy's burst).
    ``income``: how the budget fills; by default ``tokens_per_query`` a request. ``opening``: what the bank starts with.
    ``now``, below, is any clock's seconds.
    """

    tokens_per_query: int
    bank_limit: int = 0
    overdraft: int = 0
    income: Income | None = None
    opening: int = 0
    _reservations: dict[Hashable, float] = field(default_factory=dict)
    _used: float = 0.0
    _returned: float = 0.0
    _bank: float = 0.0
    _earned_at: float | None = None
    _requests: int = 0
    _covered: int = 0

    def __post_init__(self) -> None:
        """Start with the opening balance, at most the limit."""
        self._income: Income = self.income or PerQuery(self.tokens_per_query)
        self._bank = float(min(self.opening, self.bank_limit))

    @property
    def bank(self) -> float:
        """What the bank holds; negative for a debt."""
        return self._bank

    def grant(self, requests: int, now: float = 0.0) -> float:
        """Tokens that a window of ``requests`` earns if it is reserved now."""
        return self._income.of(requests, 0.0 if self._earned_at is None else max(0.0, now - self._earned_at))

    def available(self, requests: int, now: float = 0.0) -> float:
        """Tokens that a window of ``requests`` may reserve now without a debt."""
        return max(0.0, self.grant(requests, now) + self._bank)

    def reserve(self, budgets: Mapping[Hashable, float], covered: int, now: float = 0.0) -> None:
        """Reserve what one window's budgets are expected to use, by request; what it leaves stays in the bank.

        ``covered``: how many of them came from a fresh prediction. Raises ValueError for a budget that is negative, a
        request that is already reserved, or a total above both its grant and what grant, bank and overdraft allow; then
        nothing changes.
        """
        total = sum(budgets.values())
        if any(tokens < 0 for tokens in budgets.values()):
            raise ValueError("budgets: must not be negative")
        if self._reservations.keys() & budgets.keys():
            raise ValueError("budgets: a request is already reserved")
        grant = self.grant(len(budgets), now)
        open_tokens = grant + self._bank
        if total > max(0.0, grant, open_tokens + self.overdraft) + _ROUNDING:
            raise ValueError(f"budgets: {total:g} tokens are more than the {open_tokens:g} available")
        self._bank = min(float(self.bank_limit), open_tokens - total)
        self._earned_at = now
        self._income.taken()
        self._reservations.update(budgets)
        self._requests += len(budgets)
        self._covered += covered

    def holds(self, request: Hashable) -> bool:
        """Whether a request has a reservation."""
        return request in self._reservations

    def extend(self, request: Hashable, tokens: float) -> bool:
        """Add ``tokens`` of the bank to a running reservation; returns whether the bank could pay for them."""
        if request not in self._reservations or tokens < 0 or tokens > self._bank:
            return False
        self._bank -= tokens
        self._reservations[request] += tokens
        return True

    def settle(self, request: Hashable, used: float) -> float:
        """End a reservation; returns the tokens that it left unused. What was used beyond it is taken from the bank.

        Raises KeyError for one that is not reserved, ValueError for negative use.
        """
        if used < 0:
            raise ValueError("used: must not be negative")
        left = self._reservations.pop(request) - used
        returned = max(0.0, left)
        self._used += used
        self._returned += returned
        self._bank = min(float(self.bank_limit), self._bank + left)
        return returned

    def state(self) -> LedgerState:
        """Return a snapshot of the account; any thread may ask."""
        # The reservations at once: metrics are read from another thread.
        reserved, used, returned = (
            round(tokens) for tokens in (sum(list(self._reservations.values())), self._used, self._returned)
        )
        granted = reserved + used + returned
        return LedgerState(granted, reserved, used, returned, int(self._bank), self._requests, self._covered)
