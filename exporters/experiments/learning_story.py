"""The loop from its first request on, replayed on measured traces: cold start, first predictor, new kinds, relearning.

Nothing is generated: where the loop would measure a question, it gets what its traces said, and is charged what they
took. Everything else is the loop's own: pool, training, judging, store. Questions come in an order drawn by a seed, six
kinds first, then all nine. What traffic gains by what is served is scored by labels, which the loop never sees.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from exporters.experiments.learning import Traces
from exporters.experiments.table import Floats, Table
from exporters.learning.candidates import Made, make
from exporters.learning.ledger import Ledger
from exporters.learning.loop import Learner, Rules
from exporters.learning.pool import Pool
from exporters.learning.promotion import UNIFORM, Standing
from exporters.learning.samples import Example, OnMeasured, Sample
from exporters.learning.scoring import gains, saved_at_equal_accuracy
from exporters.learning.store import SLOTS, FolderStore
from exporters.measure.checkers import Checker
from exporters.measure.collect import Measured
from exporters.measure.curves import Curves
from exporters.measure.judging import agreement
from exporters.replay.evaluate import Predicted, predictions
from predictor_service.model import LoadedModel

NEW_KINDS = 3
BUDGET = 32
_SAMPLES = 2
_ROUND = 24  # requests between two passes
_RULES = Rules(BUDGET, (), least=60, look=40, tenant_share=1.0)
_SMOOTHED = 3  # rounds, in the picture


@dataclass(frozen=True)
class Round:
    """A round of traffic, under what was served when it came.

    ``come``: requests by its end. ``version``: what was served. ``gain``: points over uniform at equal use, of all its
    questions and, where it has some, of those of new kinds. ``new``: how many those are; ``abstained``: the share of
    them, and of known ones, that the predictor abstained on. ``tokens``: spent on learning by the round's end.
    """

    come: int
    version: int
    gain: float
    new: int
    new_gain: float | None
    new_abstained: float | None
    known_abstained: float
    tokens: int


@dataclass
class Story:
    """What one seed came to.

    ``first``: questions until the first default, and tokens spent by then; ``None`` where there was none.
    ``saved_tokens``: a request, at equal accuracy, by that default on known kinds; ``relearned``: questions from the
    first of a new kind to the default that was trained on some of them. ``bad``: what became of the shuffled candidate.
    ``gain_*``: points over uniform on questions that were not trained on: of known kinds by the first default, of new
    ones by it, and by what was relearned.
    """

    seed: int
    new_kinds: list[str]
    rounds: list[Round] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    first: int | None = None
    first_tokens: int = 0
    saved_tokens: float = 0.0
    relearned: int | None = None
    bad: str = "never trained"
    gain_known: float | None = None
    gain_new_before: float | None = None
    gain_new_after: float | None = None

    @property
    def requests_to_earn_back(self) -> float:
        """After how many requests the first default has saved what learning had cost by then."""
        return self.first_tokens / self.saved_tokens if self.saved_tokens > 0 else float("inf")


class _Stream:
    """The source: a round of prompts a pass."""

    position = 0

    def __init__(self) -> None:
        self.waiting: list[Sample] = []

    async def take(self, most: int) -> list[Sample]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken


class _Replay:
    """Measures by what traces said."""

    def __init__(self, traces: Traces, is_same: Checker) -> None:
        self._traces, self._is_same = traces, is_same
        self._row = {question: row for row, question in enumerate(traces.questions)}

    async def __call__(self, examples: Sequence[Example], on_measured: OnMeasured) -> int:
        traces, tokens = self._traces, 0
        for example in examples:
            row = self._row[example.sample.prompt]
            answers = traces.answers[row][:_SAMPLES]
            generated = round(float(traces.generated[row]) * _SAMPLES / len(traces.answers[row]))
            tokens += generated
            on_measured(
                example.key,
                Measured(
                    example.key, example.sample.prompt, "", traces.points.tolist(),
                    agreement(answers, self._is_same), traces.used[row].tolist(), float(traces.used[row][-1]), _SAMPLES,
                    answers, generated, "agreement",
                ),
            )  # fmt: skip
        return tokens


def tell(traces: Traces, is_right: Checker, seed: int) -> Story:
    """Run the loop over all questions of ``traces``, once."""
    return asyncio.run(_Telling(traces, is_right, seed).run())


class _Telling:
    """One seed's run."""

    def __init__(self, traces: Traces, is_right: Checker, seed: int) -> None:
        self._traces, self._is_right = traces, is_right
        self._truth = traces.labelled(is_right)
        rng = np.random.default_rng(seed)
        kinds = np.unique(traces.groups)
        new = rng.permutation(kinds)[:NEW_KINDS]
        self._is_new = np.isin(traces.groups, new)
        self._order, self._change = _order(self._is_new, rng)
        self._shuffle = rng
        self._bad_version: int | None = None
        self.story = Story(seed, sorted(new.tolist()))

    async def run(self) -> Story:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self._models = folder / "models"
            source, self._pool = _Stream(), Pool()
            rules = replace(_RULES, points=tuple(self._traces.points.tolist()))
            self._learner = Learner(
                source, _Replay(self._traces, self._is_right), self._pool, Ledger(folder / "ledger.jsonl"),
                FolderStore(self._models), folder, rules, make_candidate=self._make,
            )  # fmt: skip
            for start in range(0, len(self._order), _ROUND):
                rows = self._order[start : start + _ROUND]
                served = self._served(rows)
                version = self._learner.ledger.standing.default
                source.waiting = [Sample(self._traces.questions[row], "customer") for row in rows]
                found = await self._learner.one_pass()
                self.story.decisions += [decision.reason for decision in found.decisions]
                self.story.rounds.append(self._round(rows, served, start + len(rows), version))
                self._milestones(start + len(rows))
        return self.story

    def _make(self, examples: Sequence[Example], budget: int) -> Made:
        """Train; the first candidate after the first default is one that was trained on shuffled curves."""
        standing = self._learner.ledger.standing
        if standing.default == UNIFORM or self._bad_version is not None:
            return make(examples, budget, least_text=_RULES.least_text)
        self._bad_version = standing.version + 1
        order = self._shuffle.permutation(len(examples))
        shuffled = [replace(one, measured=examples[at].measured) for one, at in zip(examples, order, strict=True)]
        return make(shuffled, budget, least_text=0, kinds=["text_curve"])

    def _served(self, rows: Sequence[int]) -> Predicted | None:
        """What the served model says of questions; ``None`` where none is served."""
        if self._learner.ledger.standing.default == UNIFORM:
            return None
        return predictions(LoadedModel(self._models / SLOTS["default"]), self._truth.chosen(rows), None)

    def _round(self, rows: Sequence[int], served: Predicted | None, come: int, version: int) -> Round:
        gain = _points_over_uniform(served, self._truth.chosen(rows))
        new = self._is_new[list(rows)]
        stands = np.ones(len(rows), dtype=bool) if served is None else served.covered
        return Round(
            come,
            version,
            float(gain.mean()),
            int(new.sum()),
            float(gain[new].mean()) if new.any() else None,
            float((~stands[new]).mean()) if new.any() else None,
            float((~stands[~new]).mean()) if (~new).any() else 0.0,
            self._learner.ledger.tokens,
        )

    def _milestones(self, come: int) -> None:
        story, standing = self.story, self._learner.ledger.standing
        if self._bad_version is not None:
            story.bad = _fate(self._bad_version, standing)
        if standing.default == UNIFORM:
            return
        if story.first is None:
            story.first, story.first_tokens = come, self._learner.ledger.tokens
            known = [row for row in self._order[come:] if not self._is_new[row]]
            curves = self._truth.chosen(known)
            found = gains(self._served(known), curves, BUDGET)
            gain = float(found.gains.mean())
            story.gain_known = 100 * gain
            story.saved_tokens = saved_at_equal_accuracy(curves, BUDGET, gain, found.used)
        if come <= self._change:
            story.gain_new_before = self._gain_on(np.flatnonzero(self._is_new).tolist())
        trained_until = self._trained_until(standing.default)
        if story.relearned is None and standing.default != self._bad_version and trained_until > self._change:
            story.relearned = come - self._change
            left = [row for row in self._order[trained_until:] if self._is_new[row]]
            story.gain_new_after = self._gain_on(left)

    def _trained_until(self, version: int) -> int:
        """How many questions had come when a version was trained: numbers of questions begin with 1."""
        rows = self._learner.ledger.about(version)
        return max((int(row["until"]) for row in rows if row["event"] == "trained"), default=0)

    def _gain_on(self, rows: Sequence[int]) -> float | None:
        if not len(rows):
            return None
        return float(_points_over_uniform(self._served(rows), self._truth.chosen(rows)).mean())


