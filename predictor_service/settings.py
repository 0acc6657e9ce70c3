"""The predictor's settings: environment variables ``PREDICTOR_…``, overridden by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from predictive_scheduling.service_settings import PLATFORM, RELIABILITY, ServiceSettings, setting
from predictor_service.trials import Trial

SHIPPED_MODELS = Path(__file__).parent / "models"


class PredictorSettings(ServiceSettings):
    """Everything that can be set on a predictor."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_", frozen=True, extra="ignore")

    models: Path = setting(SHIPPED_MODELS, PLATFORM, "folder that holds one folder per model")
    default_model: str = setting("demo-text", PLATFORM, "the model of requests that name none")
    default_may_be_missing: bool = setting(
        False,
        PLATFORM,
        "start without the default model, and let it go when its folder goes: calls that name none are refused, which "
        "schedulers answer by uniform budgets; for models that 'learn' makes",
    )
    max_batch_size: int = setting(64, RELIABILITY, "most queries that run as one batch", ge=1, le=4096)
    max_batch_delay_ms: float = setting(
        0.0,
        RELIABILITY,
        "how long a batch may wait for more queries; 0: it only fills while another one runs",
        ge=0,
        le=1000,
    )
    max_queued_queries: int = setting(4096, RELIABILITY, "most queries that may wait; further ones are refused", ge=1)
    canary: Annotated[dict[str, Trial], NoDecode] = Field(
        default_factory=dict,
        json_schema_extra={"who": PLATFORM},
        description="share of a model's calls that another model answers, such as demo-text=demo-text-2:0.05",
    )
    shadow: Annotated[dict[str, Trial], NoDecode] = Field(
        default_factory=dict,
        json_schema_extra={"who": PLATFORM},
        description="share of a model's calls that another model also predicts, for comparison; written as canary",
    )
    reload_seconds: float = setting(
        5.0, RELIABILITY, "how often model folders are checked for changes; 0 for never", ge=0
    )
    threads: int = setting(1, RELIABILITY, "threads of one inference; 0 for one per core", ge=0)
    engines: Path | None = setting(None, PLATFORM, "folder in which TensorRT keeps the engines that it has built")
    provider: str = setting(
        "cpu",
        PLATFORM,
        "onnxruntime's execution provider; where it cannot be had the predictor does not start",
        pattern="^(cpu|cuda|tensorrt)$",
    )
    provider_fallback: bool = setting(
        False, PLATFORM, "run on the next lesser provider (tensorrt, cuda, cpu) instead of refusing to start"
    )

    @field_validator("canary", "shadow", mode="before")
    @classmethod
    def _parse_trials(cls, value: object) -> object:
        """Read ``model=trial:share,…`` as flags and environment variables give it."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): Trial.parse(trial) for name, _, trial in pairs}
