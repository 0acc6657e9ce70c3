"""The whole path of a request: admit → collect → predict → allocate → dispatch → force an answer → settle → report."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from predictive_scheduling import telemetry
from scheduler_service.admission.admission import Admission
from scheduler_service.allocation import POLICIES
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.budget.reclaim import Reclaimer, Running
from scheduler_service.domain import (
    Allocation,
    Event,
    FinishReason,
    HiddenState,
    InvalidRequestError,
    Job,
    OverloadedError,
    PreconditionError,
    Prediction,
    PredictionOutcome,
    Sampling,
    SchedulingError,
    Text,
    TextKind,
    Usage,
)
from scheduler_service.generation.dispatcher import Counted, Dispatcher
from scheduler_service.generation.engine_reports import Expected
from scheduler_service.generation.forcing import BudgetForcing
from scheduler_service.generation.pace import Pace, answer_seconds
from scheduler_service.generation.read_ahead import ReadAhead, cancelled
from scheduler_service.generation.templates import PromptTemplate
from scheduler_service.generation.voting import winner
from scheduler_service.planning.allocator import Allocator, Expectations
from scheduler_service.planning.aside import MOST_AT_ONCE, Aside
from scheduler_service.planning.plan import Rules, WindowPlan, plan_window
from scheduler_service.prediction.client import Predictor
from scheduler_service.prediction.outcomes import OutcomeBook
from scheduler_service.telemetry.observers import Observers


@dataclass
class Pipeline:
    """Serves requests one by one; what they share (window, ledger, backend) is in its parts.

    ``admission``: who may come in. ``pace``: the backend's time per token, as it is learned here. ``reclaimer``: gives
    what finished requests left to running ones; ``None`` leaves it to later ones. ``observers``: are told what
    becomes of requests. ``aside``: where large plans are made. ``state_seconds``: how long a hidden state may come
    after the engine's first token. ``engine_first``: start a request at once, and decide its budget beside, but while
    requests may be refused (``refuses``) for what they are worth.
    """

    allocator: Allocator
    expectations: Expectations
    dispatcher: Dispatcher
    predictor: Predictor
    ledger: BudgetLedger
    rules: Rules
    template: PromptTemplate
    admission: Admission
    outcomes: OutcomeBook = field(default_factory=OutcomeBook)
    pace: Pace = field(default_factory=Pace)
    reclaimer: Reclaimer | None = None
    observers: Observers = field(default_factory=Observers)
    clock: Callable[[], float] = time.monotonic
    aside: Aside = field(default_factory=Aside)
    state_seconds: float = 0.1
    engine_first: bool = False
    refuses: Callable[[], bool] = lambda: False
    _running: set[_Run] = field(default_factory=set)
    _generated: int = 0  # by those that have ended
    _elsewhere: dict[Hashable, float] = field(default_factory=dict)  # what requests that run elsewhere are to generate

    @property
    def generated(self) -> int:
        """Tokens that were generated since the start."""
        return self._generated + sum(run.generated for run in self._running)

    @property
    def outstanding(self) -> float:
        """Tokens that are expected of the requests that are here, and not generated yet."""
        here = sum(max(0.0, run.expected - run.generated) for run in self._running)
        return here + sum(self._elsewhere.values()) / 2  # nobody says how far they are

    @property
    def running_elsewhere(self) -> int:
        """Requests that somebody else runs, and has not told the end of."""
        return len(self._elsewhere)

    async def generate(self, job: Job) -> AsyncGenerator[Event]:
        """Yield the job's allocation, its text, and last its usage. Raises the errors of ``domain``.

        The allocation comes first, but where the job allows text before it. However it ends, the reservation is settled
        with what was used.
        """
        came = self.clock()
        allocation: Allocation | None = None
        await self.admit(job)
        try:
            if self.engine_first and job.traces == 1 and not self.refuses():
                expected = await self._state_to_come(job)
                runs = [self._begun(job, expected, came)]
            else:
                allocation = await self.allocate(job)
                runs = self._runs(job, allocation, came)
            self._running.update(runs)
            try:
                async with AsyncExitStack() as closing:
                    texts, held = self._texts(job, runs[0]), []
                    if allocation is None:
                        forcing, ahead = runs[0].forcing, ReadAhead(texts)
                        await closing.enter_async_context(aclosing(ahead))
                        ahead.begin()
                        deciding = asyncio.ensure_future(self._decide(job, runs[0], expected, ahead.first))
                        closing.push_async_callback(cancelled, deciding)
                        # Its floor is certain, so that much can be read before anything is decided.
                        async for text in ahead.meanwhile(
                            deciding, lambda: forcing.reasoning_tokens < max(1, job.floor_tokens)
                        ):
                            if job.allocation_may_follow:
                                yield text
                            else:
                                held.append(text)
                        allocation, texts = deciding.result(), ahead.rest()
                    self.observers.allocated(job, allocation)
                    yield allocation
                    if len(runs) == 1:
                        self._start_reclaim(job, allocation, runs[0].forcing)
                        for text in held:
                            yield text
                        async with aclosing(texts):
                            async for text in texts:
                                yield text
                        chosen, votes = 0, 1
                    else:
                        chosen, votes = await self._vote(job, runs)
                        for text in runs[chosen].texts:
                            yield text
            finally:
                self._running.difference_update(runs)
                self._generated += sum(run.generated for run in runs)
                self._settle(job, runs)
            usage = _usage(allocation, runs, chosen, votes, self.clock(), self.pace.seconds_per_token)
            self.tell_end(job, allocation, usage)
        except BaseException as error:
            self.tell_failure(job, allocation, error)
            raise
        else:
            yield usage
        finally:
            self.admission.leave(job)

    def tell_end(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Tell the observers of a request that ended with its answer, and let its outcome be reported."""
        self.observers.finished(job, allocation, usage)
        if job.traces == 1 and job.cap_tokens:  # what was predicted is the accuracy of one that may reason
            self.outcomes.remember(allocation, job.tenant)

    def tell_failure(self, job: Job, allocation: Allocation | None, error: BaseException) -> None:
        """Tell the observers of an admitted job that ended by ``error``; some are refused for what they are worth."""
        if allocation is None and isinstance(error, OverloadedError):
            self.observers.rejected(job, error)
            return
        left = isinstance(error, (GeneratorExit, asyncio.CancelledError))
        self.observers.failed(job, allocation, "cancelled" if left else type(error).__name__)

    async def allocate(self, job: Job) -> Allocation:
        """Predict, decide and reserve the budget of an admitted job; ``settle`` must follow."""
        allocation = await self.allocator.allocate(job)
        if job.answer_tokens is None:
            return allocation
        return replace(allocation, answer_tokens=min(allocation.answer_tokens, job.answer_tokens))

    def begin_elsewhere(self, job: Job, allocation: Allocation) -> None:
        """Take note that somebody else runs an allocated job; ``end_elsewhere`` must follow."""
        self._elsewhere[job.key] = allocation.expected_tokens + allocation.answer_tokens

    def end_elsewhere(self, job: Job, reasoning_tokens: float, answer_tokens: int) -> float:
        """Settle a job that ran elsewhere by what it used; returns the reasoning tokens that were left."""
        self._elsewhere.pop(job.key, None)
        self._generated += int(reasoning_tokens) + answer_tokens
        return self.settle(job, reasoning_tokens, answer_tokens)

    async def _state_to_come(self, job: Job) -> Expected | None:
        """What to expect of the engine, where the predictor takes a hidden state that the engine can send."""
        reports = self.dispatcher.reports
        if reports is None or job.hidden_state is not None:
            return None
        info = await self.predictor.info()
        if info is None or not info.hidden_size or not info.layer:
            return None
        return reports.expect((info.layer,), self._on_wasted(job))

    def _begun(self, job: Job, expected: Expected | None, came: float) -> _Run:
        """The run of a request that starts before its budget is known: its cap bounds it until then."""
        most = self.expectations.in_time(job, came).cap_tokens
        answer = self.rules.answer_tokens if job.answer_tokens is None else job.answer_tokens
        forcing = BudgetForcing(
            self.template,
            job.prompt,
            most,
            min(self.rules.answer_tokens, answer),
            self.dispatcher.capabilities.call_limit,
        )
        return _Run(forcing, job.sampling, _Timing(came), self._counted(job, expected))

    def _counted(self, job: Job, expected: Expected | None = None) -> Counted:
        return Counted(expected=expected, on_wasted=self._on_wasted(job))

    def _on_wasted(self, job: Job) -> Callable[[int], None]:
        """What tells the observers of wasted tokens. It may be kept for long, so it holds no prompt."""
        known = replace(job, prompt="", hidden_state=None)
        return lambda tokens: self.observers.wasted(known, tokens)

    async def _decide(self, job: Job, run: _Run, expected: Expected | None, first: asyncio.Event) -> Allocation:
        """Allocate for a request that runs already, and let its budget apply: to its next call, or the running one."""
        await asyncio.sleep(0)  # The engine's request is written first.
        allocation = await self.allocate(await self._with_state(job, expected, first))
        run.forcing.answer_tokens = allocation.answer_tokens
        run.expected = allocation.expected_tokens + allocation.answer_tokens
        run.forcing.set_budget(allocation.budget_tokens)
        # Nobody waited for what was decided before the first token; who wants the allocation first, for the rest.
        now, visible = self.clock(), 0.0
        if run.timing.tokens and not job.allocation_may_follow:
            visible = now - run.timing.first
        return replace(allocation, visible_seconds=visible)

    async def _with_state(self, job: Job, expected: Expected | None, first: asyncio.Event) -> Job:
        """The job with the hidden state of its prompt, or with the reason why it has none.

        A prompt may wait in the engine for long; once its first token is there, its state should be, too.
        """
        if expected is None:
            return job
        waiting = asyncio.ensure_future(first.wait())
        either: set[asyncio.Future[Any]] = {waiting, expected.state}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        await asyncio.wait({expected.state}, timeout=self.state_seconds)
        if not expected.state.done():
            return replace(job, unpredicted=PredictionOutcome.TIMEOUT)
        if expected.state.exception() is not None:
            return replace(job, unpredicted=PredictionOutcome.REFUSED)
        state = expected.state.result()
        return replace(job, hidden_state=HiddenState(tuple(state.values[0].tolist()), state.layers[0]))

    def _runs(self, job: Job, allocation: Allocation, came: float) -> list[_Run]:
        """The traces of a request, which share its budget evenly; each draws with a seed of its own."""
        budget = allocation.budget_tokens // job.traces
        runs = []
        for at in range(job.traces):
            seed = job.sampling.seed
            sampling = job.sampling if seed is None or not at else replace(job.sampling, seed=seed + at)
            forcing = BudgetForcing(
                self.template,
                job.prompt,
                budget,
                allocation.answer_tokens,
                self.dispatcher.capabilities.call_limit,
                self.dispatcher.capabilities.thinking_budget,
            )
            expected = allocation.expected_tokens / job.traces + allocation.answer_tokens
            runs.append(_Run(forcing, sampling, _Timing(came), self._counted(job), expected))
        return runs

    async def _texts(self, job: Job, run: _Run) -> AsyncGenerator[Text]:
        """Yield a trace's text as it comes, cut in time for its answer."""
        async with aclosing(self.dispatcher.run(run.forcing, run.sampling, run.counted, job.priority)) as texts:
            async for text in texts:
                now = self.clock()
                run.timing.saw(text, now)
                self._keep_in_time(job, run.forcing, run.forcing.answer_tokens, run.timing, now)
                yield text

    async def _vote(self, job: Job, runs: Sequence[_Run]) -> tuple[int, int]:
        """Run all traces side by side; returns which one's answer won, and with how many votes."""

        async def collect(run: _Run) -> None:
            async with aclosing(self._texts(job, run)) as texts:
                async for text in texts:
                    run.texts.append(text)

        try:
            async with asyncio.TaskGroup() as group:
                for run in runs:
                    group.create_task(collect(run))
        except ExceptionGroup as errors:  # the caller knows of single ones
            raise errors.exceptions[0] from None
        return winner([run.answer for run in runs])

    def _start_reclaim(self, job: Job, allocation: Allocation, forcing: BudgetForcing) -> None:
        """Let a request with a prediction take what others leave, while its reasoning goes on."""
        if self.reclaimer is None or allocation.prediction.outcome is not PredictionOutcome.FRESH:
            return
        curve, budget, cap = allocation.prediction.curve, allocation.budget_tokens, allocation.cap_tokens
        running = Running(job.key, curve, budget, cap, forcing.set_budget, lambda: forcing.grows, job.weight)
        self.reclaimer.start(running)

    def _keep_in_time(self, job: Job, forcing: BudgetForcing, answer_tokens: int, timing: _Timing, now: float) -> None:
        """Cut the reasoning where the rest of the deadline is just enough for the answer, at the slower pace."""
        if job.deadline is None or not forcing.reasoning:
            return
        per_token = max(self.pace.seconds_per_token, timing.seconds_per_token())
        if per_token and now + answer_seconds(answer_tokens, per_token) >= job.deadline:
            forcing.cut()
            telemetry.add_event("cut by deadline")

    def _settle(self, job: Job, runs: Sequence[_Run]) -> None:
        for run in runs:
            self.pace.observe(run.timing.seconds_per_token(), run.timing.tokens)
        used = sum(run.forcing.reasoning_tokens for run in runs)
        self.settle(job, used, sum(run.forcing.answer_used for run in runs))

    def settle(self, job: Job, reasoning_tokens: float, answer_tokens: int) -> float:
        """Count what was used, end the reservation, and offer what it left to the requests that still reason.

        What was used without a reservation, since the request ended before it had one, is taken from the bank. Returns
        the reasoning tokens that were left.
        """
        if not self.ledger.holds(job.key):
            self.ledger.reserve({job.key: 0.0}, 0, self.clock())
        self.admission.rates.tokens.charge(job.tenant, int(reasoning_tokens) + answer_tokens, self.clock())
        returned = self.ledger.settle(job.key, reasoning_tokens)
        if self.reclaimer is not None:
            self.reclaimer.stop(job.key)
            if returned:
                self.reclaimer.offer(returned, self.ledger.extend, self.allocator.price)
        return returned

    @contextmanager
    def visit(self, tenant: str, requests: int) -> Iterator[None]:
        """Be in flight without generating, which counts as ``requests`` against the tenant's rate.

        Raises OverloadedError and QuotaExceededError as ``generate`` does.
        """
        visitor = Job(uuid.uuid4().hex, "", tenant, 0, 0)
        self._enter(visitor, requests)
        try:
            yield
        finally:
            self.admission.leave(visitor)

    async def plan(
        self, jobs: Sequence[Job], known: Sequence[Prediction | None], tokens: int, policy: str
    ) -> WindowPlan:
        """Return the plan that a window of ``jobs`` would get; nothing is reserved.

        ``known``: a prediction that the caller brings, or ``None`` to ask the predictor. ``tokens``: mean budget; 0 for
        the server's. Raises InvalidRequestError for a policy that does not exist, or cannot plan so much.
        """
        if policy and policy not in POLICIES:
            raise InvalidRequestError("policy", f"{policy!r} is none of {', '.join(POLICIES)}")
        asked = [job for job, prediction in zip(jobs, known, strict=True) if prediction is None]
        answers = iter(await self.predictor.predict(asked) if asked else [])
        predictions = [
            prediction or self.expectations.of(job, next(answers)) for job, prediction in zip(jobs, known, strict=True)
        ]
        rules = replace(self.rules, policy=POLICIES[policy]) if policy else self.rules
        total = len(jobs) * (tokens or self.ledger.tokens_per_query)
        # The optimum of even a few may take seconds.
        size = MOST_AT_ONCE + 1 if rules.policy.name == "exact" else len(jobs)
        try:
            return await self.aside.run(size, lambda: plan_window(jobs, predictions, total, rules))
        except ValueError as error:  # exact, for more than it can plan
            raise InvalidRequestError("policy", str(error)) from None

    def _enter(self, job: Job, requests: int = 1) -> None:
        try:
            self.admission.enter(job, self.clock(), requests)
        except SchedulingError as error:
            self.observers.rejected(job, error)
            raise

    async def admit(self, job: Job) -> None:
        """Refuse what cannot be served, before anything is spent on it; ``admission.leave`` must follow.

        Raises OverloadedError, QuotaExceededError, and InvalidRequestError or PreconditionError for what does not fit.
        """
        self._enter(job)
        try:
            await self._check_hidden_state(job)
        except BaseException as error:
            self.admission.leave(job)
            if isinstance(error, SchedulingError):
                self.observers.rejected(job, error)
            raise

    async def _check_hidden_state(self, job: Job) -> None:
        if job.hidden_state is None:
            return
        info = await self.predictor.info()
        if info is None or not info.hidden_size:
            return
        size = len(job.hidden_state.values)
        if size != info.hidden_size:
            raise PreconditionError(
                "job.hidden_state", f"has {size} components, predictor {info.name} takes {info.hidden_size}"
            )
        if info.layer and job.hidden_state.layer and job.hidden_state.layer != info.layer:
            raise PreconditionError("job.hidden_state_layer", f"predictor {info.name} takes layer {info.layer}")


