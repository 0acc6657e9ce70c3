"""What both services' settings share: one frozen object, read from the environment and flags, printed at start."""

from __future__ import annotations

import json
import logging

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

log = logging.getLogger(__name__)


class ServiceSettings(BaseSettings):
    """Settings of any of our gRPC services."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    listen: str = Field("127.0.0.1:0", description="address to listen on, host:port or unix:path; port 0 picks one")
    drain_seconds: float = Field(20.0, ge=0, description="how long running calls may go on after SIGTERM")
    reflection: bool = Field(True, description="serve gRPC reflection; switch off in production")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe log line")

    def log_masked(self) -> None:
        """Write the settings to the log as one JSON line; secrets are masked."""
        shown = {
            name: "***" if isinstance(value, SecretStr) and value.get_secret_value() else value for name, value in self
        }
        log.info("settings %s", json.dumps(shown, default=str, sort_keys=True))
