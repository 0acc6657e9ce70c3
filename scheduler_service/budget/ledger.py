"""The budget ledger: what may be spent, what is reserved, what was used. Pure arithmetic on reasoning tokens.

A window of n requests is granted what the budget's income says, plus what the bank can lend; its plan reserves at most
that. A request that ends reports what it used; the rest returns to the bank, which later windows may spend. Two sums
hold after every call: ``granted = reserved + used + returned`` and ``-overdraft <= bank <= bank_limit``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_service.budget.income import Income, PerQuery


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
    _reservations: dict[str, int] = field(default_factory=dict)
    _used: int = 0
    _returned: int = 0
    _bank: float = 0.0
    _earned_at: float | None = None
    _requests: int = 0
    _covered: int = 0

    def __post_init__(self) -> None:
        """Open the account."""
        self._income: Income = self.income or PerQuery(self.tokens_per_query)
        self._bank = float(min(self.opening, self.bank_limit))

    @property
    def bank(self) -> float:
        """What the bank holds; negative for a debt."""
        return self._bank

    def grant(self, requests: int, now: float = 0.0) -> float:
        """Tokens that a window of ``requests`` earns if it is reserved now."""
        return self._income.of(requests, 0.0 if self._earned_at is None else max(0.0, now - self._earned_at))

    def available(self, requests: int, now: float = 0.0) -> int:
        """Tokens that a window of ``requests`` may reserve now without a debt."""
        return max(0, int(self.grant(requests, now) + self._bank))

    def reserve(self, budgets: dict[str, int], covered: int, now: float = 0.0) -> None:
        """Reserve one window's budgets by request id; what it leaves of its grant and the bank stays in the bank.

        ``covered``: how many of them came from a fresh prediction. Raises ValueError for a budget that is negative, an
        id that is already reserved, or a total above what is available and the overdraft; then nothing changes.
        """
        total = sum(budgets.values())
        if any(tokens < 0 for tokens in budgets.values()):
            raise ValueError("budgets: must not be negative")
        if self._reservations.keys() & budgets.keys():
            raise ValueError("budgets: a request id is already reserved")
        open_tokens = self.grant(len(budgets), now) + self._bank
        if total > max(0.0, open_tokens + self.overdraft):
            raise ValueError(f"budgets: {total} tokens are more than the {int(open_tokens)} available")
        self._bank = min(float(self.bank_limit), open_tokens - total)
        self._earned_at = now
        self._income.taken()
        self._reservations.update(budgets)
        self._requests += len(budgets)
        self._covered += covered

    def extend(self, request_id: str, tokens: int) -> bool:
        """Add ``tokens`` of the bank to a running reservation; returns whether the bank could pay for them."""
        if request_id not in self._reservations or tokens < 0 or tokens > self._bank:
            return False
        self._bank -= tokens
        self._reservations[request_id] += tokens
        return True

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
        self._bank = min(float(self.bank_limit), self._bank + returned)
        return returned

    def state(self) -> LedgerState:
        """Return a snapshot of the account."""
        reserved = sum(list(self._reservations.values()))  # at once: metrics are read from another thread
        granted = reserved + self._used + self._returned
        return LedgerState(
            granted, reserved, self._used, self._returned, int(self._bank), self._requests, self._covered
        )
