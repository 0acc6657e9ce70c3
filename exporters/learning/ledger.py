"""What the loop has done, in append-only JSON lines; what is served follows from it, and nothing else decides.

A line is written before what follows from it is done, and doing it again does no harm: so a loop that was killed
anywhere goes on by reading the lines. No line holds anything of a prompt, or a tenant's name.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from exporters.learning.disk import Disk, whole_lines
from exporters.learning.promotion import UNIFORM, Decision, Event, Interval, Judged, Standing, Trained, Watched, after

_EVENTS: dict[str, type[Trained | Judged | Watched]] = {"trained": Trained, "judged": Judged, "watched": Watched}
_NAMES = {kind: name for name, kind in _EVENTS.items()}


class LedgerFault(ValueError):
    """The ledger cannot be read."""


class Ledger:
    """The events so far, and the standing that they led to."""

    def __init__(self, path: Path, disk: Disk | None = None, patience: int = 3) -> None:
        """Read ``path``, if there is one. Raises LedgerFault with the line that cannot be read."""
        self._path, self._disk, self._patience = path, disk or Disk(), patience
        self.standing = Standing()
        self.lines: list[dict[str, Any]] = []
        for number, line in enumerate(whole_lines(path), start=1):
            try:
                row = json.loads(line)
                event = _event(row)
            except (ValueError, TypeError, KeyError) as error:
                raise LedgerFault(f"{path}: line {number}: {error!r}") from None
            self.lines.append(row)
            if event is not None:
                self.standing, _ = after(self.standing, event, patience)

    def record(self, event: Event, **notes: Any) -> Decision:
        """Write an event with what it leads to and ``notes``; returns the decision. What is ignored is not written."""
        standing, decision = after(self.standing, event, self._patience)
        if decision.word == "ignored":
            return decision
        fields = asdict(event)
        self._append(
            {"event": _NAMES[type(event)], **fields, **notes, "decision": decision.word, "reason": decision.reason}
        )
        self.standing = standing
        return decision

    def spent(self, questions: int, tokens: int, position: int = 0) -> None:
        """Note how many questions were measured, the tokens generated for it, and how far the source was read."""
        self._append({"event": "measured", "questions": questions, "tokens": tokens, "position": position})

    @property
    def position(self) -> int:
        """How far the source was read the last time; of a file, by its lines."""
        return next((row["position"] for row in reversed(self.lines) if row.get("position")), 0)

    @property
    def tokens(self) -> int:
        """Tokens that were generated for measuring."""
        return sum(row["tokens"] for row in self.lines if row["event"] == "measured")

    @property
    def last_number(self) -> int:
        """The latest question that any event is about."""
        return max((int(row.get("until", 0)) for row in self.lines), default=0)

    def latest_gain(self, event: Literal["judged", "watched"]) -> Interval | None:
        """The gain at the latest look: a candidate's over the default, or the default's over uniform budgets."""
        for row in reversed(self.lines):
            if row["event"] == event:
                return Interval(**(row["gain"] if event == "judged" else row["against"][str(UNIFORM)]))
        return None

    def about(self, version: int) -> list[dict[str, Any]]:
        """Return the lines about a version."""
        return [row for row in self.lines if row.get("version") == version]

    def _append(self, row: dict[str, Any]) -> None:
        row = {"step": len(self.lines) + 1, **row}
        self._disk.append(self._path, json.dumps(row).encode())
        self.lines.append(json.loads(json.dumps(row)))


def _event(row: dict[str, Any]) -> Event | None:
    """The event of a line; ``None`` for one that only counts."""
    if row["event"] == "measured":
        return None
    kind = _EVENTS[row["event"]]
    fields: dict[str, Any] = {name: row[name] for name in kind.__dataclass_fields__}
    if kind is Judged:
        fields["gain"] = Interval(**fields["gain"])
    elif kind is Watched:
        fields["against"] = {int(version): Interval(**gain) for version, gain in fields["against"].items()}
    return kind(**fields)