def _order(is_new: np.ndarray[Any, np.dtype[np.bool_]], rng: np.random.Generator) -> tuple[list[int], int]:
    """Rows in the order in which they come, and how many come before the first of a new kind may."""
    known, new = rng.permutation(np.flatnonzero(~is_new)), rng.permutation(np.flatnonzero(is_new))
    change = len(known) * 2 // 3
    later = rng.permutation(np.concatenate([known[change:], new]))
    return [*known[:change].tolist(), *later.tolist()], change


def _points_over_uniform(predicted: Predicted | None, truth: Curves) -> Floats:
    found: Floats = 100 * gains(predicted, truth, BUDGET).gains
    return found


def _fate(version: int, standing: Standing) -> str:
    if version in standing.retired:
        return "refused"
    return "served" if version in (standing.default, *standing.lineage) else "undecided"


def story_table(stories: Sequence[Story]) -> Table:
    """What the seeds came to: medians, and the least and the most."""
    rows = [
        ["questions until the first default", *_spread([one.first for one in stories], "{:.0f}")],
        ["tokens spent on learning by then", *_spread([one.first_tokens for one in stories if one.first], "{:,.0f}")],
        ["requests that earn them back", *_spread([one.requests_to_earn_back for one in stories], "{:,.0f}")],
        ["known kinds, by the first default: points", *_spread([one.gain_known for one in stories], "{:+.1f}")],
        ["new kinds, before they are learned: points", *_spread([one.gain_new_before for one in stories], "{:+.1f}")],
        ["abstained on, of the first that come", *_spread([first_abstained(one) for one in stories], "{:.0%}")],
        ["questions until they are learned", *_spread([one.relearned for one in stories], "{:.0f}")],
        ["new kinds, after that: points", *_spread([one.gain_new_after for one in stories], "{:+.1f}")],
    ]
    return Table(["", "median", "least", "most", "seeds"], rows)


