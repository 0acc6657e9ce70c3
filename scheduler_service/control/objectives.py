"""What latency is promised: ``"total p99 20s"``, ``"first_token p95 1s"``, ``"gold: total p99 5s"``."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_FORM = re.compile(
    r"(?:(?P<of>[^:]*):)?\s*(?P<measure>\S+)\s+p(?P<percent>\d+(?:\.\d+)?)\s+(?P<value>\d+(?:\.\d+)?)(?P<unit>ms|s|m)"
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_LONGEST_SECONDS = 3600.0
_EXAMPLES = "'total p99 20s', 'first_token p95 1s' or 'gold: total p99 5s'"


class Measure(enum.Enum):
    """What is promised: the time until the first token, or until the answer is complete; both from admission on."""

    TOTAL = "total"
    FIRST_TOKEN = "first_token"  # noqa: S105  # no secret


@dataclass(frozen=True)
class Objective:
    """``quantile`` (0 to 1) of the requests have ``measure`` within ``seconds``. ``of``: a tenant, or empty for all."""

    measure: Measure
    quantile: float
    seconds: float
    of: str = ""

    def __str__(self) -> str:
        """The objective as an operator writes it."""
        who = f"{self.of}: " if self.of else ""
        return f"{who}{self.measure.value} p{100 * self.quantile:.10g} {self.seconds:g}s"


def parse_objectives(texts: Sequence[str], setting: str = "objective") -> tuple[Objective, ...]:
    """Return the objectives that ``texts`` say, in their order.

    Raises ValueError, naming the ``setting`` and the text, for one that is not of the form, whose quantile is not from
    50 to below 100, whose time is not above 0 and at most an hour, or that promises what another one promises too.
    """
    found: dict[tuple[str, Measure], Objective] = {}
    for text in texts:
        objective = _parsed(text, setting)
        key = (objective.of, objective.measure)
        if key in found:
            raise ValueError(
                f"{setting}: {text!r} is the second objective for {objective.measure.value} of the same requests"
            )
        found[key] = objective
    return tuple(found.values())


def _parsed(text: str, setting: str) -> Objective:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{setting}: {text!r} is not of the form {_EXAMPLES}")
    names = [measure.value for measure in Measure]
    if match["measure"] not in names:
        raise ValueError(f"{setting}: {text!r}: {match['measure']!r} is none of {', '.join(names)}")
    quantile, seconds = float(match["percent"]) / 100, float(match["value"]) * _SECONDS[match["unit"]]
    if not 0.5 <= quantile < 1:
        raise ValueError(f"{setting}: {text!r}: the quantile must be from p50 to below p100")
    if not 0 < seconds <= _LONGEST_SECONDS or not math.isfinite(seconds):
        raise ValueError(f"{setting}: {text!r}: the time must be above 0 and at most an hour")
    of = match["of"]
    if of is not None and not of.strip():
        raise ValueError(f"{setting}: {text!r} names nobody before the colon")
    return Objective(Measure(match["measure"]), quantile, seconds, (of or "").strip())
