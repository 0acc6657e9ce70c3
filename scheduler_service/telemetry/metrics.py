"""What the scheduler measures, by OpenTelemetry. Each instrument is described in docs/metrics.md, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from predictive_scheduling import semconv
from predictive_scheduling.plain_counter import PlainCounter
from scheduler_service.admission.admission import Admission
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.control.controller import Decision
from scheduler_service.control.objectives import Objective
from scheduler_service.domain import Allocation, FinishReason, Job, SchedulingError, Usage
from scheduler_service.prediction.outcomes import OutcomeBook
from scheduler_service.prediction.reliability import Reliability

_STAGE_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0,
)  # fmt: skip
_TOKEN_BUCKETS = (
    0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072,
)  # fmt: skip
_WASTED_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 1024)
_WINDOW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
OTHER = "other"

_Read = Callable[[], float]
_ReadAll = Callable[[], Iterable[Observation]]


class BusyEndpoint(Protocol):
    """An endpoint of the backend: calls that run on it, and failures in a row."""

    outstanding: int

    @property
    def failures(self) -> int:
        """How many calls to it failed since the last one that succeeded."""
        ...


@dataclass(frozen=True)
class Watched:
    """The parts of a scheduler whose state is measured. ``price``: reads the price for display.

    ``endpoints``: those of its backend, in the order of their addresses.
    """

    admission: Admission
    ledger: BudgetLedger
    outcomes: OutcomeBook
    price: Callable[[], float]
    seconds_per_token: Callable[[], float]
    endpoints: Iterable[BusyEndpoint] = ()


class Tenants:
    """Names of tenants as a label: the first ``most`` keep their own, all later ones share one."""

    def __init__(self, most: int) -> None:
        """Give ``most`` tenants a label of their own."""
        self._most = most
        self._known: set[str] = set()

    def label(self, tenant: str) -> str:
        """Return the label of a tenant."""
        if tenant not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(tenant)
        return tenant


class HeldObjectives(Protocol):
    """Latency objectives, how they are held, and what is decided for them."""

    @property
    def objectives(self) -> Sequence[Objective]:
        """What is promised."""
        ...

    @property
    def decision(self) -> Decision:
        """What holds now."""
        ...

    def measured(self, objective: Objective) -> float:
        """The objective's quantile of the last requests, in seconds."""
        ...


