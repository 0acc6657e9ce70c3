"""Which requests are admitted: how many may be in flight, what they may use together, and the refusals beyond it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from scheduler_service.admission.rates import Rate, TenantRates
from scheduler_service.domain import InvalidRequestError, Job, OverloadedError, QuotaExceededError

# When a slot becomes free is not known; by then most queues have moved on.
_RETRY_SECONDS = 1.0


@dataclass
class Admission:
    """Counts the requests in flight. Sums are kept as they come and go, so that refusing is as fast as admitting.

    ``max_in_flight``: requests at once; ``max_in_flight_tokens``: their caps together, and
    ``max_tenant_in_flight``: requests of one tenant, 0 for no limit. ``rates``: how fast tenants may come.
    """

    max_in_flight: int
    max_in_flight_tokens: int = 0
    max_tenant_in_flight: int = 0
    rates: TenantRates = field(default_factory=lambda: TenantRates(Rate(0, 1), Rate(0, 1)))
    _jobs: dict[tuple[str, str], Job] = field(default_factory=dict)
    _cap_tokens: int = 0
    _of_tenant: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Requests in flight."""
        return len(self._jobs)

    def __contains__(self, key: object) -> bool:
        """Whether the request of this ``Job.key`` is in flight."""
        return key in self._jobs

    def enter(self, job: Job, now: float, requests: int = 1) -> None:
        """Let a request in at ``now`` (seconds, of one clock), that counts as so many; ``leave`` must follow.

        Raises InvalidRequestError for an id that is in flight already, OverloadedError where too many are,
        QuotaExceededError where the tenant has its share of it, or comes too fast.
        """
        if job.key in self._jobs:
            raise InvalidRequestError("job.request_id", f"{job.request_id!r} is the id of a request that still runs")
        if len(self._jobs) >= self.max_in_flight:
            raise OverloadedError(
                f"{self.max_in_flight} requests are in flight, the most that are served at once", _RETRY_SECONDS
            )
        if self.max_in_flight_tokens and self._cap_tokens + job.cap_tokens > self.max_in_flight_tokens:
            raise OverloadedError(
                f"requests for {self._cap_tokens} tokens are in flight, too many for one more", _RETRY_SECONDS
            )
        if self.max_tenant_in_flight and (own := self._of_tenant[job.tenant]) >= self.max_tenant_in_flight:
            raise QuotaExceededError(
                job.tenant, f"{own} requests of the tenant are in flight, which is its quota", _RETRY_SECONDS
            )
        if refusal := self.rates.refusal(job.tenant, now, requests):
            raise QuotaExceededError(job.tenant, *refusal)
        self._jobs[job.key] = job
        self._cap_tokens += job.cap_tokens
        self._of_tenant[job.tenant] += 1

    def leave(self, job: Job) -> None:
        """Let a request out. Raises KeyError for one that is not in flight."""
        del self._jobs[job.key]
        self._cap_tokens -= job.cap_tokens
        self._of_tenant[job.tenant] -= 1
        if not self._of_tenant[job.tenant]:
            del self._of_tenant[job.tenant]
