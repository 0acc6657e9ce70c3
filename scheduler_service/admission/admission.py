"""Who may come in: the requests in the house, what they may use together, and the refusals of those beyond it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from scheduler_service.admission.rates import Rate, TenantRates
from scheduler_service.domain import InvalidRequestError, Job, OverloadedError, QuotaExceededError

# What the caller of ``generate`` may not know: how long to wait when the house is full.
_RETRY_SECONDS = 1.0


@dataclass
class Admission:
    """The house. Its sums are kept as requests come and go, so that a full one refuses as fast as an empty one admits.

    ``max_pending``: requests in the house at once; ``max_pending_tokens``: their caps together, and
    ``max_tenant_pending``: requests of one tenant, 0 for no limit. ``rates``: how fast tenants may come.
    """

    max_pending: int
    max_pending_tokens: int = 0
    max_tenant_pending: int = 0
    rates: TenantRates = field(default_factory=lambda: TenantRates(Rate(0, 1), Rate(0, 1)))
    _jobs: dict[str, Job] = field(default_factory=dict)
    _cap_tokens: int = 0
    _of_tenant: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Requests in the house."""
        return len(self._jobs)

    def enter(self, job: Job, now: float) -> None:
        """Let a request in at ``now`` (seconds, of one clock); ``leave`` must follow.

        Raises InvalidRequestError for an id that is inside already, OverloadedError where the house is full,
        QuotaExceededError where the tenant has its share of it, or comes too fast.
        """
        if job.request_id in self._jobs:
            raise InvalidRequestError("job.request_id", f"{job.request_id!r} is the id of a request that still runs")
        if len(self._jobs) >= self.max_pending:
            raise OverloadedError(f"{self.max_pending} requests are being served already", _RETRY_SECONDS)
        if self.max_pending_tokens and self._cap_tokens + job.cap_tokens > self.max_pending_tokens:
            raise OverloadedError(f"requests for {self._cap_tokens} tokens are being served already", _RETRY_SECONDS)
        if self.max_tenant_pending and (own := self._of_tenant[job.tenant]) >= self.max_tenant_pending:
            raise QuotaExceededError(job.tenant, f"{own} requests are being served already, its quota", _RETRY_SECONDS)
        if refusal := self.rates.refusal(job.tenant, now):
            raise QuotaExceededError(job.tenant, *refusal)
        self._jobs[job.request_id] = job
        self._cap_tokens += job.cap_tokens
        self._of_tenant[job.tenant] += 1

    def leave(self, request_id: str) -> None:
        """Let a request out. Raises KeyError for one that is not inside."""
        job = self._jobs.pop(request_id)
        self._cap_tokens -= job.cap_tokens
        self._of_tenant[job.tenant] -= 1
        if not self._of_tenant[job.tenant]:
            del self._of_tenant[job.tenant]
