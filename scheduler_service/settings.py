"""The scheduler's settings: environment variables ``SCHEDULER_…``, overridden by flags.

They come in groups, and each group checks itself; what concerns two of them is checked where they come together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from predictive_scheduling.budget_points import MOST_TOKENS
from predictive_scheduling.service_settings import (
    EXPERIMENTS,
    PLATFORM,
    RELIABILITY,
    SECURITY,
    ServiceSettings,
    setting,
)
from scheduler_service.allocation import POLICIES
from scheduler_service.allocation.exact import MOST_STATES
from scheduler_service.control.objectives import Objective, parse_objectives
from scheduler_service.generation.backends import SERVERS, WITHOUT_ADDRESS
from scheduler_service.generation.backends.base import BackendConfiguration
from scheduler_service.generation.engine_reports import check_told, parse_listen
from scheduler_service.generation.templates import TEMPLATES, PromptTemplate, read_templates

_MOST_ANSWER_TOKENS = 32_768


class BackendSettings(ServiceSettings):
    """The LLM server, and how prompts are sent to it."""

    backend: str = setting(
        "tgi",
        PLATFORM,
        "LLM server: tgi, vllm, sglang, openai (any other with that API), llama_cpp, embedded, or none, to decide only",
    )
    backend_url: str = setting("", PLATFORM, "address of the LLM server, http://host:port; several with commas")
    backend_model: str = setting("", PLATFORM, "model to ask the server for, listed or not; empty takes its first")
    backend_chat: bool = setting(
        False, PLATFORM, "use the server's chat route and chat template instead of our template; not for tgi"
    )
    backend_thinking_budget: bool = setting(
        False, PLATFORM, "let vllm end the thinking (thinking_token_budget; vllm needs --reasoning-config)"
    )
    reports_listen: str = setting(
        "", PLATFORM, "where vllm sends hidden states of prompts: unix:/path or tcp://host:port; needs its connector"
    )
    reports_address: str = setting(
        "",
        PLATFORM,
        "the address that vllm is told for them, where it is not reports_listen (unix:/path, tcp://ip:port)",
    )
    backend_token: SecretStr = setting(SecretStr(""), SECURITY, "bearer token for the LLM server")
    backend_slots: int = setting(0, RELIABILITY, "requests that run on the LLM server at once; 0 asks the server", ge=0)
    backend_idle_seconds: float = setting(
        60.0, RELIABILITY, "longest wait for a call's next token; keep-alives do not count as tokens", gt=0
    )
    backend_ready_seconds: float = setting(120.0, RELIABILITY, "how long to wait for the LLM server at start", gt=0)
    embedded_model: str = setting("", EXPERIMENTS, "GGUF file of the embedded LLM; empty for the demo's model")
    embedded_adapter: str = setting(
        "", EXPERIMENTS, "GGUF adapter of the embedded LLM; empty for the demo's with the demo's model"
    )
    embedded_adapter_scale: float = setting(1.0, EXPERIMENTS, "strength of the adapter; 0 leaves it out", ge=0, le=4)
    model: str = setting(
        "", PLATFORM, "name by which requests may ask for the model; empty: the name that the LLM server gives"
    )
    template: str = setting(
        "demo", PLATFORM, f"prompt template: {', '.join(TEMPLATES)}, or one of the file that templates names"
    )
    templates: str = setting("", PLATFORM, "TOML file with prompt templates of your own")
    temperature: float = setting(0.6, PLATFORM, "temperature of requests that do not set one", ge=0, le=5)

    @property
    def known_templates(self) -> dict[str, PromptTemplate]:
        """The built-in prompt templates, and those of the file. Raises ValueError for a file that holds none."""
        return read_templates(Path(self.templates)) if self.templates else TEMPLATES

    @model_validator(mode="after")
    def _backend_is_one(self) -> BackendSettings:
        if self.backend not in SERVERS:
            raise ValueError(f"backend: {self.backend!r} is none of {', '.join(SERVERS)}")
        if self.backend not in WITHOUT_ADDRESS and not self.backend_url:
            raise ValueError(f"backend_url: required for the backend {self.backend}")
        if self.backend_chat and self.backend not in ("vllm", "sglang", "openai"):
            raise ValueError(f"backend_chat: {self.backend} has no chat route")
        if self.backend_thinking_budget and self.backend != "vllm":
            raise ValueError(f"backend_thinking_budget: {self.backend} cannot end the thinking by itself; vllm can")
        self._check_reports()
        if self.reports_listen and self.backend != "vllm":
            raise ValueError(f"reports_listen: {self.backend} reports nothing; vllm with our connector does")
        if self.template not in (templates := self.known_templates):
            raise ValueError(f"template: {self.template!r} is none of {', '.join(templates)}")
        return self

    def _check_reports(self) -> None:
        """Check that engines can send to where this listens."""
        if self.reports_address and not self.reports_listen:
            raise ValueError("reports_address: needs reports_listen")
        checks = {"reports_listen": parse_listen, "reports_address": check_told}
        for name, check in checks.items():
            if text := getattr(self, name):
                try:
                    check(text)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        if self.reports_listen and not self.reports_address:
            try:
                check_told(self.reports_listen)
            except ValueError as error:
                raise ValueError(f"reports_address: needed, since of reports_listen {error}") from None


class PredictionSettings(ServiceSettings):
    """The predictor, and how far it is trusted."""

    predictor: str = setting("", PLATFORM, "address of the predictor; empty gives every request the uniform budget")
    predictor_model: str = setting("", PLATFORM, "the predictor's model; empty for its default")
    predictor_timeout_ms: float = setting(
        100.0, RELIABILITY, "longest wait for a prediction; then the request gets the uniform budget", gt=0
    )
    predictor_cache: int = setting(
        4096, RELIABILITY, "how many predictions are kept, by the prompt's digest; 0 for none", ge=0
    )
    predictor_cache_seconds: float = setting(300.0, RELIABILITY, "how long a prediction is kept", gt=0)
    predictor_tls_ca: str = setting("", SECURITY, "PEM file of the CA of the predictor's certificate; empty for no TLS")
    predictor_tls_cert: str = setting(
        "", SECURITY, "PEM file of the scheduler's certificate, for a predictor that asks for one"
    )
    predictor_tls_key: str = setting("", SECURITY, "PEM file of that certificate's key")
    confidence: float = setting(
        0.0, EXPERIMENTS, "standard deviations by which predicted differences are lowered", ge=0, le=3
    )


class BudgetSettings(ServiceSettings):
    """The token budget, and the budgets of requests. Token counts are reasoning tokens unless they say otherwise."""

    policy: str = setting("price", PLATFORM, f"how budgets are chosen: {', '.join((*POLICIES, 'target', 'price'))}")
    tokens_per_query: int = setting(128, PLATFORM, "the budget: mean reasoning tokens a request", ge=1, le=MOST_TOKENS)
    floor_tokens: int = setting(
        -1, PLATFORM, "least budget of a request, so that none starves; -1: the predictor's first budget point", ge=-1
    )
    cap_tokens: int = setting(
        0, PLATFORM, "largest budget of a request; 0: the predictor's last budget point, if the server has room",
        ge=0, le=MOST_TOKENS,
    )  # fmt: skip
    answer_tokens: int = setting(
        32, PLATFORM, "most answer tokens, in addition to the budget", ge=1, le=_MOST_ANSWER_TOKENS
    )
    target_accuracy: float = setting(
        0.0, EXPERIMENTS, "policy target: mean accuracy to reach with the fewest tokens", ge=0, le=1
    )
    burst_requests: float = setting(
        10.0, RELIABILITY, "policy price: how many mean budgets may be spent in advance", ge=0
    )
    budget_per: str = setting("query", PLATFORM, "what the budget is counted by", pattern="^(query|second|window)$")
    budget_tokens: int = setting(0, PLATFORM, "tokens a second or a window; 0 for budgets a query", ge=0)
    bank_limit_tokens: int = setting(
        -1,
        RELIABILITY,
        "most unspent tokens kept for later; -1: 32 mean budgets, 128 with policy price",
        ge=-1,
    )
    shared_budget_url: SecretStr = setting(
        SecretStr(""),
        PLATFORM,
        "redis:// address of the store in which schedulers share a budget a second, or the load that objectives go by,"
        " and by which they settle for each other behind a gateway",
    )
    shared_budget_key: str = setting("predictive-scheduling", PLATFORM, "the name of what is shared in that store")
    reclaim: bool = setting(True, EXPERIMENTS, "give tokens that finished requests leave to running ones")

    @property
    def largest_exact(self) -> int:
        """The largest budget that policy exact plans: it must be known, since its tables grow with it."""
        return self.cap_tokens or max(256, self.tokens_per_query)

    @property
    def bank_tokens(self) -> int:
        """The bank's limit, in tokens."""
        if self.bank_limit_tokens >= 0:
            return self.bank_limit_tokens
        return (128 if self.policy == "price" else 32) * self.tokens_per_query

    @model_validator(mode="after")
    def _budget_is_one(self) -> BudgetSettings:
        known = (*POLICIES, "target", "price")
        if self.policy not in known:
            raise ValueError(f"policy: {self.policy!r} is none of {', '.join(known)}")
        if (self.policy == "target") != (self.target_accuracy > 0):
            raise ValueError("target_accuracy: needs policy target, and policy target needs it")
        if (self.budget_per != "query") != (self.budget_tokens > 0):
            raise ValueError("budget_tokens: needs budget_per second or window, and these need it")
        if self.policy == "price" and self.budget_per == "window":
            raise ValueError("policy: price has no windows; use budgets a query or a second")
        if self.floor_tokens > self.tokens_per_query or 0 < self.cap_tokens < self.tokens_per_query:
            raise ValueError("tokens_per_query: must be from floor_tokens to cap_tokens")
        return self


