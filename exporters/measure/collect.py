"""Measure curves: let a model reason, cut the reasoning at every budget point, force an answer, and judge it.

One trace of a question serves all its points: its reasoning is generated once, up to the last point, and the forced
answer of every point continues a prefix of it. The longest prefix goes first, so that an engine that keeps a request's
state computes none of them again. From the point on at which the reasoning ended by itself, the answer is the model's
own. Where it is enough to know from when on the answer no longer changes, the shortest prefix goes first, and what
follows some answers in a row that are the model's own is taken to be so, too. Progress is kept line by line beside the
output, so that a killed run goes on where it stopped; its first line says by what settings, so that no run goes on by
others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from exporters.measure.curves import write_curves
from exporters.measure.judging import Judge, JudgedBy
from exporters.measure.questions import Question
from predictive_scheduling.budget_points import check_points, evenly_spaced
from scheduler_service.domain import Sampling, TextKind
from scheduler_service.generation.backends.base import Backend, Piece
from scheduler_service.generation.driver import drive
from scheduler_service.generation.forcing import BudgetForcing, ReportRequest
from scheduler_service.generation.templates import PromptTemplate

_SETTINGS = "settings"  # of a progress file, in its first line


@dataclass(frozen=True)
class Measured:
    """A question's measured curves: at each of ``budget_tokens``, accuracy (fraction) and mean tokens used.

    ``reasoning_tokens``: mean length of the reasoning, cut at the last point at most. ``answers``: what each trace
    answered at each point (traces × points), for votes over traces. ``generated_tokens``: what measuring it cost.
    ``judged_by``: what answers were held against, what the question expects or the ends of other traces.
    """

    question_id: str
    question: str
    group: str
    budget_tokens: list[int]
    accuracy: list[float]
    used_tokens: list[float]
    reasoning_tokens: float
    samples: int
    answers: list[list[str]]
    generated_tokens: int
    judged_by: JudgedBy


@dataclass(frozen=True)
class Plan:
    """How to measure: budget points, samples a question, the longest answer, and how the model samples.

    ``settled``: after so many forced answers in a row that are the trace's own answer, later points are not asked any
    more; 0 asks at every point. Raises CurveError, a ValueError, for points that do not rise.
    """

    template: PromptTemplate
    points: tuple[int, ...] = evenly_spaced(16, 16)
    samples: int = 1
    answer_tokens: int = 12
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    settled: int = 0

    def __post_init__(self) -> None:
        """Refuse points that are none."""
        check_points(self.points)


@dataclass(frozen=True)
class Trace:
    """One trace: the answer at each point, the length of its reasoning, and the tokens that were generated for it."""

    answers: list[str]
    reasoning_tokens: int
    generated_tokens: int


class _Recording:
    """A trace's reasoning, token by token, so that it can be cut at any point."""

    def __init__(self, forcing: BudgetForcing) -> None:
        self._forcing = forcing
        self._texts: list[str] = []

    def take(self, piece: Piece) -> None:
        if self._forcing.reasoning:
            self._texts += [piece.text] + [""] * (piece.tokens - 1)

    def prefix(self, tokens: int) -> str:
        return "".join(self._texts[:tokens])


async def _answer(
    backend: Backend,
    forcing: BudgetForcing,
    sampling: Sampling,
    on_piece: Callable[[Piece], None] | None = None,
    report: ReportRequest | None = None,
) -> str:
    """Run a generation to its end; returns the answer."""
    texts = [text async for text in drive(backend, forcing, sampling, on_piece=on_piece, report=report)]
    return "".join(text.text for text in texts if text.kind is TextKind.ANSWER).strip()


async def measure_trace(backend: Backend, plan: Plan, question: Question, report: ReportRequest | None = None) -> Trace:
    """Measure one trace. Raises what the backend raises.

    ``report``: what the first call, of the prompt alone, asks for beside its text.
    """

    def forcing_of(budget: int, begun: str = "") -> BudgetForcing:
        limit = backend.capabilities.call_limit
        return BudgetForcing(plan.template, question.question, budget, plan.answer_tokens, limit, begun=begun)

    forcing = forcing_of(plan.points[-1])
    record = _Recording(forcing)
    own_answer = await _answer(backend, forcing, plan.sampling, record.take, report)
    generated = forcing.reasoning_tokens + forcing.answer_used
    answers = dict.fromkeys(plan.points, own_answer)
    before_its_end = [tokens for tokens in plan.points if tokens < forcing.reasoning_tokens]
    agreed = 0
    for tokens in before_its_end if plan.settled else reversed(before_its_end):
        if plan.settled and agreed >= plan.settled:
            break
        cut = forcing_of(0, record.prefix(tokens))
        answers[tokens] = await _answer(backend, cut, plan.sampling)
        generated += cut.answer_used
        agreed = agreed + 1 if answers[tokens] == own_answer else 0
    return Trace(list(answers.values()), forcing.reasoning_tokens, generated)


async def measure_question(
    backend: Backend, plan: Plan, question: Question, judge: Judge, report: ReportRequest | None = None
) -> Measured:
    """Measure a question's curves over all its samples. Raises what the backend raises, and what the judge does.

    ``report``: what the first call of all asks for beside its text.
    """
    asks = [report, *[None] * (plan.samples - 1)]
    traces = [await measure_trace(backend, plan, question, ask) for ask in asks]
    answers = [trace.answers for trace in traces]
    lengths = [trace.reasoning_tokens for trace in traces]
    return Measured(
        question.question_id,
        question.question,
        question.group,
        list(plan.points),
        judge.accuracy(question, answers),
        [sum(min(length, point) for length in lengths) / plan.samples for point in plan.points],
        sum(lengths) / plan.samples,
        plan.samples,
        answers,
        sum(trace.generated_tokens for trace in traces),
        judge.judged_by(question),
    )


