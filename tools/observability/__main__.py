"""Write ``observability/``, or with ``--check`` report what differs (``make check``)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from tools.observability.dashboard import dashboard
from tools.observability.rules import rules

FOLDER = Path(__file__).resolve().parents[2] / "observability"
_MADE = "# Made by 'make observability' from tools/observability; tested by rules_test.yaml and rules_days_test.yaml.\n"


def main() -> int:
    """Write or check; returns the exit code."""
    wanted = {
        "rules.yaml": _MADE + yaml.safe_dump(rules(), sort_keys=False, width=140),
        "dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
    }
    stale = [
        name for name, text in wanted.items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text
    ]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"stale, run 'make observability': {', '.join(stale)}\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(wanted[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