class WindowSettings(ServiceSettings):
    """The windows of policies that plan several requests together."""

    window_size: int = setting(32, EXPERIMENTS, "requests that close a window", ge=1, le=4096)
    window_adaptive: bool = setting(True, EXPERIMENTS, "close a window at once while requests come one by one")
    window_ms: float = setting(20.0, EXPERIMENTS, "age of the oldest request that closes a window", ge=0, le=60000)


class TenantSettings(ServiceSettings):
    """Tenants: who they are, and what each may have."""

    auth_tokens: str = setting("", SECURITY, "file with lines 'token tenant'; calls then need one of the tokens")
    tenant_shares: Annotated[dict[str, float], NoDecode] = Field(
        default_factory=dict,
        description="weights of tenants' guaranteed shares of every window, such as gold=3,free=1",
        json_schema_extra={"who": PLATFORM},
    )
    max_tenant_in_flight: int = setting(
        0, RELIABILITY, "requests of one tenant in flight at once; 0 for no quota", ge=0
    )
    tenant_requests_per_second: float = setting(
        0.0, RELIABILITY, "most requests a second of a tenant; 0 for no limit", ge=0
    )
    tenant_tokens_per_second: float = setting(
        0.0, RELIABILITY, "most tokens a second of a tenant; 0 for no limit", ge=0
    )
    tenant_burst_seconds: float = setting(10.0, RELIABILITY, "seconds of its rate that a tenant may use at once", gt=0)

    @field_validator("tenant_shares", mode="before")
    @classmethod
    def _parse_shares(cls, value: object) -> object:
        """Read ``tenant=weight,…`` as flags and environment variables give it."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): weight.strip() for name, _, weight in pairs}

    @model_validator(mode="after")
    def _weights_are_some(self) -> TenantSettings:
        if any(weight <= 0 for weight in self.tenant_shares.values()):
            raise ValueError("tenant_shares: every weight must be above 0")
        return self


class SampleSettings(ServiceSettings):
    """Whose prompts a learner may have, and who it is."""

    sample_tenants: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="tenants whose prompts are kept in memory for a learner, with commas between them; * for all",
        json_schema_extra={"who": SECURITY},
    )
    sample_readers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="tenants that may take them, where calls need a token or a certificate",
        json_schema_extra={"who": SECURITY},
    )

    @field_validator("sample_tenants", "sample_readers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _readers_have_something(self) -> SampleSettings:
        if self.sample_readers and not self.sample_tenants:
            raise ValueError("sample_readers: there is nothing to take without sample_tenants")
        return self


class LimitSettings(ServiceSettings):
    """How much may be in flight, and how long callers may take."""

    max_in_flight: int = setting(1024, RELIABILITY, "requests in flight at once; more are refused", ge=1)
    max_in_flight_tokens: int = setting(
        0, RELIABILITY, "most tokens that requests in flight may ask for; 0 for no limit", ge=0
    )
    grant_seconds: float = setting(
        600.0, RELIABILITY, "when a budget that was granted counts as expected, if nobody tells what was used", gt=0
    )
    slow_reader_seconds: float = setting(
        60.0, RELIABILITY, "how long a caller may leave its stream unread; then the request ends", gt=0
    )
    http_listen: str = setting(
        "", PLATFORM, "host:port of an OpenAI-compatible HTTP API, with the same TLS as gRPC; empty for none"
    )
    http_connections: int = setting(2048, RELIABILITY, "connections to the HTTP API at once; more are closed", ge=1)


class ObjectiveSettings(ServiceSettings):
    """Latency objectives, for which budgets follow the load."""

    objective: str = setting(
        "", RELIABILITY, "what latency to hold, such as 'total p99 20s, first_token p95 1s, gold: total p99 5s'"
    )
    least_tokens_per_query: int = setting(
        0, RELIABILITY, "the least mean budget that objectives may bring about; 0: a request's least budget", ge=0
    )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives. Raises ValueError for what is none."""
        return parse_objectives([text for text in self.objective.split(",") if text.strip()])

    @model_validator(mode="after")
    def _objectives_are_some(self) -> ObjectiveSettings:
        if not self.objectives and self.least_tokens_per_query:
            raise ValueError("least_tokens_per_query: needs an objective")
        return self


