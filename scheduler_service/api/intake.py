"""The way into the scheduler, the same for gRPC and HTTP: who calls, whether work is taken, and what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from predictive_scheduling.rpc_errors import violations
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.budget_words import BudgetWords, Limit
from scheduler_service.api.identity import Identity
from scheduler_service.api.messages import job_of, plan_item
from scheduler_service.domain import DrainingError, InvalidRequestError, Job, Prediction
from scheduler_service.planning.budget_range import BudgetRange

_NO_WORDS = BudgetWords()
_FLOOR = "job.min_reasoning_tokens"


@dataclass(frozen=True)
class ServedModel:
    """The model that this server serves, and what holds for requests that leave it open.

    ``model``: its name. ``budgets``: the least and the largest budget, in reasoning tokens. ``temperature``: that of
    requests which set none.
    """

    model: str
    budgets: BudgetRange
    temperature: float

    @property
    def answer_tokens(self) -> int:
        """The most tokens of an answer."""
        return self.budgets.answer


@dataclass(frozen=True)
class Credentials:
    """What a call brings to say who makes it: its ``authorization``, the common name of its client's certificate."""

    authorization: str = ""
    common_name: str = ""


@dataclass(frozen=True)
class Plan:
    """A plan that is asked for: jobs, what is already known of each, the mean budget (0: the server's), the policy."""

    jobs: Sequence[Job]
    known: Sequence[Prediction | None]
    tokens_per_query: int
    policy: str


class Intake:
    """Makes jobs of requests. ``draining`` says whether new work is refused."""

    def __init__(
        self,
        served: ServedModel,
        identity: Identity,
        clock: Callable[[], float],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take requests for ``served`` from callers whom ``identity`` lets in.

        Deadlines are times of ``clock``, in seconds.
        """
        self.served = served
        self._identity, self._clock, self._draining = identity, clock, draining

    def tenant(self, who: Credentials, asked: str = "") -> str:
        """Return for whom a call is made. Raises UnauthenticatedError, PermissionDeniedError for another's name."""
        return self._identity.tenant(who.authorization, who.common_name, asked)

    def scope(self, who: Credentials) -> str | None:
        """Whose requests a caller may see: its own where callers have identities, else all (``None``)."""
        tenant = self.tenant(who)
        return tenant if self._identity.known else None

    def admit(self, who: Credentials) -> None:
        """Refuse who may not come, and new work while draining. Raises what ``tenant`` raises, and DrainingError."""
        self.tenant(who)
        if self._draining():
            raise DrainingError("the scheduler is shutting down")

    def job(
        self,
        request: pb.GenerateRequest | pb.CompleteRequest | pb.GrantRequest,
        who: Credentials,
        seconds: float | None = None,
        words: BudgetWords = _NO_WORDS,
    ) -> Job:
        """Return the job of a request that has ``seconds`` left, ``None`` for any time.

        ``words``: what a body says of its budget, of which the request has what the API has a field for. Raises what
        ``admit`` raises, InvalidRequestError and PreconditionError.
        """
        self.admit(who)
        check(request)
        message, served = request.job, self.served
        job = job_of(
            message,
            model=served.model,
            floor=served.budgets.floor,
            cap=served.budgets.cap,
            temperature=served.temperature,
        )
        deadline = None if seconds is None else self._clock() + seconds
        job = replace(job, deadline=deadline, tenant=self.tenant(who, message.tenant))
        fixed = message.HasField("min_reasoning_tokens")
        if message.effort == pb.EFFORT_NONE:
            job = capped(job, 0, fixed=fixed)
        if words.cap is not None:
            job = capped(job, words.cap, fixed=fixed)
        if words.completion is None:
            return job
        return within(job, words.completion, served.answer_tokens, fixed=fixed)

    def plan(self, request: pb.AllocateRequest, who: Credentials) -> Plan:
        """Return the plan that is asked for by one who is admitted. Raises what ``job`` raises."""
        tenant, served = self.tenant(who), self.served
        check(request)
        items = [
            plan_item(item, at, floor=served.budgets.floor, cap=served.budgets.cap)
            for at, item in enumerate(request.items)
        ]
        jobs = [replace(job, tenant=tenant) for job, _ in items]
        return Plan(jobs, [known for _, known in items], request.tokens_per_query, request.policy)


def check(request: Message) -> None:
    """Raise InvalidRequestError, naming each field, where ``request`` breaks a constraint of its proto."""
    if broken := violations(request):
        raise InvalidRequestError(*broken[0], broken[1:])


def capped(job: Job, cap: int, *, fixed: bool) -> Job:
    """Limit a job's reasoning to ``cap`` tokens; the server's floor gives way.

    ``fixed``: the caller itself asks for its floor, which then must fit. Raises InvalidRequestError where it does not.
    """
    if fixed and job.floor_tokens > cap:
        raise InvalidRequestError(_FLOOR, f"{job.floor_tokens} is more than {cap}, the most that is asked for besides")
    return replace(job, cap_tokens=min(job.cap_tokens, cap), floor_tokens=min(job.floor_tokens, cap))


def within(job: Job, completion: Limit, answer_tokens: int, *, fixed: bool) -> Job:
    """Limit a job's reasoning and answers together: what the answers leave of ``completion`` may be reasoned.

    ``fixed``: the caller itself asks for its floor, which then must fit. Raises InvalidRequestError where not even one
    answer token a trace is left.
    """
    if completion.tokens < job.traces:
        raise InvalidRequestError(completion.field, f"must be {job.traces} or more, a token for each answer")
    answer = min(answer_tokens, completion.tokens // job.traces)
    cap = min(job.cap_tokens, completion.tokens - answer * job.traces)
    if fixed and job.floor_tokens > cap:
        raise InvalidRequestError(_FLOOR, f"{job.floor_tokens} and the answer are more than {completion.field} allows")
    return replace(job, cap_tokens=cap, floor_tokens=min(job.floor_tokens, cap), answer_tokens=answer)
