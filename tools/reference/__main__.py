"""Write the pages that are made from the code, or with ``--check`` report those that differ (``make check``)."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.reference import api, configuration, picture

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Write or check; returns the exit code."""
    wanted = {
        "docs/configuration.md": configuration.page(),
        "docs/api.md": api.page(),
        "docs/architecture.svg": picture.picture(),
    }
    stale = [name for name, text in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"stale, run 'make reference': {', '.join(stale)}\n")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(wanted[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
