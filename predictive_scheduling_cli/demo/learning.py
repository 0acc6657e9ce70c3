"""``demo --learn``: a predictor that makes itself from traffic, told in five acts. Labels are for the audience only.

The loop sees prompts of one tenant and its own generations. What is right, and so the accuracies that are shown, only
the demo knows; it asks its own questions as another tenant, whose prompts nobody samples.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from exporters.cli.learn import report
from exporters.demo.tasks import FAMILIES, Task, unique_tasks
from exporters.learning.candidates import curves_of, make
from exporters.learning.idle import IdleAccount
from exporters.learning.ledger import Ledger
from exporters.learning.loop import Learner, Rules
from exporters.learning.measuring import Counting, Measuring
from exporters.learning.pool import Pool
from exporters.learning.promotion import Candidate, Judged, after
from exporters.learning.samples import Example
from exporters.learning.scoring import difference, gains, saved_at_equal_accuracy
from exporters.learning.store import FolderStore
from exporters.learning.traffic import RunningScheduler
from exporters.measure.checkers import checker, exact
from exporters.measure.collect import Plan
from exporters.measure.curves import Curves
from exporters.measure.judging import judge_of
from exporters.predictors.export import export
from exporters.replay.evaluate import predictions
from predictive_scheduling.client import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.services import service
from predictor_service.model import LoadedModel
from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.embedded import EmbeddedBackend
from scheduler_service.generation.templates import TEMPLATES

NEW_KINDS = ("lookup", "product", "largest")
POINTS = (16, 32, 48, 64, 96)
BUDGET = 40  # where the mean curve's gain shows in the fewest questions
_ROUND = 40  # requests of traffic between two passes
_MOST_ROUNDS = 6
_SHOWN = 10  # questions of each kind that the audience sees
_RELOAD_SECONDS = 0.5
_RULES = Rules(BUDGET, POINTS, least=60, look=24, tenant_share=1.0)
_PREDICTOR = {
    "default_model": "learned",
    "default_may_be_missing": True,
    "canary": "learned=learned-canary:0.1",
    "shadow": "learned=learned-shadow",
    "reload_seconds": _RELOAD_SECONDS,
}
_SCHEDULER = {
    "backend": "embedded", "template": "demo", "policy": "envelope", "predictor_model": "learned",
    "sample_tenants": "customer", "tokens_per_query": BUDGET, "floor_tokens": 16, "cap_tokens": POINTS[-1],
    "answer_tokens": 12, "bank_limit_tokens": 0, "window_size": 30, "window_ms": 500, "window_adaptive": False,
    "predictor_timeout_ms": 2000, "predictor_cache": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What the audience's questions came to: share that was right, reasoning tokens a question, outcomes by name."""

    accuracy: float
    tokens: float
    outcomes: dict[str, int]

    @classmethod
    def of(cls, replies: Sequence[tuple[Task, pb.CompleteResponse]]) -> Shown:
        """What these replies came to."""
        right = [exact(task.answer, reply.answer) for task, reply in replies]
        names = [pb.PredictionOutcome.Name(reply.allocation.prediction_outcome) for _, reply in replies]
        outcomes = Counter(name.removeprefix("PREDICTION_OUTCOME_").lower() for name in names)
        tokens = [reply.usage.reasoning_tokens for _, reply in replies]
        return cls(float(np.mean(right)), float(np.mean(tokens)), dict(outcomes))

    def __str__(self) -> str:
        """Say it in one line."""
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return f"{self.accuracy:.1%} right, {self.tokens:.1f} reasoning tokens each; predictions: {outcomes}"


