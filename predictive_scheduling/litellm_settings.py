"""What the callback of LiteLLM is told by its environment."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class LiteLlmSettings(BaseSettings):
    """Each field is the environment variable ``PREDICTIVE_SCHEDULING_…`` of its name.

    Raises pydantic.ValidationError, naming the field, where one is missing or makes no sense.
    """

    model_config = SettingsConfigDict(frozen=True, env_prefix="PREDICTIVE_SCHEDULING_", extra="ignore")

    scheduler: str = Field(min_length=1, description="address of the scheduler, host:port")
    timeout_ms: float = Field(150.0, gt=0, description="how long a request waits for its budget")
    token: SecretStr = Field(SecretStr(""), description="bearer token; its tenant is that of all requests")
    ca: str = Field("", description="PEM file of who signs the scheduler's certificate; empty for no TLS")
    budget_field: str = Field(
        "thinking_token_budget",
        pattern=r"^([^.\s]+(\.[^.\s]+)*)?$",
        description="the LLM server's field for a thinking budget, a path with dots; empty: max_tokens limits both",
    )
    models: str = Field("", description="LiteLLM's names of the models that get budgets, by commas; empty for all")
    tenant_header: str = Field("", description="header that names a request's tenant; empty for the team of its key")

    def budgets(self, model: object) -> bool:
        """Whether requests to a model get budgets."""
        names = {name.strip() for name in self.models.split(",")} - {""}
        return not names or model in names
