"""What both services' settings share: one frozen object, read from the environment and flags, printed at start."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from predictive_scheduling.credentials import TlsFiles

log = logging.getLogger(__name__)


# Who would set a setting: docs/configuration.md shows it.
PLATFORM, RELIABILITY, SECURITY, EXPERIMENTS = "platform team", "SRE", "security team", "researcher"


def setting(default: Any, who: str, description: str, **rules: Any) -> Any:
    """Return the field of a setting: its default, who would set it, what it says, and pydantic's rules for values."""
    return Field(default, description=description, json_schema_extra={"who": who}, **rules)


def faults(error: ValidationError) -> list[str]:
    """What is wrong with settings, a line each, with the setting's name in front."""
    found = []
    for fault in error.errors():
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")  # which names the settings itself
        found.append(f"{place}: {message}" if place else message)
    return found


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

    listen: str = setting(
        "127.0.0.1:0", PLATFORM, "address to listen on, host:port or unix:path; port 0 picks a free one"
    )
    drain_seconds: float = setting(20.0, RELIABILITY, "how long running calls may continue after SIGTERM", ge=0)
    lame_duck_seconds: float = setting(0.5, RELIABILITY, "how long it still serves after health says NOT_SERVING", ge=0)
    reuse_port: bool = setting(
        False, RELIABILITY, "share the port with other processes that also say so (SO_REUSEPORT), one per core"
    )
    reflection: bool = setting(
        False, EXPERIMENTS, "serve gRPC reflection, which shows the API to every caller; for development"
    )
    health_listen: str = setting("", RELIABILITY, "host:port of a health service without TLS, for probes")
    metrics_listen: str = setting("", RELIABILITY, "host:port where Prometheus scrapes /metrics; empty for none")
    pages_token: SecretStr = setting(
        SecretStr(""),
        SECURITY,
        "token for the pages for operators and Prometheus; empty: everybody who can connect sees them",
    )
    tls_cert: str = setting("", SECURITY, "PEM file of the server's certificate; read anew when it changes")
    tls_key: str = setting("", SECURITY, "PEM file of its key")
    tls_client_ca: str = setting("", SECURITY, "PEM file of the CA of clients' certificates, which are then required")
    log_level: str = setting("info", RELIABILITY, "least severe log line", pattern="^(debug|info|warning|error)$")

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