async def run_learning_demo(out: Path, sockets: Path, console: Console, *, threads: int = 0) -> dict[str, Any]:
    """Tell the story; returns its figures, which it also writes to ``out``/learning.json.

    ``threads``: of the LLM that measures, 0 for all cores.
    """
    folder = out / "learning"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    log = out / "services.log"
    log.unlink(missing_ok=True)
    backend = Counting(EmbeddedBackend(threads=threads))
    await backend.start()
    try:
        flags = {**_PREDICTOR, "models": folder / "models"}
        async with (
            service("predictor", f"unix:{sockets}/predictor.sock", log, otlp="", **flags) as predictor,
            service("scheduler", f"unix:{sockets}/s.sock", log, otlp="", **_SCHEDULER, predictor=predictor) as address,
            AsyncSchedulerClient(address, timeout=600.0) as client,
        ):
            found = await _Story(client, backend, folder, console).tell()
    finally:
        await backend.close()
    (out / "learning.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


class _Story:
    """The acts, over running services and a started LLM that measures."""

    def __init__(self, client: AsyncSchedulerClient, backend: Counting, folder: Path, console: Console) -> None:
        self._client, self._console, self._models = client, console, folder / "models"
        traffic = RunningScheduler(client, slots=8)
        plan = Plan(TEMPLATES["demo"], POINTS, samples=2, answer_tokens=12, sampling=Sampling(temperature=0.6))
        measure = Measuring(backend, plan, judge_of("agreement:exact", checker), traffic, IdleAccount(1.0))
        self._pool, ledger = Pool(), Ledger(folder / "ledger.jsonl")
        self._learner = Learner(traffic, measure, self._pool, ledger, FolderStore(self._models), folder, _RULES)
        six = {name: family for name, family in FAMILIES.items() if name not in NEW_KINDS}
        self._six, self._nine = unique_tasks(11, six), unique_tasks(12)
        asked = list(islice(unique_tasks(13), _SHOWN * len(FAMILIES)))
        self._asked_six, self._asked = [task for task in asked if task.family in six], asked
        self._requests = 0

    async def tell(self) -> dict[str, Any]:
        say = self._console.print
        say("[bold]1. No predictor yet: everybody has the same budget.[/bold]")
        replies = await self._ask_as_audience(self._asked)
        cold = Shown.of(replies)
        cold_six = Shown.of([(task, reply) for task, reply in replies if task in self._asked_six])
        say(f"six kinds of questions: {cold_six}")
        say("[bold]2. Traffic of six kinds; in its pauses the loop measures it, without knowing what is right.[/bold]")
        questions = await self._until_served(self._six, above=0)
        learned_six = await self._show(self._asked_six)
        say(f"six kinds, {self._served()}: {learned_six}")
        back = self._earned_back()
        say(
            f"{questions} questions, {self._learner.ledger.tokens:,} tokens spent on learning; "
            f"{back['saved_tokens_per_request']:.1f} tokens saved a request at equal accuracy, so earned back after "
            f"{back['requests']:,.0f} requests"
        )
        say("[bold]3. A candidate that is trained on shuffled curves is refused.[/bold]")
        refused = self._bad_candidate()
        say(f"   {refused}")
        say("[bold]4. Three kinds come that it never saw.[/bold]")
        before = await self._show(self._asked)
        say(f"nine kinds, uniform: {cold}")
        say(f"nine kinds, {self._served()}: {before}")
        say("[bold]5. The loop learns them.[/bold]")
        await self._until_served(self._nine, above=self._learner.ledger.standing.default)
        relearned = await self._show(self._asked)
        say(f"nine kinds, {self._served()}: {relearned}")
        return {
            "questions_to_first_default": questions,
            "requests": self._requests,
            "tokens_spent_on_learning": self._learner.ledger.tokens,
            "earned_back": back,
            "six_kinds": {"uniform": vars(cold_six), "learned": vars(learned_six)},
            "nine_kinds": {"uniform": vars(cold), "learned_on_six": vars(before), "relearned": vars(relearned)},
            "bad_candidate": refused,
            "decisions": [row["reason"] for row in self._learner.ledger.lines if "reason" in row],
        }

    def _served(self) -> str:
        default = self._learner.ledger.standing.default
        return f"version {default}" if default else "uniform, nothing is better yet"

    async def _until_served(self, tasks: Any, *, above: int) -> int:
        """Send traffic, a pass after each round, until a version ``above`` is the default; returns the questions."""
        for _ in range(_MOST_ROUNDS):
            await self._ask(list(islice(tasks, _ROUND)), "customer")
            found = await self._learner.one_pass()
            self._console.print(report(found, self._learner), soft_wrap=True)
            if self._learner.ledger.standing.default > above:
                break
        return sum(example.measured is not None for example in self._pool.all())

    async def _show(self, tasks: Sequence[Task]) -> Shown:
        return Shown.of(await self._ask_as_audience(tasks))

    async def _ask_as_audience(self, tasks: Sequence[Task]) -> list[tuple[Task, pb.CompleteResponse]]:
        """Ask the audience's questions, as a tenant that nobody samples."""
        await asyncio.sleep(4 * _RELOAD_SECONDS)  # until the predictor has seen what was published
        return await self._ask(tasks, "audience")

    async def _ask(self, tasks: Sequence[Task], tenant: str) -> list[tuple[Task, pb.CompleteResponse]]:
        sampling = pb.Sampling(temperature=0.0)

        async def ask(task: Task) -> pb.CompleteResponse:
            return await self._client.complete(task.question, tenant=tenant, sampling=sampling)

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(task)) for task in tasks]
        self._requests += len(tasks)
        return [(task, reply.result()) for task, reply in zip(tasks, asked, strict=True)]

    def _unseen(self) -> list[Example]:
        """Measured questions that came after the last training."""
        until = self._learner.ledger.standing.until
        return [example for example in self._pool.all() if example.measured is not None and example.number > until]

    def _earned_back(self) -> dict[str, float]:
        """How many requests it takes to save what learning has cost, by the measured curves of unseen questions."""
        if not self._learner.ledger.standing.default:
            return {"saved_tokens_per_request": 0.0, "requests": float("inf")}
        curves = curves_of(self._unseen())
        foretold = predictions(LoadedModel(self._models / "learned"), curves, None)
        found = gains(foretold, curves, BUDGET)
        saved = saved_at_equal_accuracy(curves, BUDGET, float(found.gains.mean()), found.used)
        spent = self._learner.ledger.tokens
        return {"saved_tokens_per_request": saved, "requests": spent / saved if saved > 0 else float("inf")}

    def _gains(self, model: Path, curves: Curves) -> NDArray[np.float64]:
        return gains(predictions(LoadedModel(model), curves, None), curves, BUDGET).gains

    def _bad_candidate(self) -> str:
        """Train on curves of other questions, judge it once by the rule of all candidates; returns what came of it."""
        standing = self._learner.ledger.standing
        unseen = self._unseen()
        known = [one for one in self._pool.all() if one.measured is not None and one.number <= standing.until]
        order = np.random.default_rng(0).permutation(len(known))
        shuffled = [replace(one, measured=known[at].measured) for one, at in zip(known, order, strict=True)]
        made = make(shuffled, BUDGET, least_text=0, kinds=["text_curve"])
        curves = curves_of(unseen)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "shuffled"
            export(made.trained, folder, curves.questions, None, name="shuffled", version="1")
            own = self._gains(folder, curves)
        present = self._gains(self._models / "learned", curves) if standing.default else np.zeros(len(own))
        version, until = standing.version + 1, unseen[-1].number
        trial = replace(standing, candidate=Candidate(version, "trained", standing.until, standing.until))
        _, decision = after(trial, Judged(version, standing.until, until, difference(own, present)), patience=1)
        return f"{decision.word}: {decision.reason}"
