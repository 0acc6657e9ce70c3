"""docs/configuration.md, from the settings' classes."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from predictive_scheduling.service_settings import ServiceSettings
from predictor_service.settings import SHIPPED_MODELS, PredictorSettings
from scheduler_service.settings import SchedulerSettings

_HEAD = """# Configuration

Made from the settings' classes by `make reference`. Every setting is a flag (`--tokens-per-query 128`), an environment
variable (`SCHEDULER_TOKENS_PER_QUERY=128`), or a file of that name in the folder that `SECRETS_DIR` names, for secrets.
A flag beats the environment, which beats files. A service prints its settings at start, secrets masked, and does not
start with a wrong one: the error names it. Switches are `--reflection` and `--no-reflection`; lists are written with
commas.

Telemetry is set by OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT` (off without it),
`OTEL_EXPORTER_OTLP_PROTOCOL`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`; see
[observability](observability.md).
"""


def page() -> str:
    """Return the whole page."""
    shared = ServiceSettings.model_fields
    parts = [_HEAD, "## Both services\n", _table(shared, "`SCHEDULER_` or `PREDICTOR_`")]
    for title, settings in (("Scheduler", SchedulerSettings), ("Predictor", PredictorSettings)):
        own = {name: field for name, field in settings.model_fields.items() if name not in shared}
        parts += [f"## {title}\n", _table(own, f"`{settings.model_config.get('env_prefix')}`")]
    return "\n".join(parts)


def _table(fields: dict[str, Any], prefix: str) -> str:
    lines = [
        f"Environment variables: {prefix} and the setting's name in capitals.\n",
        "| setting | default | takes | |",
        "|---|---|---|---|",
    ]
    for name, field in fields.items():
        lines.append(f"| `{name}` | {_default(field)} | {_takes(field)} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr) or value in ("", None, PydanticUndefined, {}, ()):
        return ""
    if value == SHIPPED_MODELS:
        return "the shipped ones"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _takes(field: Any) -> str:
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    names = {bool: "yes or no", int: "whole number", float: "number", SecretStr: "secret"}
    kind = names.get(kinds[0], "text")
    bounds = []
    for rule in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{sign} {bound:g}")
        if pattern := getattr(rule, "pattern", None):
            kind = _cell(str(pattern).strip("^$()").replace("|", ", "))
    return ", ".join([kind, *bounds])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