class MetricsObserver:
    """An observer that measures every request. ``tenants``: how many of them have a label of their own."""

    def __init__(self, meters: metrics.MeterProvider, model: str, backend: str, *, tenants: int = 50) -> None:
        """Create the instruments with ``meters``."""
        self._meter = meters.get_meter("scheduler_service")
        self._tenants = Tenants(tenants)
        self._gen_ai = {
            semconv.GEN_AI_OPERATION: "text_completion",
            semconv.GEN_AI_PROVIDER: backend,
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
        own = semconv.OWN
        self._requests = self._counter("requests", "{request}", "Requests that ended, by how")
        self._rejected = self._counter("requests.rejected", "{request}", "Requests that were not admitted, by why")
        self._predictions = self._counter(
            "predictions", "{request}", "Allocated requests, by where the curve came from"
        )
        self._limits = self._counter("budget.limits", "{request}", "Allocated requests, by what limited the budget")
        self._tokens = self._counter("tokens", "{token}", "Tokens, by kind: prompt, reasoning, answer")
        self._given = self._counter("budget.given", "{token}", "Reasoning tokens reserved in the ledger")
        self._baseline = self._counter(
            "budget.baseline", "{token}", "Reasoning tokens that uniform would have reserved"
        )
        self._saved_vs_cap = self._counter("saved_vs_cap", "{token}", "Tokens saved against the cap")
        self._saved_equal = self._counter(
            "saved_at_equal_accuracy", "{token}", "Tokens saved at equal expected accuracy"
        )
        self._expected = self._counter(
            "expected_correct", "{request}", "Sum of expected accuracies of predicted requests"
        )
        self._baseline_expected = self._counter(
            "baseline_expected_correct", "{request}", "The same sum, had uniform allocated"
        )
        self._gained = self._counter("time_saved", "s", "Time saved by fewer tokens, by what it is held against")
        self._cost = self._counter("time_added", "s", "Time that prediction, allocation and windows added")
        self._benefit = self._counter("net_benefit.requests", "{request}", "Requests by the sign of their net benefit")
        for against, sign in product(("cap", "equal_accuracy"), ("negative", "positive")):
            self._benefit.add(0, {"against": against, "sign": sign})  # a ratio needs both, also where one never comes
        self._prediction = self._seconds("prediction.duration", "Time of the prediction call")
        self._allocation = self._seconds("allocation.duration", "Time of the allocation arithmetic")
        self._wait = self._seconds("window.wait", "Time from admission to the closing of the window")
        self._added = self._seconds("added_latency", "Prediction, allocation and window wait together")
        self._size = self._histogram(own + "window.size", "{request}", "Requests allocated together", _WINDOW_BUCKETS)
        self._budget = self._histogram(own + "budget", "{token}", "Reasoning budget of a request", _TOKEN_BUCKETS)
        self._used = self._histogram(own + "used", "{token}", "Reasoning tokens that a request used", _TOKEN_BUCKETS)
        self._passed = self._counter("gateway.requests", "{request}", "Requests at a gateway, by what became of them")
        self._told = self._counter(
            "gateway.told", "{request}", "What access logs told of requests, by what became of it"
        )
        self._wasted = self._histogram(
            own + "wasted",
            "{token}",
            "Tokens that an engine generated for a call beyond those that were read, where it reports them",
            _WASTED_BUCKETS,
        )
        self._first_token = self._histogram(
            own + "time_to_first_token",
            "s",
            "Time from admission to the first token",
            semconv.GEN_AI_FIRST_TOKEN_BUCKETS,
        )
        self._operation = self._histogram(
            "gen_ai.client.operation.duration", "s", "Duration of a generation", semconv.GEN_AI_DURATION_BUCKETS
        )
        self._usage = self._histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a generation, by type", semconv.GEN_AI_TOKEN_BUCKETS
        )

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Count the refusal by its kind."""
        reason = type(error).__name__.removesuffix("Error")
        self._rejected.add(1, {"reason": reason, "tenant": self._tenants.label(job.tenant)})

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Record the budget, what it is expected to use, and how long it took to find it."""
        outcome, policy = {"outcome": allocation.prediction.outcome.value}, {"policy": allocation.policy}
        self._predictions.add(1, {**outcome, "predictor": allocation.prediction.predictor})
        self._limits.add(1, {"limited_by": allocation.limited_by.value})
        self._given.add(allocation.expected_tokens, policy)
        self._baseline.add(allocation.baseline_tokens, policy)
        self._expected.add(allocation.expected_accuracy)
        self._baseline_expected.add(allocation.baseline_expected_accuracy)
        self._prediction.record(allocation.prediction_seconds, outcome)
        self._allocation.record(allocation.allocation_seconds, policy)
        self._wait.record(allocation.window_wait_seconds, policy)
        self._added.record(allocation.added_seconds, policy)
        self._size.record(allocation.window_size, policy)
        self._budget.record(allocation.budget_tokens, policy)

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Record tokens used and saved, and how long it took."""
        tenant = self._tenants.label(job.tenant)
        forced = usage.finish_reason is not FinishReason.NATURAL
        self._requests.add(1, {"result": "forced" if forced else "natural", "tenant": tenant})
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("answer", usage.answer_tokens),
        ):
            self._tokens.add(count, {"kind": kind, "tenant": tenant})
        self._used.record(usage.reasoning_tokens)
        self._saved_vs_cap.add(max(0, usage.saved_vs_cap_tokens))
        self._saved_equal.add(max(0.0, usage.saved_at_equal_accuracy_tokens))
        added = allocation.added_seconds
        self._cost.add(added)
        for against, benefit in (
            ("cap", usage.net_benefit_seconds),
            ("equal_accuracy", usage.net_benefit_at_equal_accuracy_seconds),
        ):
            self._gained.add(max(0.0, benefit + added), {"against": against})
            self._benefit.add(1, {"against": against, "sign": "negative" if benefit < 0 else "positive"})
        self._first_token.record(usage.time_to_first_token_seconds)
        self._operation.record(usage.total_seconds, self._gen_ai)
        written = usage.reasoning_tokens + usage.answer_tokens
        for kind, count in (("input", usage.prompt_tokens), ("output", written)):
            self._usage.record(count, {**self._gen_ai, semconv.GEN_AI_TOKEN_TYPE: kind})

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Count the failure by its reason."""
        self._requests.add(1, {"result": reason.removesuffix("Error"), "tenant": self._tenants.label(job.tenant)})

    def wasted(self, job: Job, tokens: int) -> None:
        """Record how many tokens a call's engine generated in vain."""
        self._wasted.record(tokens)

    def passed(self, outcome: str) -> None:
        """Count a request at a gateway: decided, refused, or why it passed as it was."""
        self._passed.add(1, {"outcome": outcome})

    def told(self, outcome: str, requests: int = 1) -> None:
        """Count what an access log told of requests: settled, forwarded to who decided, or why it settles nothing."""
        self._told.add(requests, {"outcome": outcome})

    def watch(self, state: Watched) -> None:
        """Observe a scheduler's state whenever metrics are collected."""
        known, ledger, admission = list(state.endpoints), state.ledger, state.admission
        self._gauge("in_flight", "{request}", "Requests in flight", lambda: len(admission))
        self._gauge("in_flight.limit", "{request}", "Most requests in flight", lambda: admission.max_in_flight)
        # The older names, for one release.
        self._gauge("pending", "{request}", "Deprecated: in_flight", lambda: len(admission))
        self._gauge("pending.limit", "{request}", "Deprecated: in_flight.limit", lambda: admission.max_in_flight)
        self._gauge("bank", "{token}", "Unspent tokens; negative for a debt", lambda: ledger.state().bank)
        self._gauge("bank.limit", "{token}", "The most that the bank keeps", lambda: ledger.bank_limit)
        self._gauge("reserved", "{token}", "Tokens reserved by running requests", lambda: ledger.state().reserved)
        self._total("granted", "{token}", "Tokens granted", lambda: [Observation(ledger.state().granted)])
        self._total("spent", "{token}", "Tokens used", lambda: [Observation(ledger.state().used)])
        self._gauge("tokens_per_query", "{token}", "The mean budget", lambda: ledger.tokens_per_query)
        self._gauge(
            "price",
            "1",
            "Expected accuracy per token below which nothing is bought",
            state.price,
        )
        self._gauge("token.duration", "s", "The backend's time per token", state.seconds_per_token)

        def predictors(read: Callable[[Reliability], float]) -> _ReadAll:
            return lambda: _by_predictor(state.outcomes, read)

        def backends(read: Callable[[BusyEndpoint], float]) -> _ReadAll:
            return lambda: _by_endpoint(known, read)

        error, slope = predictors(lambda one: one.recent_error), predictors(lambda one: one.slope)
        self._observe("calibration.error", "1", "Mean predicted accuracy less mean score, of the last outcomes", error)
        self._observe("reliability", "1", "Share of predicted differences that is real", slope)
        outcomes, drifts = predictors(lambda one: one.outcomes), predictors(lambda one: one.drifts)
        self._total("outcomes", "{request}", "Outcomes reported", outcomes)
        self._total("drifts", "{drift}", "Times that outcomes no longer fit predictions", drifts)
        outstanding, failures = backends(lambda one: one.outstanding), backends(lambda one: one.failures)
        self._observe("endpoint.outstanding", "{call}", "Calls that run on an endpoint", outstanding)
        self._observe("endpoint.failures", "{call}", "Failures of an endpoint in a row", failures)

    def watch_objectives(self, held: HeldObjectives) -> None:
        """Observe latency objectives, and what is given up for them, whenever metrics are collected."""

        def each(read: Callable[[Objective], float]) -> _ReadAll:
            return lambda: [Observation(read(one), {"objective": str(one)}) for one in held.objectives]

        self._observe("objective", "s", "What is promised", each(lambda one: one.seconds))
        self._observe("objective.measured", "s", "The promised quantile, of the last requests", each(held.measured))
        self._gauge("mean_budget", "{token}", "The mean budget now", lambda: held.decision.mean)
        self._gauge("load", "1", "What the largest mean budget would take of the fleet", lambda: held.decision.load)
        self._gauge("refused.share", "1", "Requests that must be refused now", lambda: held.decision.refuse)

    def _counter(self, name: str, unit: str, description: str) -> PlainCounter:
        return PlainCounter(self._meter, semconv.OWN + name, unit, description)

    def _histogram(self, name: str, unit: str, description: str, buckets: Iterable[float]) -> metrics.Histogram:
        return self._meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=[float(bound) for bound in buckets]
        )

    def _seconds(self, name: str, description: str) -> metrics.Histogram:
        return self._histogram(semconv.OWN + name, "s", description, _STAGE_BUCKETS)

    def _gauge(self, name: str, unit: str, description: str, read: _Read) -> None:
        self._observe(name, unit, description, lambda: [Observation(read())])

    def _total(self, name: str, unit: str, description: str, read: _ReadAll) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return read()

        self._meter.create_observable_counter(semconv.OWN + name, [observe], unit, description)

    def _observe(self, name: str, unit: str, description: str, read: _ReadAll) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return read()

        self._meter.create_observable_gauge(semconv.OWN + name, [observe], unit, description)


def _by_predictor(outcomes: OutcomeBook, read: Callable[[Reliability], float]) -> Iterator[Observation]:
    """What is known of each predictor's outcomes."""
    for name, known in list(outcomes.known.items()):
        yield Observation(read(known), {"predictor": name})


def _by_endpoint(endpoints: Sequence[BusyEndpoint], read: Callable[[BusyEndpoint], float]) -> Iterator[Observation]:
    """The state of each endpoint."""
    for at, endpoint in enumerate(endpoints):
        yield Observation(read(endpoint), {"endpoint": str(at)})