class GatewaySettings(ServiceSettings):
    """Budgets for requests that pass through Envoy."""

    ext_proc_listen: str = setting(
        "", PLATFORM, "host:port for Envoy: its external processor and access logs, with the same TLS as gRPC"
    )
    ext_proc_budget_field: str = setting(
        "", PLATFORM, "field of the LLM server for a thinking budget, such as thinking_token_budget; empty: max_tokens"
    )
    ext_proc_tenant_header: str = setting("x-tenant-id", PLATFORM, "header that names the tenant; the gateway sets it")
    ext_proc_usage: str = setting(
        "auto",
        PLATFORM,
        "ask streams for their usage where callers do not: auto, where the response comes back here; always; never",
        pattern="^(auto|always|never)$",
    )


class InsightSettings(ServiceSettings):
    """What operators see."""

    status_listen: str = setting("", RELIABILITY, "host:port of a status page for operators; see pages_token")
    journal_requests: int = setting(2000, RELIABILITY, "how many of the last requests are kept for lookups", ge=1)
    journal_prompts: bool = setting(False, EXPERIMENTS, "keep and show the prompts of these requests, too")
    metrics_tenants: int = setting(
        50, RELIABILITY, "how many tenants have a label of their own in metrics; the others share one", ge=0
    )


# Names that are still read for one release, and what they are called now.
DEPRECATED = {
    "max_pending": "max_in_flight",
    "max_pending_tokens": "max_in_flight_tokens",
    "max_tenant_pending": "max_tenant_in_flight",
}


