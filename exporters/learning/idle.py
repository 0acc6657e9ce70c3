"""How much may be generated beside the traffic: a share of the time in which slots of the LLM server are idle.

An account of slot-seconds: it earns ``share`` of every idle one, and each generation of ours pays for its time. So the
share holds with few slots as well, where it would be less than one generation. When the load rises nothing is started,
and what runs is given up.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_SECONDS = 30.0  # an idle night must not be spent in one busy morning
_LONGEST_TICK = 30.0  # a process that was stopped for hours has generated nothing meanwhile


@dataclass(frozen=True)
class Load:
    """Requests of others that are in flight, and the generations that the LLM server runs at once."""

    in_flight: int
    slots: int

    @property
    def idle(self) -> int:
        """Slots that nobody uses."""
        return max(0, self.slots - self.in_flight)


@dataclass(frozen=True)
class Allowed:
    """How many generations may be started now, and whether those that run are to be given up."""

    start: int = 0
    give_up: bool = False


@dataclass
class IdleAccount:
    """``share``: of the idle slots' time, 0 to 1. ``busy``: from this share of slots in use on everything is given up.

    ``balance``: slot-seconds; what runs may overdraw it by its own length, which is then waited for.
    """

    share: float
    busy: float = 0.75
    balance: float = 0.0

    def tick(self, load: Load, running: int, seconds: float) -> Allowed:
        """Count ``seconds`` under ``load`` with ``running`` generations of ours; returns what may be done now."""
        seconds = min(seconds, _LONGEST_TICK)
        earned = self.share * load.idle * seconds
        self.balance = min(self.balance + earned, _MOST_SECONDS * self.share * load.slots) - running * seconds
        if load.in_flight >= self.busy * load.slots:
            return Allowed(give_up=True)
        if self.share >= 1:  # there is nothing to save for: all that is idle may be used
            return Allowed(max(0, load.idle - running))
        return Allowed(max(0, min(load.idle - running, int(self.balance))))