@dataclass
class _Timing:
    """When a request's tokens came."""

    came: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    forcing: float = 0.0  # seconds from the ends of reasoning to the first tokens of forced answers
    _forced_at: float | None = None

    def saw(self, text: Text, now: float) -> None:
        """Note a piece of text; a forced suffix brings no token."""
        if not text.tokens:
            self._forced_at = now if text.forced else self._forced_at
            return
        if self._forced_at is not None:
            self.forcing, self._forced_at = self.forcing + now - self._forced_at, None
        if not self.tokens:
            self.first = now
            telemetry.add_event("first token")
        self.last = now
        self.tokens += text.tokens

    def seconds_per_token(self) -> float:
        """Mean time between generated tokens; 0 for fewer than two."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else 0.0


@dataclass(eq=False)
class _Run:
    """One trace of a request: what it may do, when its tokens came, and, where traces vote, its text.

    ``expected``: the tokens that it is expected to generate, answer included; 0 while its budget is not known.
    """

    forcing: BudgetForcing
    sampling: Sampling
    timing: _Timing
    counted: Counted
    expected: float = 0.0
    texts: list[Text] = field(default_factory=list)

    @property
    def generated(self) -> int:
        """The tokens that it has generated."""
        return self.forcing.reasoning_tokens + self.forcing.answer_used

    @property
    def answer(self) -> str:
        """The answer's text."""
        return "".join(text.text for text in self.texts if text.kind is TextKind.ANSWER)


