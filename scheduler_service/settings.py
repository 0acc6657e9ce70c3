"""The scheduler's settings: environment variables ``SCHEDULER_…``, overridden by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from predictive_scheduling.service_settings import ServiceSettings
from scheduler_service.allocation import POLICIES
from scheduler_service.allocation.exact import MOST_STATES
from scheduler_service.generation.templates import TEMPLATES, PromptTemplate, read_templates


class SchedulerSettings(ServiceSettings):
    """Everything that can be set on a scheduler. Token counts are reasoning tokens unless they say otherwise."""

    model_config = SettingsConfigDict(env_prefix="SCHEDULER_", frozen=True, extra="ignore")

    backend: str = Field(
        "tgi",
        description="LLM server: tgi, vllm, sglang, openai (any other that speaks its protocol), llama_cpp, embedded",
    )
    backend_url: str = Field("", description="its address, http://host:port, or several with commas")
    backend_model: str = Field("", description="model to ask an openai server for; empty takes its first")
    backend_chat: bool = Field(
        False, description="use the chat route, so that the server's own template is applied, not ours; not for tgi"
    )
    backend_thinking_budget: bool = Field(
        False, description="let vllm end the thinking (thinking_token_budget; it needs --reasoning-config)"
    )
    backend_token: SecretStr = Field(SecretStr(""), description="bearer token for it")
    backend_slots: int = Field(0, ge=0, description="requests that run on it at once; 0 asks it")
    backend_ready_seconds: float = Field(120.0, gt=0, description="how long to wait for it at start")
    embedded_model: str = Field("", description="GGUF file of the embedded LLM; empty for the demo's model")
    embedded_adapter: str = Field("", description="GGUF adapter beside it; empty for the demo's with the demo's model")
    embedded_adapter_scale: float = Field(1.0, ge=0, le=4, description="strength of the adapter; 0 leaves it out")
    model: str = Field("", description="name by which requests may ask for its model; empty accepts what it says")
    template: str = Field("demo", description=f"prompt template: {', '.join(TEMPLATES)}, or one of the file")
    templates: str = Field("", description="TOML file with prompt templates of your own")
    temperature: float = Field(0.6, ge=0, le=5, description="temperature of requests that set none")

    predictor: str = Field("", description="address of the predictor; empty gives every request the uniform budget")
    predictor_model: str = Field("", description="the predictor's model; empty for its default")
    predictor_timeout_ms: float = Field(100.0, gt=0, description="longest wait for a prediction, then uniform")

    predictor_cache: int = Field(4096, ge=0, description="predictions remembered by the prompt's digest; 0 for none")
    predictor_cache_seconds: float = Field(300.0, gt=0, description="how long a prediction is remembered")

    http_listen: str = Field("", description="host:port of an OpenAI-compatible front; empty for none")

    status_listen: str = Field("", description="host:port of a status page for operators; it asks for no token")
    journal_requests: int = Field(2000, ge=1, description="how many of the last requests are remembered for lookups")
    journal_prompts: bool = Field(False, description="remember their prompts, too, and show them")

    metrics_tenants: int = Field(50, ge=0, description="how many tenants metrics tell apart; the others share a label")
    auth_tokens: str = Field("", description="file of 'token tenant' lines; calls then need one of the tokens")
    predictor_tls_ca: str = Field("", description="PEM file of who signs the predictor's certificate; empty for no TLS")
    predictor_tls_cert: str = Field("", description="PEM file of our certificate, for a predictor that asks for one")
    predictor_tls_key: str = Field("", description="PEM file of its key")

    policy: str = Field("price", description=f"how budgets are found: {', '.join((*POLICIES, 'target', 'price'))}")
    target_accuracy: float = Field(0.0, ge=0, le=1, description="policy target: mean accuracy to reach, cheaply")
    burst_requests: float = Field(10.0, ge=0, description="policy price: mean budgets that may be spent ahead")
    budget_per: str = Field("query", pattern="^(query|second|window)$", description="what the budget is for")
    budget_tokens: int = Field(0, ge=0, description="tokens a second or a window; budgets a query need none")
    shared_budget_url: SecretStr = Field(
        SecretStr(""), description="redis:// address where schedulers share a budget a second"
    )
    shared_budget_key: str = Field("predictive-scheduling", description="the shared budget's name in that store")
    tenant_shares: Annotated[dict[str, float], NoDecode] = Field(
        default_factory=dict, description="weights of tenants' guaranteed shares of every window, such as gold=3,free=1"
    )
    confidence: float = Field(0.0, ge=0, le=3, description="deviations by which predicted differences are lowered")
    reclaim: bool = Field(True, description="give what finished requests leave to running ones")
    tokens_per_query: int = Field(128, ge=1, le=1 << 20, description="mean reasoning tokens a request: the budget")
    floor_tokens: int = Field(16, ge=0, description="least budget of a request, against starvation")
    cap_tokens: int = Field(256, ge=1, description="largest budget of a request")
    answer_tokens: int = Field(32, ge=1, le=1024, description="most answer tokens, on top of the budget")
    bank_limit_tokens: int = Field(
        -1, ge=-1, description="most unspent tokens kept for later requests; -1: 32 mean budgets, 128 by the price"
    )
    window_size: int = Field(32, ge=1, le=4096, description="requests that close a window")
    window_adaptive: bool = Field(True, description="close a window at once while requests come one by one")
    window_ms: float = Field(20.0, ge=0, le=60000, description="age of the oldest request that closes a window")
    max_pending: int = Field(1024, ge=1, description="requests in the house at once; more are refused")

    max_pending_tokens: int = Field(0, ge=0, description="most tokens that requests in the house may ask for; 0: any")
    slow_reader_seconds: float = Field(60.0, gt=0, description="how long a caller may leave its stream unread")
    max_tenant_pending: int = Field(0, ge=0, description="requests of one tenant in the house at once; 0 for no quota")

    tenant_requests_per_second: float = Field(0.0, ge=0, description="most requests a second of a tenant; 0 for any")
    tenant_tokens_per_second: float = Field(0.0, ge=0, description="most tokens a second of a tenant; 0 for any")
    tenant_burst_seconds: float = Field(10.0, gt=0, description="seconds of its rate that a tenant may use at once")

    @field_validator("tenant_shares", mode="before")
    @classmethod
    def _parse_shares(cls, value: object) -> object:
        """Read ``tenant=weight,…`` as flags and environment variables give it."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): weight.strip() for name, _, weight in pairs}

    @property
    def known_templates(self) -> dict[str, PromptTemplate]:
        """The built-in prompt templates, and those of the file. Raises ValueError for a file that holds none."""
        return read_templates(Path(self.templates)) if self.templates else TEMPLATES

    @property
    def bank_tokens(self) -> int:
        """The bank's limit, in tokens."""
        if self.bank_limit_tokens >= 0:
            return self.bank_limit_tokens
        return (128 if self.policy == "price" else 32) * self.tokens_per_query

    @model_validator(mode="after")
    def _consistent(self) -> SchedulerSettings:
        from scheduler_service.generation.backends import (
            SERVERS,  # needs aiohttp, which who only serves predictions lacks
        )

        if self.backend not in (*SERVERS, "embedded"):
            raise ValueError(f"backend: {self.backend!r} is none of {', '.join((*SERVERS, 'embedded'))}")
        if self.backend != "embedded" and not self.backend_url:
            raise ValueError(f"backend_url: required for the backend {self.backend}")
        if self.backend_chat and self.backend not in ("vllm", "sglang", "openai"):
            raise ValueError(f"backend_chat: {self.backend} is not asked by a chat route")
        if self.backend_thinking_budget and self.backend != "vllm":
            raise ValueError(f"backend_thinking_budget: {self.backend} does not end the thinking by itself; vllm does")
        templates = self.known_templates
        if self.template not in templates:
            raise ValueError(f"template: {self.template!r} is none of {', '.join(templates)}")
        known = (*POLICIES, "target", "price")
        if self.policy not in known:
            raise ValueError(f"policy: {self.policy!r} is none of {', '.join(known)}")
        if (self.policy == "target") != (self.target_accuracy > 0):
            raise ValueError("target_accuracy: goes with policy target, and policy target with it")
        if (self.budget_per != "query") != (self.budget_tokens > 0):
            raise ValueError("budget_tokens: goes with budgets a second or a window, and they with it")
        if self.shared_budget_url.get_secret_value() and self.budget_per != "second":
            raise ValueError("shared_budget_url: a shared budget is one a second; set budget_per and budget_tokens")
        if self.policy == "exact" and self.window_size**2 * self.cap_tokens > MOST_STATES:
            raise ValueError("window_size: too large for policy exact; use envelope")
        if self.policy == "price" and (self.budget_per == "window" or self.tenant_shares):
            raise ValueError("policy: price has no windows; use budgets a query or a second, and no tenant_shares")
        if any(weight <= 0 for weight in self.tenant_shares.values()):
            raise ValueError("tenant_shares: every weight must be above 0")
        if not self.floor_tokens <= self.tokens_per_query <= self.cap_tokens:
            raise ValueError("tokens_per_query: must be from floor_tokens to cap_tokens")
        return self
