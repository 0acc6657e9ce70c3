"""Which endpoints are left out for a while because they keep failing, as Envoy ejects outliers. Pure.

``failures`` in a row eject an endpoint for ``base_seconds`` times how often that happened lately. Then it is on trial:
its next failure ejects it again, its next success brings it back. Never are all ejected: beyond ``most_percent``, and
for the last one that is left, a failure changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EjectionRules:
    """When an endpoint is ejected, and for how long."""

    failures: int = 3
    base_seconds: float = 5.0
    longest_seconds: float = 300.0
    most_percent: int = 90


@dataclass
class _Record:
    """What is remembered of an endpoint."""

    in_a_row: int = 0
    ejections: int = 0
    until: float = 0.0
    trusted_since: float = 0.0


class Ejection:
    """Judges ``count`` endpoints by what their calls came to; ``now`` is any clock's seconds."""

    def __init__(self, count: int, rules: EjectionRules | None = None) -> None:
        """Start with every endpoint trusted."""
        self.rules = rules or EjectionRules()
        self._records = [_Record() for _ in range(count)]
        # As in Envoy one may always be ejected, whatever its percentage; here the last one never is.
        self._most = min(count - 1, max(1, count * self.rules.most_percent // 100))

    def failed(self, at: int, now: float) -> bool:
        """A call to endpoint ``at`` failed; returns whether that ejects it."""
        record = self._records[at]
        record.in_a_row += 1
        # Calls that were under way when it was ejected may fail, too: that says nothing new.
        return record.in_a_row >= self.rules.failures and not self.ejected(at, now) and self.eject(at, now)

    def eject(self, at: int, now: float) -> bool:
        """Leave endpoint ``at`` out, if it is not one too many; returns whether it is."""
        record = self._records[at]
        if sum(one.until > now for one in self._records if one is not record) >= self._most:
            return False
        record.in_a_row = max(record.in_a_row, self.rules.failures)
        record.ejections += 1
        record.until = now + min(self.rules.longest_seconds, self.rules.base_seconds * record.ejections)
        return True

    def succeeded(self, at: int, now: float) -> None:
        """A call to endpoint ``at`` went well; the longer it does, the shorter its next ejection will be."""
        record = self._records[at]
        if record.in_a_row:
            record.in_a_row, record.trusted_since = 0, now
        elif record.ejections and now - record.trusted_since >= self.rules.base_seconds:
            record.ejections, record.trusted_since = record.ejections - 1, now

    def ejected(self, at: int, now: float) -> bool:
        """Whether endpoint ``at`` is left out."""
        return self._records[at].until > now

    def on_trial(self, at: int, now: float) -> bool:
        """Whether endpoint ``at`` is back, but has not yet shown that it works: one call at a time is enough."""
        return self._records[at].in_a_row >= self.rules.failures and not self.ejected(at, now)

    def in_a_row(self, at: int) -> int:
        """Failures of endpoint ``at`` since its last success."""
        return self._records[at].in_a_row