def _usage(
    allocation: Allocation, runs: Sequence[_Run], chosen: int, votes: int, now: float, usual_pace: float
) -> Usage:
    """What all traces consumed; how it ended, and when the first token came, are those of the one that was chosen.

    A generation too short to be timed is valued at the backend's usual seconds per token.
    """
    forcing, timing = runs[chosen].forcing, runs[chosen].timing
    used = sum(run.forcing.reasoning_tokens for run in runs)
    saved = allocation.cap_tokens - used
    per_token = timing.seconds_per_token()
    cost = allocation.added_seconds
    return Usage(
        prompt_tokens=runs[chosen].counted.prompt_tokens,
        reasoning_tokens=used,
        answer_tokens=sum(run.forcing.answer_used for run in runs),
        reserved_tokens=max(allocation.budget_tokens, forcing.budget),
        saved_vs_cap_tokens=saved,
        saved_at_equal_accuracy_tokens=allocation.saved_at_equal_accuracy_tokens,
        finish_reason=forcing.finish or FinishReason.ANSWER_LENGTH,
        time_to_first_token_seconds=max(0.0, timing.first - timing.came) if timing.tokens else 0.0,
        total_seconds=now - timing.came,
        seconds_per_token=per_token,
        net_benefit_seconds=saved * (per_token or usual_pace) - cost,
        net_benefit_at_equal_accuracy_seconds=allocation.saved_at_equal_accuracy_tokens * (per_token or usual_pace)
        - cost,
        traces=len(runs),
        votes=votes,
        start_seconds=max(0.0, timing.first - runs[chosen].counted.began) if timing.tokens else 0.0,
        forcing_seconds=timing.forcing,
    )
