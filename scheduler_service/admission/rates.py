"""Rate limits of tenants: requests and generated tokens a second, each by a token bucket."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST_TENANTS = 100_000


@dataclass
class _Bucket:
    """``left``: units that may still be used. ``at``: when that was computed, in seconds."""

    left: float
    at: float


class Rate:
    """At most ``per_second`` units a second for each tenant, and ``burst_seconds`` worth of them at once.

    A bucket holds at least one unit. What something costs may be known only afterwards, so a bucket may be overdrawn;
    the tenant then waits until it holds enough again. Beyond 100,000 tenants the one that has been away longest is
    forgotten, and starts with a full bucket when it comes back.
    """

    def __init__(self, per_second: float, burst_seconds: float) -> None:
        """Start with full buckets. ``per_second`` of 0 allows everything."""
        self.per_second = per_second
        self._most = max(1.0, per_second * burst_seconds)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, tenant: str, need: float, now: float) -> float:
        """How long the tenant has to wait until its bucket holds ``need``; 0 for not at all. Seconds of one clock."""
        if not self.per_second or tenant not in self._buckets:
            return 0.0
        return max(0.0, need - self._bucket(tenant, now).left) / self.per_second

    def charge(self, tenant: str, amount: float, now: float) -> None:
        """Take ``amount`` from the tenant's bucket."""
        if self.per_second:
            self._bucket(tenant, now).left -= amount

    def _bucket(self, tenant: str, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(tenant, _Bucket(self._most, now))
        bucket.left = min(self._most, bucket.left + (now - bucket.at) * self.per_second)
        bucket.at = now
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > _MOST_TENANTS:  # the one that has been away longest has the fullest bucket
            self._buckets.popitem(last=False)
        return bucket

    def __len__(self) -> int:
        """How many tenants are remembered."""
        return len(self._buckets)


@dataclass
class TenantRates:
    """The two rates of a scheduler, and what they say of a request."""

    requests: Rate
    tokens: Rate

    def refusal(self, tenant: str, now: float, requests: int = 1) -> tuple[str, float] | None:
        """What the tenant is beyond, and for how many seconds; ``None`` where it may come, which is charged.

        ``requests``: as how many it counts; more than one may overdraw the bucket.
        """
        # What a request generates is known once it has: the next one comes when that is paid.
        for rate, need, unit in ((self.requests, 1.0, "requests"), (self.tokens, 0.0, "tokens")):
            if wait := rate.wait_seconds(tenant, need, now):
                return f"more than its {rate.per_second:g} {unit} a second", wait
        self.requests.charge(tenant, float(requests), now)
        return None
