"""Which model is served: a state machine over evidence, without I/O.

A candidate goes from trained to shadow, to canary, to default. Each step needs evidence on questions that came after
its training, with newer ones among them than the last step had: the difference of its gain to the present default's (to
uniform's, where there is none), with the lower bound of its interval above 0. A default whose gain falls below that of
a model before it, or below uniform's, with the upper bound of the difference below 0, is rolled back to the best of
them. Who is refused or rolled back never comes back: another candidate needs other training, and so another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Step = Literal["trained", "shadow", "canary", "default"]
_NEXT: dict[Step, Step] = {"trained": "shadow", "shadow": "canary", "canary": "default"}
Word = Literal["candidate", "promoted", "undecided", "refused", "stays", "rolled back", "ignored"]
UNIFORM = 0  # as a version: no model at all


@dataclass(frozen=True)
class Interval:
    """A mean difference of accuracies (fractions) over ``questions``, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    questions: int

    def __str__(self) -> str:
        """Say it in points."""
        bounds = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.mean:+.1f} points ({bounds}; {self.questions} questions)"


@dataclass(frozen=True)
class Trained:
    """Version ``version`` was trained on ``questions``, the latest of which came as number ``until``."""

    version: int
    until: int
    questions: int


@dataclass(frozen=True)
class Judged:
    """The candidate's gain less the default's, over the questions numbered above ``since`` up to ``until``."""

    version: int
    since: int
    until: int
    gain: Interval


@dataclass(frozen=True)
class Watched:
    """The default's gain less that of others (``UNIFORM`` or versions), over questions above ``since`` to ``until``."""

    version: int
    since: int
    until: int
    against: Mapping[int, Interval]


Event = Trained | Judged | Watched


@dataclass(frozen=True)
class Candidate:
    """A version on its way. ``unseen``: it may be judged on questions after this one; ``until``: it was, up to here."""

    version: int
    step: Step
    unseen: int
    until: int
    undecided: int = 0


@dataclass(frozen=True)
class Standing:
    """What is served, and what led to it.

    ``default``: version, or ``UNIFORM``. ``lineage``: the defaults before it, oldest first. ``retired``: versions that
    were refused or rolled back. ``watched``: the latest question that the default was judged on. ``version``: the last
    that was trained; ``questions``, ``until``: how many that was trained on, and the latest of them.
    """

    default: int = UNIFORM
    lineage: tuple[int, ...] = ()
    candidate: Candidate | None = None
    retired: frozenset[int] = frozenset()
    watched: int = 0
    version: int = 0
    questions: int = 0
    until: int = 0

    @property
    def fallbacks(self) -> tuple[int, ...]:
        """What the default is watched against: uniform budgets, and the last two defaults before it."""
        return (UNIFORM, *self.lineage[-2:]) if self.default != UNIFORM else ()


@dataclass(frozen=True)
class Decision:
    """What an event led to, in one word and in a sentence."""

    word: Word
    reason: str


def after(standing: Standing, event: Event, patience: int = 3) -> tuple[Standing, Decision]:
    """Return the standing after an event, and what was decided.

    ``patience``: a candidate that so many times in a row is neither better nor worse is refused. Evidence that does not
    fit, of another version or not newer than what was already judged by, changes nothing.
    """
    if isinstance(event, Trained):
        return _trained(standing, event)
    if isinstance(event, Judged):
        return _judged(standing, event, patience)
    return _watched(standing, event)


def _trained(standing: Standing, event: Trained) -> tuple[Standing, Decision]:
    if standing.candidate is not None or event.version <= standing.version:
        return standing, Decision("ignored", f"version {event.version} comes while another is judged, or twice")
    found = replace(
        standing,
        candidate=Candidate(event.version, "trained", event.until, event.until),
        version=event.version,
        questions=event.questions,
        until=event.until,
    )
    return found, Decision("candidate", f"version {event.version} was trained on {event.questions} questions")


def _judged(standing: Standing, event: Judged, patience: int) -> tuple[Standing, Decision]:
    candidate, gain = standing.candidate, event.gain
    if candidate is None or candidate.version != event.version or event.since < candidate.unseen:
        return standing, Decision("ignored", f"version {event.version} is no candidate, or has seen these questions")
    if event.until <= candidate.until or gain.questions == 0:
        return standing, Decision("ignored", "no questions have come since it was judged last")
    named = f"version {event.version}: {gain} beside {_named(standing.default)}"
    if gain.low > 0:
        step = _NEXT[candidate.step]
        if step != "default":
            moved = replace(candidate, step=step, until=event.until, undecided=0)
            return replace(standing, candidate=moved), Decision("promoted", f"{named}; the bound is above 0: {step}")
        before = standing.lineage if standing.default == UNIFORM else (*standing.lineage, standing.default)
        found = replace(standing, default=event.version, lineage=before, candidate=None, watched=event.until)
        return found, Decision("promoted", f"{named}; the bound is above 0: default")
    undecided = candidate.undecided + 1
    if gain.high < 0 or undecided >= patience:
        why = "it is worse" if gain.high < 0 else f"not shown to be better in {undecided} looks"
        return _without(standing, event.version), Decision("refused", f"{named}; {why}")
    waiting = replace(candidate, until=event.until, undecided=undecided)
    return replace(standing, candidate=waiting), Decision("undecided", f"{named}; the bound is not above 0")


def _without(standing: Standing, version: int) -> Standing:
    return replace(standing, candidate=None, retired=standing.retired | {version})


def _watched(standing: Standing, event: Watched) -> tuple[Standing, Decision]:
    new = event.since >= standing.watched and event.until > event.since
    if standing.default == UNIFORM or event.version != standing.default or not new:
        return standing, Decision(
            "ignored", f"version {event.version} is not the default, or was judged by this already"
        )
    worse_than = {
        version: gain
        for version, gain in event.against.items()
        if version in standing.fallbacks and gain.questions and gain.high < 0
    }
    watched = replace(standing, watched=event.until)
    if not worse_than:
        shown = "; ".join(f"{gain} beside {_named(version)}" for version, gain in sorted(event.against.items()))
        return watched, Decision("stays", f"version {event.version}: {shown}")
    best = min(worse_than, key=lambda version: worse_than[version].mean)
    kept = standing.lineage[: standing.lineage.index(best)] if best != UNIFORM else ()
    gone = {standing.default, *standing.lineage} - {best, *kept}
    candidate = standing.candidate
    if candidate is not None:  # it was held against what has turned out to be bad: it begins again
        seen = max(candidate.until, event.until)
        candidate = Candidate(candidate.version, "trained", seen, seen)
    found = replace(
        watched, default=best, lineage=kept, candidate=candidate, retired=standing.retired | frozenset(gone)
    )
    return found, Decision(
        "rolled back", f"version {event.version}: {worse_than[best]} beside {_named(best)}; back to {_named(best)}"
    )


def _named(version: int) -> str:
    return "uniform budgets" if version == UNIFORM else f"version {version}"
