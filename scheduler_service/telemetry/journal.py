"""What became of the last requests, and the figures of the last minute: for the status page, ``top`` and lookups."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from scheduler_service.domain import Allocation, Job, PredictionOutcome, SchedulingError, Usage
from scheduler_service.recent import Recent

PERIOD_SECONDS = 60.0


@dataclass
class Entry:
    """A request: when it was allocated (the journal's clock), what it was given and used, or why it failed.

    ``wasted_tokens``: what its engine generated beyond what was read; ``None`` where it does not say.
    """

    allocation: Allocation
    at: float
    tenant: str
    prompt: str = ""
    usage: Usage | None = None
    error: str = ""
    wasted_tokens: int | None = None


@dataclass(frozen=True)
class Stage:
    """How long a stage took, in seconds: half of the requests no longer, and all but one in a hundred."""

    name: str
    p50: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """Rates a second and means of the last ``period`` seconds; tokens, seconds, fractions."""

    period: float = PERIOD_SECONDS
    requests_per_second: float = 0.0
    tokens_per_second: float = 0.0
    coverage: float = 0.0
    budget: float = 0.0
    baseline: float = 0.0
    used: float = 0.0
    expected_accuracy: float = 0.0
    baseline_expected_accuracy: float = 0.0
    saved_vs_cap: float = 0.0
    saved_at_equal_accuracy: float = 0.0
    net_benefit: float = 0.0
    net_benefit_at_equal_accuracy: float = 0.0
    negative_net_benefit: float = 0.0
    stages: Sequence[Stage] = ()


@dataclass
class Journal:
    """An observer that remembers the last ``keep`` requests, their prompts only where ``keep_prompts`` says so."""

    keep: int = 2000
    keep_prompts: bool = False
    clock: Callable[[], float] = time.monotonic
    rejections: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    started: float = field(init=False)
    _entries: Recent[Entry] = field(init=False)

    def __post_init__(self) -> None:
        """Note the time of the start."""
        self.started = self.clock()
        self._entries = Recent(self.keep)

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Count the refusal by its kind."""
        self.rejections[type(error).__name__] += 1

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Remember the request; a later request of the same id takes its place."""
        prompt = job.prompt if self.keep_prompts else ""
        self._entries.put(*job.key, Entry(allocation, self.clock(), job.tenant, prompt))

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Remember what the request used."""
        if entry := self._entries.get(*job.key):
            entry.usage = usage

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Count the failure by its reason, and remember the reason with the request."""
        self.failures[reason] += 1
        if allocation is not None and (entry := self._entries.get(*job.key)):
            entry.error = reason

    def wasted(self, job: Job, tokens: int) -> None:
        """Add to what the request's engine generated in vain."""
        if entry := self._entries.get(*job.key):
            entry.wasted_tokens = (entry.wasted_tokens or 0) + tokens

    def find(self, request_id: str, tenant: str | None = None) -> Entry | None:
        """The request of an id, while it is remembered; ``None`` for any tenant's."""
        return self._entries.get(tenant, request_id)

    def recent(self, count: int, tenant: str | None = None) -> list[Entry]:
        """The last requests, the newest first; of one tenant only, where one is given."""
        wanted = (entry for entry in self._entries.newest_first() if tenant is None or entry.tenant == tenant)
        return list(islice(wanted, count))

    def summary(self, period: float = PERIOD_SECONDS) -> Summary:
        """The figures of the last ``period`` seconds, or of the time since the start where that is shorter."""
        now = self.clock()
        newest_first = self._entries.newest_first()
        entries = list(takewhile(lambda entry: now - entry.at <= period, newest_first))
        if len(entries) == self.keep:  # more came than are remembered
            period = now - entries[-1].at
        period = max(1.0, min(period, now - self.started))
        if not entries:
            return Summary(period)
        usages = [entry.usage for entry in entries if entry.usage is not None]
        given = [entry.allocation for entry in entries]
        known = [one for one in given if one.prediction.outcome is PredictionOutcome.FRESH]
        return Summary(
            period=period,
            requests_per_second=len(entries) / period,
            tokens_per_second=sum(usage.reasoning_tokens + usage.answer_tokens for usage in usages) / period,
            coverage=len(known) / len(given),
            budget=_mean(one.budget_tokens for one in given),
            baseline=_mean(one.baseline_tokens for one in given),
            used=_mean(usage.reasoning_tokens for usage in usages),
            expected_accuracy=_mean(one.expected_accuracy for one in known),
            baseline_expected_accuracy=_mean(one.baseline_expected_accuracy for one in known),
            saved_vs_cap=_mean(usage.saved_vs_cap_tokens for usage in usages),
            saved_at_equal_accuracy=_mean(usage.saved_at_equal_accuracy_tokens for usage in usages),
            net_benefit=_mean(usage.net_benefit_seconds for usage in usages),
            net_benefit_at_equal_accuracy=_mean(usage.net_benefit_at_equal_accuracy_seconds for usage in usages),
            negative_net_benefit=_mean(usage.net_benefit_at_equal_accuracy_seconds < 0 for usage in usages),
            stages=_stages(given, usages),
        )


def _stages(given: Sequence[Allocation], usages: Sequence[Usage]) -> list[Stage]:
    times = {
        "prediction": [one.prediction_seconds for one in given],
        "allocation": [one.allocation_seconds for one in given],
        "window_wait": [one.window_wait_seconds for one in given],
        "added": [one.added_seconds for one in given],
        "time_to_first_token": [usage.time_to_first_token_seconds for usage in usages],
        "total": [usage.total_seconds for usage in usages],
    }
    return [Stage(name, _quantile(values, 0.5), _quantile(values, 0.99)) for name, values in times.items() if values]


def _quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
