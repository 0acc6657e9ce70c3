"""The predictor's settings: environment variables ``PREDICTOR_…``, overridden by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from predictive_scheduling.service_settings import ServiceSettings
from predictor_service.trials import Trial

SHIPPED_MODELS = Path(__file__).parent / "models"


class PredictorSettings(ServiceSettings):
    """Everything that can be set on a predictor."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_", frozen=True, extra="ignore")

    models: Path = Field(SHIPPED_MODELS, description="folder that holds one folder per model")
    default_model: str = Field("demo-text", description="the model of requests that name none")
    max_batch_size: int = Field(64, ge=1, le=4096, description="most queries that run as one batch")
    max_batch_delay_ms: float = Field(
        0.0, ge=0, le=1000, description="how long a batch may wait to fill; 0 fills it only while another one runs"
    )
    max_queued_queries: int = Field(4096, ge=1, description="most queries that may wait; more are refused")
    canary: Annotated[dict[str, Trial], NoDecode] = Field(
        default_factory=dict,
        description="models whose calls another one answers in part, such as demo-text=demo-text-2:0.05",
    )
    shadow: Annotated[dict[str, Trial], NoDecode] = Field(
        default_factory=dict, description="models beside which another one is run and compared, written the same way"
    )
    reload_seconds: float = Field(5.0, ge=0, description="how often folders are looked at for changes; 0 for never")
    threads: int = Field(1, ge=0, description="threads of one inference; 0 for one per core")

    @field_validator("canary", "shadow", mode="before")
    @classmethod
    def _parse_trials(cls, value: object) -> object:
        """Read ``model=trial:share,…`` as flags and environment variables give it."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): Trial.parse(trial) for name, _, trial in pairs}

    engines: Path | None = Field(None, description="folder where TensorRT keeps the engines that it built")
    provider: str = Field("cpu", pattern="^(cpu|cuda|tensorrt)$", description="preferred execution provider")
