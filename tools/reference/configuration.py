"""docs/configuration.md, from the settings' classes: one table for each group of settings."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from predictive_scheduling.service_settings import ServiceSettings
from predictor_service.settings import SHIPPED_MODELS, PredictorSettings
from scheduler_service.settings import DEPRECATED, SchedulerSettings

_HEAD = """# Configuration

Made from the settings' classes by `make reference`. Every setting is a flag (`--tokens-per-query 128`), an environment
variable (`SCHEDULER_TOKENS_PER_QUERY=128`), or a file of that name in the folder that `SECRETS_DIR` names, for secrets.
A flag beats the environment, which beats files. A service prints its settings at start, secrets masked, and does not
start with a wrong one: the error names it. Switches are `--reflection` and `--no-reflection`; lists are written with
commas.

The groups are for reading only: names are flat. The column "who sets it" says whose decision a setting usually is; the
settings of researchers have defaults that production needs no reason to change. A platform team starts with `backend`,
`backend_url`, `template`, `predictor` and `tokens_per_query`: floor and cap follow the predictor's budget points.

Telemetry is set by OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT` (off without it),
`OTEL_EXPORTER_OTLP_PROTOCOL`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`; see
[observability](observability.md).
"""
_PREFIXES = "Environment variables: {} and the setting's name in capitals.\n"


def page() -> str:
    """Return the whole page."""
    shared = ServiceSettings.model_fields
    parts = [_HEAD, "## Both services\n", _PREFIXES.format("`SCHEDULER_` or `PREDICTOR_`"), _table(shared)]
    parts += ["## Scheduler\n", _PREFIXES.format("`SCHEDULER_`")]
    for group in SchedulerSettings.__bases__:
        title = re.sub(r"Settings$", "", group.__name__)
        parts += [f"### {title}\n", f"{group.__doc__}\n", _table(_own(group, shared))]
    parts += [
        "### Deprecated names\n",
        "This release still reads them, the next one will not. Where both names are given, the new one counts.\n",
        "| deprecated | use |\n|---|---|\n" + "".join(f"| `{old}` | `{new}` |\n" for old, new in DEPRECATED.items()),
        "## Predictor\n",
        _PREFIXES.format("`PREDICTOR_`"),
        _table(_own(PredictorSettings, shared)),
    ]
    return "\n".join(parts)


def _own(group: Any, shared: dict[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in group.model_fields.items() if name not in shared}


def _table(fields: dict[str, Any]) -> str:
    lines = ["| setting | default | takes | what it does | who sets it |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", _default(field), _takes(field), _cell(field.description), field.json_schema_extra["who"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr) or value in ("", None, PydanticUndefined, {}, ()):
        return ""
    if value == SHIPPED_MODELS:
        return "the shipped ones"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value:,g}`" if isinstance(value, float) else f"`{value}`"


def _takes(field: Any) -> str:
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    names = {bool: "yes or no", int: "whole number", float: "number", SecretStr: "secret"}
    kind = names.get(kinds[0], "text")
    bounds = []
    for rule in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{sign} {bound:,}")
        if pattern := getattr(rule, "pattern", None):
            kind = _cell(str(pattern).strip("^$()").replace("|", ", "))
    return ", ".join([kind, *bounds])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
