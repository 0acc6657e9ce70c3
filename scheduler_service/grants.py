"""Budgets for requests that run elsewhere: a gateway, or a caller, runs them and tells what they used.

Theory of operation. ``grant`` admits a request, predicts it, decides its budget and reserves it, as for one that the
scheduler runs itself; it is open from then on. ``settle`` ends it by what it used, so that the rest returns to the
budget. Whoever runs a request may forget to tell, or vanish: what is still open after ``most_seconds`` is settled by
what it was expected to use. So every grant ends once, and nothing stays reserved for ever.

A grant has a number besides its ``Job.key``: a key may come again once its grant has ended, a number does not, and is
random, so that nobody settles what was not granted to them by guessing.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace

from scheduler_service.domain import Allocation, FinishReason, Job, Usage
from scheduler_service.pipeline import Pipeline

_LOOK_SECONDS = 1.0
_MOST_REASONS = 50  # that are told apart: callers choose the words, and metrics and journal count by them
_OTHER = "other"
_UNTOLD = "Untold"
_ALWAYS = frozenset({_UNTOLD, "late", "cancelled"})  # what gateways say; others' words never hide it
MOST_TOKENS = 2**31  # of a request: a count beyond is none, whoever tells it
_NUMBER_BITS = 48


@dataclass(frozen=True)
class Told:
    """What is known of a request that ran elsewhere: tokens and seconds, ``None`` where it is not told.

    ``completion_tokens``: reasoning and answer together, of all choices; ``reasoning_tokens``: the reasoning alone.
    ``failure``: why it ended without an answer; empty where it has one. ``seconds_per_token``: from one token to the
    next of all choices; 0 where not known.
    """

    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_tokens: int = 0
    failure: str = ""
    first_token_seconds: float = 0.0
    seconds_per_token: float = 0.0


@dataclass(frozen=True)
class _Open:
    job: Job
    allocation: Allocation
    came: float


class Grants:
    """The open grants of a scheduler, in the order in which they were given."""

    def __init__(self, pipeline: Pipeline, most_seconds: float) -> None:
        """Decide by ``pipeline``; a grant that nobody settles ends after ``most_seconds``."""
        self._pipeline, self._most_seconds = pipeline, most_seconds
        self._open: dict[int, _Open] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._reasons: set[str] = set()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def number(self, key: tuple[str, str]) -> int:
        """The number of the open grant of this ``Job.key``; 0 where none is open."""
        return self._numbers.get(key, 0)

    def taken(self, key: tuple[str, str]) -> bool:
        """Whether a request of this ``Job.key`` is in flight, its grant open or not decided yet."""
        return key in self._pipeline.admission

    async def grant(self, job: Job) -> Allocation:
        """Return the budget of a job. Raises what ``Pipeline.admit`` raises; then nothing is open."""
        pipeline, came = self._pipeline, self._pipeline.clock()
        await pipeline.admit(job)
        allocation: Allocation | None = None
        try:
            allocation = await pipeline.allocate(job)
            pipeline.observers.allocated(job, allocation)
        except BaseException as error:  # its caller left, or a fault of ours
            if pipeline.ledger.holds(job.key):
                pipeline.settle(job, 0, 0)
            pipeline.admission.leave(job)
            pipeline.tell_failure(job, allocation, error)
            raise
        pipeline.begin_elsewhere(job, allocation)
        number = 1 + secrets.randbits(_NUMBER_BITS)
        self._open[number], self._numbers[job.key] = _Open(job, allocation, came), number
        return allocation

    def settle(self, number: int, told: Told) -> float | None:
        """End the grant of this number; returns the tokens that it left, ``None`` where it is not open (any more)."""
        found = self._open.pop(number, None)
        if found is None:
            return None
        del self._numbers[found.job.key]
        return self._end(found, told)

    async def run(self) -> None:
        """End what is open for too long, until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._most_seconds))
            self.end_overdue()

    def end_overdue(self) -> None:
        """End what is open for too long now, by what it was expected to use."""
        before = self._pipeline.clock() - self._most_seconds
        while self._open and (oldest := next(iter(self._open.items())))[1].came <= before:
            self.settle(oldest[0], Told(failure=_UNTOLD))

    def _reason(self, failure: str) -> str:
        if failure in _ALWAYS:
            return failure
        if len(self._reasons) < _MOST_REASONS:
            self._reasons.add(failure)
        return failure if failure in self._reasons else _OTHER

    def _end(self, ended: _Open, told: Told) -> float:
        pipeline, job, allocation = self._pipeline, ended.job, ended.allocation
        now = pipeline.clock()
        told = within(told, now - ended.came, job.traces)
        reasoning, answer = used_of(allocation, told)
        pipeline.pace.observe(told.seconds_per_token, told.completion_tokens or 0)
        returned = pipeline.end_elsewhere(job, reasoning, answer)
        pipeline.admission.leave(job)
        if told.failure:
            pipeline.observers.failed(job, allocation, self._reason(told.failure))
            return returned
        usage = _usage(ended, told, round(reasoning), answer, now)
        pipeline.tell_end(job, allocation, usage)
        return returned


def within(told: Told, seconds: float, traces: int) -> Told:
    """What was told of a request that was open for ``seconds``: nothing in it took longer; the pace that of one trace.

    Of the times of one caller others' budgets are made, by the backend's pace and by latency objectives.
    """
    pace = min(told.seconds_per_token, seconds / max(1, (told.completion_tokens or 0) - 1))
    return replace(
        told,
        first_token_seconds=min(told.first_token_seconds, seconds),
        seconds_per_token=pace * traces,  # who tells sees tokens of all, side by side
    )


def used_of(allocation: Allocation, told: Told) -> tuple[float, int]:
    """Reasoning and answer tokens that a request used, as far as is known.

    Where only their sum is told, reasoning comes first, up to the budget; where nothing is, it is what was expected.
    """
    if told.reasoning_tokens is not None:
        return told.reasoning_tokens, max(0, (told.completion_tokens or 0) - told.reasoning_tokens)
    if told.completion_tokens is None:
        return allocation.expected_tokens, 0
    reasoning = min(told.completion_tokens, allocation.budget_tokens)
    return reasoning, told.completion_tokens - reasoning


def _usage(ended: _Open, told: Told, reasoning: int, answer: int, now: float) -> Usage:
    job, allocation = ended.job, ended.allocation
    saved, cost, equal = (
        allocation.cap_tokens - reasoning,
        allocation.added_seconds,
        allocation.saved_at_equal_accuracy_tokens,
    )
    forced = reasoning >= allocation.budget_tokens
    return Usage(
        prompt_tokens=told.prompt_tokens,
        reasoning_tokens=reasoning,
        answer_tokens=answer,
        reserved_tokens=allocation.budget_tokens,
        saved_vs_cap_tokens=saved,
        saved_at_equal_accuracy_tokens=equal,
        finish_reason=FinishReason.FORCED if forced else FinishReason.NATURAL,
        time_to_first_token_seconds=told.first_token_seconds,
        total_seconds=now - ended.came,
        seconds_per_token=told.seconds_per_token,
        net_benefit_seconds=saved * told.seconds_per_token - cost,
        net_benefit_at_equal_accuracy_seconds=equal * told.seconds_per_token - cost,
        traces=job.traces,
        start_seconds=told.first_token_seconds,
    )
