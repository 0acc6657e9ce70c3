"""What both services' settings share: one frozen object, read from the environment and flags, printed at start."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from predictive_scheduling.credentials import TlsFiles

log = logging.getLogger(__name__)


class ServiceSettings(BaseSettings):
    """Settings of any of our gRPC services."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before the environment before the files of ``SECRETS_DIR``, each named as a setting's variable.

        So a secret need not stand in the environment. Raises ValueError where that is no folder.
        """
        folder = os.environ.get("SECRETS_DIR")
        if not folder:
            return init_settings, env_settings
        if not Path(folder).is_dir():
            raise ValueError(f"SECRETS_DIR: {folder} is no folder")
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)

    listen: str = Field("127.0.0.1:0", description="address to listen on, host:port or unix:path; port 0 picks one")
    drain_seconds: float = Field(20.0, ge=0, description="how long running calls may go on after SIGTERM")
    lame_duck_seconds: float = Field(0.5, ge=0, description="how long it serves on after health says that it will not")
    reuse_port: bool = Field(
        False, description="share the port with other processes that also say so (SO_REUSEPORT), one per core"
    )
    reflection: bool = Field(False, description="serve gRPC reflection, which tells everybody the API; for development")
    health_listen: str = Field("", description="a plain host:port for health alone, for probes where TLS is on")
    metrics_listen: str = Field("", description="host:port where Prometheus scrapes /metrics; empty for none")
    pages_token: SecretStr = Field(
        SecretStr(""),
        description="token that the pages for operators and Prometheus ask for; empty: whoever reaches them",
    )
    tls_cert: str = Field("", description="PEM file of the server's certificate; read anew when it changes")
    tls_key: str = Field("", description="PEM file of its key")
    tls_client_ca: str = Field("", description="PEM file of who signs clients' certificates, which are then required")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe log line")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert, tls_key: one needs the other")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The server's certificate, or ``None`` for a server without TLS."""
        if not self.tls_cert:
            return None
        return TlsFiles(
            Path(self.tls_cert), Path(self.tls_key), Path(self.tls_client_ca) if self.tls_client_ca else None
        )

    def log_masked(self) -> None:
        """Write the settings to the log as one JSON line; secrets are masked, and users and passwords of addresses."""
        shown = {
            name: "***" if isinstance(value, SecretStr) and value.get_secret_value() else value for name, value in self
        }
        line = json.dumps(shown, default=str, sort_keys=True)
        log.info("settings %s", re.sub(r"(?<=://)[^\s,/@\"]+(?:[^\s,@\"]*)@", "***@", line))
