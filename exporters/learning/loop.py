"""One pass of the loop: take samples, measure them, watch the default, judge the candidate, train the next, publish.

What is decided is written to the ledger first, and what is served is brought in line with the ledger afterwards, and
again at the start of every pass. So a loop that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exporters.learning.candidates import Made, curves_of, make
from exporters.learning.cards import card_of, versions
from exporters.learning.disk import Disk
from exporters.learning.ledger import Ledger
from exporters.learning.pool import Pool
from exporters.learning.promotion import UNIFORM, Decision, Interval, Judged, Trained, Watched
from exporters.learning.samples import Example, OnMeasured, Source, fair
from exporters.learning.scoring import difference, foretold, gains
from exporters.learning.states import Origin, PromptState, joined
from exporters.learning.store import SLOTS, Store
from exporters.measure.collect import Measured
from exporters.predictors.export import export
from predictor_service.artifact import read_manifest
from predictor_service.model import LoadedModel

log = logging.getLogger(__name__)

Make = Callable[[Sequence[Example], int], Made]


class Measure(Protocol):
    """Measures examples and tells of each by its key; returns the tokens that were generated."""

    def __call__(self, examples: Sequence[Example], on_measured: OnMeasured) -> Awaitable[int]:
        """Measure."""
        ...


@dataclass(frozen=True)
class Rules:
    """How the loop decides. ``budget``: mean reasoning tokens that models are judged at.

    ``least``: questions that a model is trained on at least; ``look``: new ones that it takes to judge by.
    ``tenant_share``: most of one tenant among them. ``growth``: so many new questions, as a share of those that the
    last training had, make another one worth while. ``per_pass``: most samples taken in a pass. ``keep``: most samples
    kept.
    """

    budget: int
    points: tuple[int, ...]
    least: int = 60
    look: int = 40
    tenant_share: float = 0.2
    growth: float = 0.25
    least_text: int = 60
    per_pass: int = 500
    keep: int = 5000


@dataclass
class Pass:
    """What came of one pass: samples taken, questions measured, tokens generated for them, decisions."""

    taken: int = 0
    measured: int = 0
    tokens: int = 0
    decisions: list[Decision] = field(default_factory=list)


@dataclass
class Done:
    """What was done since the process began: samples taken, questions measured, decisions by word."""

    samples: int = 0
    measured: int = 0
    decisions: Counter[str] = field(default_factory=Counter)


class Learner:
    """The loop. ``state``: its folder, with the models that it may go back to. ``make``: trains a candidate.

    ``done``: for the metrics, as is ``served``, the version in each slot, 0 for none. ``clock``: seconds since 1970.
    """

    def __init__(
        self,
        source: Source,
        measure: Measure,
        pool: Pool,
        ledger: Ledger,
        store: Store,
        state: Path,
        rules: Rules,
        disk: Disk | None = None,
        make_candidate: Make | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Put the parts together; nothing happens before ``one_pass``."""
        self._source, self._measure, self._pool = source, measure, pool
        self.ledger, self._store, self._rules = ledger, store, rules
        self._models, self._disk = state / "models", disk or Disk()
        self._make = make_candidate or _maker(rules)
        self._passed, self._clock = state / "passed", clock
        self.done, self.served = Done(), dict.fromkeys(SLOTS, UNIFORM)

    async def one_pass(self) -> Pass:
        """Run one pass. Raises what the source, the measuring and the store raise; it may be run again after that."""
        found = Pass()
        self.publish()
        most = self._rules.per_pass
        while found.taken < most and (samples := await self._source.take(most - found.taken)):
            new = sum(self._pool.add(sample) is not None for sample in samples)
            found.taken += new
            self.done.samples += new

        def measured(key: str, measured: Measured, state: PromptState | None = None) -> None:
            self._pool.measured(key, measured, state)
            found.measured += 1
            self.done.measured += 1

        chosen = fair(self._pool.all(), self._rules.tenant_share)
        found.tokens = await self._measure([example for example in chosen if example.measured is None], measured)
        if found.tokens:
            self.ledger.spent(found.measured, found.tokens, self._source.position)
        while (decision := self._next()) is not None:
            found.decisions.append(decision)
            self.done.decisions[decision.word] += 1
            log.info("%s: %s", decision.word, decision.reason)
            self.publish()
        self._pool.forget(self._rules.keep)
        if found.measured or not found.taken:  # that nothing can be measured is to be seen
            self._disk.write(self._passed, f"{self._clock():.0f}\n".encode())
        return found

    def last_pass(self) -> float | None:
        """Return when a pass was last made to its end, by whatever process, in seconds since 1970.

        One that took prompts, and measured none, is not counted.
        """
        return float(self._passed.read_text()) if self._passed.exists() else None

    def publish(self) -> None:
        """Let the store hold what the ledger says, and every model's card; remove models that nothing goes back to."""
        standing = self.ledger.standing
        candidate = standing.candidate
        wanted: dict[str, int] = {"default": standing.default, "canary": UNIFORM, "shadow": UNIFORM}
        if candidate is not None and candidate.step in wanted and self._may_be_tried(candidate.version):
            wanted[candidate.step] = candidate.version
        for slot in SLOTS:
            if wanted[slot] == UNIFORM:
                self._store.withdraw(slot)
            else:
                self._store.publish(slot, self._folder(wanted[slot]))
        self.served = wanted
        for version in versions(self.ledger):
            self._store.write_card(version, card_of(self.ledger, version))
        needed = {standing.default, *standing.lineage, *([candidate.version] if candidate else [])}
        for version in versions(self.ledger):
            if version not in needed and self._folder(version).exists():
                self._disk.remove(self._folder(version))

    def _next(self) -> Decision | None:
        """Do the next thing that can be done with what has been measured; ``None`` where there is nothing."""
        points = list(self._rules.points)
        known = [one for one in self._pool.all() if one.measured is not None and one.measured.budget_tokens == points]
        return self._watch(known) or self._judge(known) or self._train(known)

    def _watch(self, known: Sequence[Example]) -> Decision | None:
        standing = self.ledger.standing
        block = self._look(known, standing.watched)
        if standing.default == UNIFORM or not block:
            return None
        own = self._gains(standing.default, block)
        against = {version: difference(own, self._gains(version, block)) for version in standing.fallbacks}
        return self._record(Watched(standing.default, standing.watched, block[-1].number, against))

    def _judge(self, known: Sequence[Example]) -> Decision | None:
        standing = self.ledger.standing
        candidate = standing.candidate
        block = self._look(known, candidate.until) if candidate is not None else []
        if candidate is None or not block:
            return None
        until = block[-1].number
        unseen = [example for example in known if candidate.unseen < example.number <= until]
        gain = self._difference(candidate.version, standing.default, fair(unseen, self._rules.tenant_share))
        return self._record(Judged(candidate.version, candidate.unseen, until, gain))

    def _train(self, known: Sequence[Example]) -> Decision | None:
        standing, rules = self.ledger.standing, self._rules
        # The latest part is for scoring only: a quarter, and at first enough for all three steps where there is enough.
        steps = 1 if standing.version else 3
        later = max(rules.look, len(known) // 4, min(steps * rules.look, len(known) - rules.least))
        part = list(known)[: max(0, len(known) - later)]
        new = sum(example.number > standing.until for example in part)
        chosen = fair(part, rules.tenant_share)
        if standing.candidate is not None or len(chosen) < rules.least:
            return None
        if standing.version and new < max(rules.look, rules.growth * standing.questions):
            return None
        version = standing.version + 1
        made = self._make(chosen, rules.budget)
        digest = self._write(made, version, chosen)
        takes = made.trained.interface
        return self._record(
            Trained(version, part[-1].number, len(chosen)),
            kind=made.kind, hidden_size=takes.hidden_size, layer=takes.layer,
            digest=digest, parent=standing.default, budget_tokens=rules.budget,
            first=chosen[0].number, tenants=len({example.tenant for example in chosen}),
            samples=_samples(chosen), held_out_gain={kind: round(gain, 4) for kind, gain in made.held_out.items()},
        )  # fmt: skip

    def _record(self, event: Trained | Judged | Watched, **notes: object) -> Decision:
        return self.ledger.record(event, **notes)

    def _look(self, known: Sequence[Example], since: int) -> list[Example]:
        """The next questions to judge by: those after ``since``, as few as are enough, or a third of them."""
        rules = self._rules
        new = [example for example in known if example.number > since]
        for count in range(max(rules.look, len(new) // 3), len(new) + 1):
            block = fair(new[:count], rules.tenant_share)
            if len(block) >= rules.look:
                return block
        return []

    def _difference(self, version: int, other: int, block: Sequence[Example]) -> Interval:
        return difference(self._gains(version, block), self._gains(other, block))

    def _gains(self, version: int, block: Sequence[Example]) -> NDArray[np.float64]:
        """Each question's gain over uniform by a version's plan; nothing by uniform's."""
        curves, states = curves_of(block), [example.state for example in block]
        predicted = None if version == UNIFORM else foretold(LoadedModel(self._folder(version)), curves, states)
        return gains(predicted, curves, self._rules.budget).gains

    def _may_be_tried(self, version: int) -> bool:
        """Whether calls bring what a version reads, and its curves have the default's points.

        Schedulers send the text, and the state that the default takes.
        """
        default, needs = self.ledger.standing.default, self._reads(version)
        if default == UNIFORM:
            return needs is None
        own, other = read_manifest(self._folder(version)), read_manifest(self._folder(default))
        return needs in (None, self._reads(default)) and own.budget_points == other.budget_points

    def _reads(self, version: int) -> Origin | None:
        """Where the states are from that a version reads; ``None`` where it reads none."""
        if version == UNIFORM:
            return None
        manifest = read_manifest(self._folder(version))
        return (manifest.layer, manifest.hidden_size) if manifest.hidden_size else None

    def _folder(self, version: int) -> Path:
        return self._models / str(version)

    def _write(self, made: Made, version: int, examples: Sequence[Example]) -> str:
        """Write a trained model as a folder, whole or not at all; returns its graph's digest.

        It is compared with what was trained on the questions that have what it reads.
        """
        staged = self._models / f".{version}.new"
        shutil.rmtree(staged, ignore_errors=True)
        takes = made.trained.interface
        hidden, known = joined([example.state for example in examples], (takes.layer, takes.hidden_size))
        rows = np.flatnonzero(known).tolist() if takes.hidden_size else list(range(len(examples)))
        texts = [examples[row].sample.prompt for row in rows]
        manifest, _ = export(made.trained, staged, texts, hidden[rows], name=SLOTS["default"], version=str(version))
        self._disk.place(staged, self._folder(version))
        return manifest.files["model.onnx"]


def _maker(rules: Rules) -> Make:
    return lambda examples, budget: make(examples, budget, least_text=rules.least_text)


def _samples(examples: Sequence[Example]) -> int:
    return sum(example.measured.samples for example in examples if example.measured is not None)
