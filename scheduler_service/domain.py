"""The scheduler's vocabulary: frozen values that every layer uses, free of protobuf, clocks and I/O."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from scheduler_service.allocation.curve import Curve


class SchedulingError(Exception):
    """A request cannot be served; the servicer translates it to a gRPC status."""


class InvalidRequestError(SchedulingError):
    """A field of the request is malformed or outside what the server allows (INVALID_ARGUMENT)."""

    def __init__(self, field_name: str, description: str, others: Sequence[tuple[str, str]] = ()) -> None:
        """Name the field as the API writes it, and say what would be accepted; ``others`` are wrong, too."""
        self.field_name, self.description = field_name, description
        self.broken = ((field_name, description), *others)
        super().__init__("; ".join(f"{name}: {what}" for name, what in self.broken))


class PreconditionError(InvalidRequestError):
    """A field asks for what this server does not have: a model, a longer context (FAILED_PRECONDITION)."""


class UnknownModelError(PreconditionError):
    """The request asks for a model that this server does not have (FAILED_PRECONDITION; HTTP: 404)."""


class UnauthenticatedError(SchedulingError):
    """The caller gives no token, or one that is not known (UNAUTHENTICATED)."""


class PermissionDeniedError(SchedulingError):
    """The caller asks for what is another's (PERMISSION_DENIED)."""


class OverloadedError(SchedulingError):
    """Too many requests wait (RESOURCE_EXHAUSTED); try again after ``retry_seconds``."""

    def __init__(self, description: str, retry_seconds: float) -> None:
        """Say what is full and when to come back."""
        super().__init__(description)
        self.retry_seconds = retry_seconds


class QuotaExceededError(SchedulingError):
    """A tenant has more than its share of requests or tokens (RESOURCE_EXHAUSTED with QuotaFailure and RetryInfo)."""

    def __init__(self, tenant: str, description: str, retry_seconds: float) -> None:
        """Say whose quota is used up, what it is, and when to come back."""
        super().__init__(f"tenant {tenant!r}: {description}")
        self.tenant = tenant
        self.description = description
        self.retry_seconds = retry_seconds


class BackendUnavailableError(SchedulingError):
    """The LLM server cannot be reached or failed (UNAVAILABLE); try again after ``retry_seconds``."""

    def __init__(self, description: str, retry_seconds: float = 1.0) -> None:
        """Say what failed and when to come back."""
        super().__init__(description)
        self.retry_seconds = retry_seconds


class SlowReaderError(SchedulingError):
    """The caller does not read what is generated for it (DEADLINE_EXCEEDED)."""


class DeadlineError(SchedulingError):
    """The time that the caller gave is over (DEADLINE_EXCEEDED)."""


class DrainingError(BackendUnavailableError):
    """The server is shutting down (UNAVAILABLE)."""


class PredictionOutcome(enum.Enum):
    """Where a request's curve came from; only ``FRESH`` counts towards coverage."""

    FRESH = "fresh"
    ABSTAINED = "abstained"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    INVALID = "invalid"
    DISABLED = "disabled"


class BudgetLimit(enum.Enum):
    """What kept a budget from being larger."""

    NO_PREDICTION = "no_prediction"
    DEADLINE = "deadline"
    CAP = "cap"
    SATURATED = "saturated"
    PRICE = "price"
    WINDOW = "window"
    BANK = "bank"
    UNIFORM = "uniform"


class Effort(enum.Enum):
    """How much reasoning a request deserves beside others; ``NONE`` is no reasoning."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


class TextKind(enum.Enum):
    """Reasoning or answer."""

    REASONING = "reasoning"
    ANSWER = "answer"


class FinishReason(enum.Enum):
    """Why a generation ended: by itself, with a forced answer, or with the answer cut at its limit."""

    NATURAL = "natural"
    FORCED = "forced"
    ANSWER_LENGTH = "answer_length"


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; ``None`` leaves one to the backend's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    def given(self) -> dict[str, float | int]:
        """The parameters that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class HiddenState:
    """A hidden state vector at the prompt's last token, and its layer (0: not said)."""

    values: tuple[float, ...]
    layer: int = 0


