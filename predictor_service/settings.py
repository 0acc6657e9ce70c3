"""The predictor's settings: environment variables ``PREDICTOR_…``, overridden by flags."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from predictive_scheduling.service_settings import ServiceSettings

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
    reload_seconds: float = Field(5.0, ge=0, description="how often folders are looked at for changes; 0 for never")
    threads: int = Field(1, ge=0, description="threads of one inference; 0 for one per core")
    provider: str = Field("cpu", pattern="^(cpu|cuda|tensorrt)$", description="preferred execution provider")