@dataclass(frozen=True)
class Estimate:
    """What measuring costs, by what some questions have cost: of so many ``questions``, tokens and seconds.

    ``seconds``: ``None`` where nobody took the time.
    """

    questions: int
    tokens: float
    seconds: float | None

    def __str__(self) -> str:
        """Say it in words."""
        cost = f"{self.questions} questions: about {self.tokens:,.0f} tokens"
        if self.seconds is None:
            return cost
        hours, minutes = divmod(round(self.seconds / 60), 60)
        return f"{cost} and {hours} h {minutes:02} min"


def estimate(measured: Sequence[Measured], seconds: float | None, questions: int) -> Estimate:
    """Expect of ``questions`` what the ``measured`` ones took in ``seconds``, as many of them at once."""
    share = questions / max(1, len(measured))
    tokens = share * sum(item.generated_tokens for item in measured)
    return Estimate(questions, tokens, None if seconds is None else share * seconds)


async def collect(
    backend: Backend,
    plan: Plan,
    questions: Iterable[Question],
    judge: Judge,
    out: Path,
    *,
    concurrency: int = 8,
    on_measured: Callable[[Measured, Estimate], None] = lambda *_: None,
    pilot: int = 0,
    known_as: Mapping[str, str] | None = None,
) -> list[Measured]:
    """Measure all ``questions`` against a started backend and write ``out`` (parquet).

    Questions already in ``out``'s progress file are not measured again; ``known_as``: what else than the plan a run
    must share with the one that it goes on with, such as the model. ``on_measured`` is told of each, with what the
    rest is expected to cost. ``pilot``: measure so many questions, evenly chosen, and write no output yet. Returns the
    measurements, in the order of the questions. Raises what the backend raises; what was measured until then is kept.
    Raises ValueError, before anything is generated, for questions that ``judge`` cannot judge by so few samples, and
    for progress by other settings.
    """
    asked = list(questions)
    if "agreement" in {judge.judged_by(question) for question in asked} and plan.samples < 2:
        raise ValueError("--samples: agreement needs at least two traces of a question")
    progress = out.with_suffix(".progress.jsonl")
    progress.parent.mkdir(parents=True, exist_ok=True)
    wanted = asked[:: max(1, len(asked) // pilot)][:pilot] if pilot else asked
    settings = {**_settings(plan), **(known_as or {})}
    done = {item.question_id: item for item in _read_progress(progress, plan, settings)}
    missing = [question for question in wanted if question.question_id not in done]
    waiting, new, began = iter(missing), [], time.monotonic()
    with progress.open("a") as file:
        if not _end_line(progress, file):
            file.write(json.dumps({_SETTINGS: settings}) + "\n")

        async def worker() -> None:
            for question in waiting:
                measured = await measure_question(backend, plan, question, judge)
                file.write(json.dumps(asdict(measured)) + "\n")
                file.flush()
                done[measured.question_id] = measured
                new.append(measured)
                on_measured(measured, estimate(new, time.monotonic() - began, len(missing) - len(new)))

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    measured = [done[question.question_id] for question in wanted]
    if not pilot:
        write_curves(out, {name: [getattr(item, name) for item in measured] for name in Measured.__dataclass_fields__})
        progress.unlink()
    return measured


def _end_line(path: Path, file: TextIO) -> bool:
    """End the line that a kill cut short, so that the next one is not joined to it; whether there is a whole line."""
    written = path.read_bytes()
    if written and not written.endswith(b"\n"):
        file.write("\n")
        file.flush()
    return b"\n" in written


def _settings(plan: Plan) -> dict[str, str]:
    """What decides the answers, by the names of the command's options."""
    return {
        "budgets": ",".join(map(str, plan.points)),
        "samples": str(plan.samples),
        "template": plan.template.name,
        "answer-tokens": str(plan.answer_tokens),
        "temperature": f"{plan.sampling.temperature:g}",
        "settled": str(plan.settled),
    }


def _read_progress(path: Path, plan: Plan, settings: Mapping[str, str]) -> list[Measured]:
    """Read the measurements of an earlier run; a line that a kill cut short is ignored.

    Raises ValueError for a run by other settings.
    """
    if not path.exists():
        return []
    items = []
    for line in path.read_text().splitlines():
        try:
            read = json.loads(line)
            if isinstance(read, dict) and isinstance(before := read.get(_SETTINGS), dict):
                _check_same(path, before, settings)
                continue
            item = Measured(**read)
        except (json.JSONDecodeError, TypeError):
            continue
        if tuple(item.budget_tokens) == plan.points and item.samples == plan.samples:
            items.append(item)
    return items


def _check_same(path: Path, before: Mapping[str, object], now: Mapping[str, str]) -> None:
    """Raise ValueError where a run would go on with another's measurements."""
    for name, value in now.items():
        if before.get(name, value) != value:
            raise ValueError(
                f"--{name}: is {value}, but {path} was begun with {before[name]}; go on with that, delete the file, "
                "or choose another --out"
            )