class SchedulerSettings(
    BackendSettings,
    PredictionSettings,
    BudgetSettings,
    WindowSettings,
    TenantSettings,
    SampleSettings,
    LimitSettings,
    ObjectiveSettings,
    GatewaySettings,
    InsightSettings,
):
    """Everything that can be set on a scheduler."""

    model_config = SettingsConfigDict(env_prefix="SCHEDULER_", frozen=True, extra="ignore")

    max_pending: int | None = setting(None, RELIABILITY, "deprecated: the older name of max_in_flight", ge=1)
    max_pending_tokens: int | None = setting(
        None, RELIABILITY, "deprecated: the older name of max_in_flight_tokens", ge=0
    )
    max_tenant_pending: int | None = setting(
        None, RELIABILITY, "deprecated: the older name of max_tenant_in_flight", ge=0
    )

    @property
    def backend_configuration(self) -> BackendConfiguration:
        """What a backend is made from."""
        return BackendConfiguration(
            kind=self.backend,
            urls=tuple(url.strip() for url in self.backend_url.split(",") if url.strip()),
            token=self.backend_token.get_secret_value(),
            model=self.backend_model,
            chat=self.backend_chat,
            thinking_budget=self.backend_thinking_budget,
            idle_seconds=self.backend_idle_seconds,
            ready_seconds=self.backend_ready_seconds,
            slots=self.backend_slots,
            gguf=self.embedded_model,
            gguf_adapter=self.embedded_adapter,
            gguf_adapter_scale=self.embedded_adapter_scale,
            generated_tokens=(self.cap_tokens or max(256, self.tokens_per_query)) + self.answer_tokens,
        )

    @model_validator(mode="wrap")
    @classmethod
    def _take_older_names(cls, raw: Any, validate: Callable[[Any], SchedulerSettings]) -> SchedulerSettings:
        """Let a setting's older name stand for it where only the older one is given."""
        if isinstance(raw, dict):
            for old, new in DEPRECATED.items():
                if raw.get(old) is not None and new not in raw:
                    raw = {**raw, new: raw[old]}
        return validate(raw)

    @model_validator(mode="after")
    def _groups_fit(self) -> SchedulerSettings:
        shares = self.budget_per == "second" or self.objective or self.ext_proc_listen
        if self.shared_budget_url.get_secret_value() and not shares:
            raise ValueError(
                "shared_budget_url: what is shared is a budget a second (budget_per), an objective, or a gateway"
                " (ext_proc_listen)"
            )
        if self.objective and self.budget_per != "query":
            raise ValueError("objective: a budget that follows the load is one a query; leave budget_per out")
        if self.least_tokens_per_query > self.tokens_per_query:
            raise ValueError("least_tokens_per_query: must not be above tokens_per_query, the most")
        if self.policy == "price" and self.tenant_shares:
            raise ValueError("policy: price has no windows, and so no tenant_shares")
        if self.reports_listen and self.policy != "price":
            raise ValueError("reports_listen: needs policy price, which decides about a request that runs already")
        if self.policy == "exact" and self.window_size**2 * self.largest_exact > MOST_STATES:
            raise ValueError(
                f"window_size, cap_tokens: policy exact takes window_size² × cap_tokens of at most {MOST_STATES:,};"
                " use policy envelope"
            )
        return self
