"""Measure accuracy curves: let a model reason, cut the reasoning at every budget window, force an answer, check it.

One trace of a question serves all its windows: its reasoning is generated once, up to the last window, and every
window's forced answer continues a prefix of it. From the window on in which the reasoning ended by itself, the answer
is the model's own. Progress is kept line by line beside the output, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exporters.measure.checkers import Checker
from exporters.measure.curves import WINDOW_TOKENS, write_curves
from exporters.measure.questions import Question
from scheduler_service.domain import Sampling, TextKind
from scheduler_service.generation.backends.base import Backend, Ended, Piece
from scheduler_service.generation.forcing import BudgetForcing, Call
from scheduler_service.generation.templates import PromptTemplate


@dataclass(frozen=True)
class Measured:
    """A question's measured curve: fractions per window; ``reasoning_tokens``: mean length of the uncut reasoning.

    ``answers``: what each trace answered after each window (traces × windows), for votes over traces.
    """

    question_id: str
    question: str
    group: str
    accuracy_at_window: list[float]
    reasoning_tokens: float
    samples: int
    answers: list[list[str]]


@dataclass(frozen=True)
class Plan:
    """How to measure: windows of a curve, samples a question, the longest answer, and how the model samples."""

    template: PromptTemplate
    windows: int = 16
    samples: int = 1
    answer_tokens: int = 12
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))


class _Recording:
    """A trace's reasoning, token by token, so that it can be cut at any window."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def prefix(self, tokens: int) -> str:
        return "".join(self.texts[:tokens])


async def _generate(backend: Backend, forcing: BudgetForcing, sampling: Sampling, record: _Recording | None) -> str:
    """Run a generation to its end; returns the answer, and records the raw reasoning pieces where wanted."""
    answer = ""
    while (call := forcing.next_call()) is not None:
        stream = backend.stream(call, sampling, {})
        async for piece in stream:
            if isinstance(piece, Ended):
                forcing.end_call(piece.end)
                break
            if record is not None:
                record.texts += [piece.text] + [""] * (piece.tokens - 1)
            if not forcing.feed(piece.text, piece.tokens):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # every backend streams from an async generator
        answer += "".join(text.text for text in forcing.take() if text.kind is TextKind.ANSWER)
        record = None  # later calls continue the answer
    return answer


async def _forced_answer(backend: Backend, plan: Plan, question: str, thought: str) -> str:
    """The answer that the model gives when its reasoning is cut after ``thought``."""
    template = plan.template
    prompt = template.render(question) + thought.rstrip() + template.answer_suffix
    stream = backend.stream(Call(prompt, plan.answer_tokens, template.stop), plan.sampling, {})
    pieces = [piece.text async for piece in stream if isinstance(piece, Piece)]
    return template.answer_opening + "".join(pieces)


async def measure_trace(backend: Backend, plan: Plan, question: Question) -> tuple[list[str], int]:
    """Measure one trace; returns each window's answer, and the uncut reasoning's tokens."""
    longest = plan.windows * WINDOW_TOKENS
    forcing = BudgetForcing(
        plan.template, question.question, longest, plan.answer_tokens, backend.capabilities.call_limit
    )
    record = _Recording()
    own_answer = await _generate(backend, forcing, plan.sampling, record)
    answers: list[str] = []
    for window in range(1, plan.windows + 1):
        tokens = window * WINDOW_TOKENS
        if tokens >= forcing.reasoning_tokens:
            answers += [own_answer] * (plan.windows + 1 - window)
            break
        answers.append(await _forced_answer(backend, plan, question.question, record.prefix(tokens)))
    return [answer.strip() for answer in answers], forcing.reasoning_tokens


async def measure_question(backend: Backend, plan: Plan, question: Question, is_right: Checker) -> Measured:
    """Measure a question's curve over all its samples."""
    traces = [await measure_trace(backend, plan, question) for _ in range(plan.samples)]
    answers = [given for given, _ in traces]
    right = {answer: is_right(question.expected, answer) for answer in {text for given in answers for text in given}}
    curve = [sum(right[text] for text in window) / plan.samples for window in zip(*answers, strict=True)]
    length = sum(tokens for _, tokens in traces) / plan.samples
    return Measured(question.question_id, question.question, question.group, curve, length, plan.samples, answers)


async def collect(
    backend: Backend,
    plan: Plan,
    questions: Iterable[Question],
    is_right: Checker,
    out: Path,
    *,
    concurrency: int = 8,
    on_measured: Callable[[Measured], None] = lambda _: None,
) -> list[Measured]:
    """Measure all ``questions`` against a started backend and write ``out`` (parquet).

    Questions already in ``out``'s progress file are not measured again. Returns all measurements, in the order of the
    questions. Raises what the backend raises; what was measured until then is kept.
    """
    progress = out.with_suffix(".progress.jsonl")
    progress.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(questions)
    done = {item.question_id: item for item in _read_progress(progress)}
    waiting = iter([question for question in wanted if question.question_id not in done])
    with progress.open("a") as file:

        async def worker() -> None:
            for question in waiting:
                measured = await measure_question(backend, plan, question, is_right)
                file.write(json.dumps(asdict(measured)) + "\n")
                file.flush()
                done[measured.question_id] = measured
                on_measured(measured)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    measured = [done[question.question_id] for question in wanted]
    write_curves(out, {name: [getattr(item, name) for item in measured] for name in Measured.__dataclass_fields__})
    progress.unlink()
    return measured


def _read_progress(path: Path) -> list[Measured]:
    """Read the measurements of an earlier run; a line that a kill cut short is ignored."""
    if not path.exists():
        return []
    items = []
    for line in path.read_text().splitlines():
        try:
            items.append(Measured(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return items
