"""Write ``observability/`` and its copies in ``k8s/``, or with ``--check`` report what differs (``make check``)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from tools.observability.dashboard import dashboard
from tools.observability.rules import rules

ROOT = Path(__file__).resolve().parents[2]
_MADE = "# Made by 'make observability' from tools/observability; tested by rules_test.yaml and rules_days_test.yaml.\n"


def main() -> int:
    """Write or check; returns the exit code."""
    found = rules()
    board = json.dumps(dashboard(), indent=1) + "\n"
    # Kustomize reads no file outside a component's folder, so the components have copies.
    wanted = {
        "observability/rules.yaml": _MADE + _yaml(found),
        "observability/dashboard.json": board,
        "k8s/components/prometheus-operator/prometheus-rule.yaml": _MADE + _yaml(_custom_resource(found)),
        "k8s/components/dashboards/dashboard.json": board,
    }
    stale = [name for name, text in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"stale, run 'make observability': {', '.join(stale)}\n")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(wanted[name])
    return 0


def _yaml(value: dict[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=140))


def _custom_resource(found: dict[str, Any]) -> dict[str, Any]:
    """The rules as the Prometheus operator takes them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "predictive-scheduling"},
        "spec": found,
    }


if __name__ == "__main__":
    sys.exit(main())