@dataclass(frozen=True)
class Job:
    """One admitted request; budgets in reasoning tokens, ``deadline`` in the scheduler's clock, ``None`` for none.

    ``allocation_may_follow``: its caller takes text before the allocation. ``unpredicted``: why the predictor is not
    asked, where the engine did not bring the hidden state that it takes.

    ``traces``: reasoning traces that share the budget and vote on the answer. ``answer_tokens``: the most of each
    trace's answer where the caller wants fewer than the server gives. ``priority``: who goes first. ``weight``: what
    its accuracy is worth beside that of a request of weight 1; it buys a token that gains 1/weight of the price.
    """

    request_id: str
    prompt: str
    tenant: str
    floor_tokens: int
    cap_tokens: int
    priority: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    hidden_state: HiddenState | None = None
    deadline: float | None = None
    traces: int = 1
    answer_tokens: int | None = None
    unpredicted: PredictionOutcome | None = None
    allocation_may_follow: bool = False
    weight: float = 1.0

    @property
    def key(self) -> tuple[str, str]:
        """What tells the request from all others: ids are the tenants' own, and two may use the same one."""
        return self.tenant, self.request_id


NO_CURVE = Curve()


@dataclass(frozen=True)
class Prediction:
    """A request's expected accuracy and use at budget points, or why there is none (an empty curve).

    ``uncertainty``: standard deviation of the accuracy's error at each point; empty where it is not known. ``raw``:
    what the predictor said, where ``curve`` was drawn toward its mean curve. ``reason``: why there is none, in words,
    where the predictor says.
    """

    outcome: PredictionOutcome
    curve: Curve = NO_CURVE
    predictor: str = ""
    uncertainty: tuple[float, ...] = ()
    raw: Curve = NO_CURVE
    reason: str = ""


@dataclass(frozen=True)
class Allocation:
    """What a request was given, and why. Tokens, seconds, fractions; ``price`` in accuracy per token, 0 for none.

    ``expected_tokens``: what the budget is expected to use, which is reserved. ``window``: the number of the window
    that it was allocated in. ``explanation``: ``limited_by`` in words. ``visible_seconds``: how long its caller waited
    for prediction and allocation, where they went on beside the engine; ``None`` where all of them were waited for.
    """

    request_id: str
    budget_tokens: int
    baseline_tokens: int
    answer_tokens: int
    floor_tokens: int
    cap_tokens: int
    policy: str
    prediction: Prediction
    expected_accuracy: float
    baseline_expected_accuracy: float
    expected_tokens: float
    window_size: int
    saved_at_equal_accuracy_tokens: float = 0.0
    price: float = 0.0
    window_wait_seconds: float = 0.0
    prediction_seconds: float = 0.0
    allocation_seconds: float = 0.0
    trace_id: str = ""
    window: int = 0
    limited_by: BudgetLimit = BudgetLimit.NO_PREDICTION
    explanation: str = ""
    visible_seconds: float | None = None

    @property
    def added_seconds(self) -> float:
        """The time that scheduling added to the request, in seconds."""
        if self.visible_seconds is not None:
            return self.visible_seconds
        return self.window_wait_seconds + self.prediction_seconds + self.allocation_seconds


@dataclass(frozen=True)
class Text:
    """A piece of generated text and the LLM tokens it accounts for."""

    kind: TextKind
    text: str
    tokens: int
    forced: bool = False


@dataclass(frozen=True)
class Usage:
    """What a finished request consumed and saved. Tokens and seconds.

    ``start_seconds``: from its slot of the backend to its first token; 0 where nobody tells, of one that ran elsewhere.
    ``forcing_seconds``: from the end of its reasoning to the first token of a forced answer, whose prompt is computed.
    """

    prompt_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    reserved_tokens: int
    saved_vs_cap_tokens: int
    saved_at_equal_accuracy_tokens: float
    finish_reason: FinishReason
    time_to_first_token_seconds: float
    total_seconds: float
    seconds_per_token: float
    net_benefit_seconds: float
    net_benefit_at_equal_accuracy_seconds: float = 0.0
    traces: int = 1
    votes: int = 1
    start_seconds: float = 0.0
    forcing_seconds: float = 0.0


Event = Allocation | Text | Usage