def first_abstained(story: Story) -> float | None:
    """The share of new kinds' questions that are abstained on when they first come; ``None`` without a default then."""
    came = next(one for one in story.rounds if one.new)
    return came.new_abstained if came.version != UNIFORM else None


def _spread(values: Sequence[float | None], form: str) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return ["", "", "", f"0 of {len(values)}"]
    cells = [form.format(value) for value in (np.median(known), min(known), max(known))]
    return [*cells, f"{len(known)} of {len(values)}"]


def story_figure(stories: Sequence[Story]) -> Figure:
    """Gains, abstentions and tokens over the requests that came: means over seeds, smoothed over three rounds."""
    drawing = Figure(figsize=(7, 6.4))
    gain, abstained, tokens = drawing.subplots(3, 1, sharex=True)
    come = [one.come for one in stories[0].rounds]
    change = next(one.come for one in stories[0].rounds if one.new) - _ROUND / 2

    def line(axis: Any, label: str, of: Callable[[Round], float | None], scale: float = 1.0) -> None:
        values = np.array([[of(one) for one in story.rounds] for story in stories], dtype=np.float64) * scale
        mean = np.array([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in values.T])
        axis.plot(come, _smooth(mean), label=label, linewidth=1.5)

    line(gain, "all questions", lambda one: one.gain)
    line(gain, "of the new kinds", lambda one: one.new_gain)
    gain.axhline(0, color="#8a93a3", linewidth=1)
    gain.set_ylabel("points over uniform")
    line(abstained, "of the new kinds", lambda one: one.new_abstained, 100)
    line(abstained, "of the known kinds", lambda one: one.known_abstained, 100)
    abstained.set_ylabel("abstained on, %")
    for story in stories:
        tokens.plot(come, [one.tokens / 1000 for one in story.rounds], color="#8a93a3", linewidth=0.7)
    tokens.set_ylabel("thousand tokens\nspent on learning")
    tokens.set_xlabel("requests")
    for axis in (gain, abstained, tokens):
        axis.axvline(change, color="#8a93a3", linestyle=":", linewidth=1)
    gain.set_title(f"new kinds come after {change - _ROUND / 2:.0f} requests", fontsize="small", loc="right")
    for axis in (gain, abstained):
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _smooth(values: Floats) -> Floats:
    """Each with those before and after it; what is not a number stays so, and counts for nothing."""
    half = _SMOOTHED // 2
    parts = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return np.array([np.nan if np.isnan(one) else np.nanmean(part) for one, part in zip(values, parts, strict=True)])
