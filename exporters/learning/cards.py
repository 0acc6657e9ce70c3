"""A card for each model: what it was trained on, what it was judged by, and what became of it. Nothing of a prompt."""

from __future__ import annotations

import json
from typing import Any

from exporters.learning.ledger import Ledger

_JUDGED = ("event", "since", "until", "gain", "against", "decision", "reason")


def card_of(ledger: Ledger, version: int) -> bytes:
    """Return the card of a version, as JSON; it follows from the ledger alone."""
    trained, *judged = ledger.about(version)
    card = {
        "model": f"learned@{version}",
        **{name: value for name, value in trained.items() if name not in ("step", "event", "decision", "reason")},
        "now": state_of(ledger, version),
        "lineage": list(ledger.standing.lineage),
        "evidence": [{name: row[name] for name in _JUDGED if name in row} for row in judged],
    }
    return (json.dumps(card, indent=1) + "\n").encode()


def state_of(ledger: Ledger, version: int) -> str:
    """Return what a version is now, in one word or two."""
    standing = ledger.standing
    if version == standing.default:
        return "default"
    if standing.candidate is not None and standing.candidate.version == version:
        return standing.candidate.step
    return "retired" if version in standing.retired else "earlier default"


def versions(ledger: Ledger) -> list[int]:
    """Return all versions that were trained."""
    found: list[Any] = [row["version"] for row in ledger.lines if row["event"] == "trained"]
    return found
