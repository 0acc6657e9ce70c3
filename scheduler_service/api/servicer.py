"""The scheduler's gRPC API: messages in, messages out; every status it returns is documented in the proto."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from opentelemetry import trace

from predictive_scheduling import semconv
from predictive_scheduling.rpc_errors import abort_invalid, abort_quota, abort_retry
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from scheduler_service.api.budget_words import BudgetWords, Limit
from scheduler_service.api.generations import Generations
from scheduler_service.api.intake import Credentials, Intake, check
from scheduler_service.api.messages import allocation_message, plan_message, text_message, told_of, usage_message
from scheduler_service.api.status import StatusBoard
from scheduler_service.api.statuses import status_of
from scheduler_service.domain import (
    Allocation,
    Event,
    PermissionDeniedError,
    PreconditionError,
    SchedulingError,
    Text,
    TextKind,
    Usage,
)
from scheduler_service.grants import Grants
from scheduler_service.pipeline import Pipeline
from scheduler_service.telemetry.prompt_samples import PromptSamples

log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Unary = Callable[["SchedulerServicer", _Request, _Context], Awaitable[_Response]]


def _answered(method: _Unary[_Request, _Response]) -> _Unary[_Request, _Response]:
    """End the call of a method that raises with the error's status."""

    @wraps(method)
    async def answered(self: SchedulerServicer, request: _Request, context: _Context) -> _Response:
        try:
            return await method(self, request, context)
        except Exception as error:
            await _abort(context, error)

    return answered


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Translates between the wire and the pipeline: messages to jobs, events to messages, errors to statuses."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        grants: Grants,
        board: StatusBoard,
        intake: Intake,
        samples: PromptSamples | None = None,
    ) -> None:
        """Serve ``pipeline``, whose requests come by ``intake`` and run as ``generations``, or elsewhere by ``grants``.

        ``board``: what its status calls return. ``samples``: prompts for a learner; ``None`` where no tenant agreed.
        """
        self._samples = samples
        self._grants = grants
        self._pipeline = pipeline
        self._generations, self._board = generations, board
        self._intake = intake

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one allocation, the text, and the usage."""
        try:
            async with aclosing(self._events(request, context)) as events:
                async for event in events:
                    yield _response(event)
        except Exception as error:
            await _abort(context, error)

    @_answered
    async def Complete(self, request: pb.CompleteRequest, context: _Context) -> pb.CompleteResponse:
        """Collect a generation and return it in one message."""
        response = pb.CompleteResponse()
        async with aclosing(self._events(request, context)) as events:
            async for event in events:
                _add(response, event)
        return response

    @_answered
    async def Allocate(self, request: pb.AllocateRequest, context: _Context) -> pb.AllocateResponse:
        """Return the plan of a window without spending anything."""
        who, size, aside = _credentials(context), len(request.items), self._pipeline.aside
        self._intake.admit(who)
        predicted = sum(not item.curve for item in request.items)
        with self._pipeline.visit(self._intake.tenant(who), max(1, predicted)):
            asked = await aside.run(size, lambda: self._intake.plan(request, who))
            plan = await self._pipeline.plan(asked.jobs, asked.known, asked.tokens_per_query, asked.policy)
            return await aside.run(size, lambda: plan_message(plan))

    @_answered
    async def Grant(self, request: pb.GrantRequest, context: _Context) -> pb.GrantResponse:
        """Decide and reserve the budget of a request that its caller runs."""
        limited = request.HasField("max_completion_tokens")
        limit = Limit(request.max_completion_tokens, "max_completion_tokens") if limited else None
        job = self._intake.job(request, _credentials(context), words=BudgetWords(completion=limit))
        allocation = await self._grants.grant(job)
        return pb.GrantResponse(allocation=allocation_message(allocation))

    @_answered
    async def Settle(self, request: pb.SettleRequest, context: _Context) -> pb.SettleResponse:
        """End a grant by what was used."""
        tenant = self._intake.tenant(_credentials(context), request.tenant)
        check(request)
        returned = self._grants.settle(self._grants.number((tenant, request.request_id)), told_of(request))
        return pb.SettleResponse(settled=returned is not None, returned_tokens=returned or 0.0)

    @_answered
    async def ReportOutcome(self, request: pb.ReportOutcomeRequest, context: _Context) -> pb.ReportOutcomeResponse:
        """Record whether an answer was right; a caller with an identity reports for its own requests."""
        scope = self._intake.scope(_credentials(context))
        check(request)
        reported = self._pipeline.outcomes.report(request.request_id, request.score, scope)
        if reported is None:
            return pb.ReportOutcomeResponse(recorded=False)
        known = reported.reliability
        if reported.drifted:
            log.warning("predictor %s drifts: outcomes no longer fit its predictions", reported.predictor)
            trace.get_current_span().add_event("drift", {semconv.PREDICTOR: reported.predictor})
        return pb.ReportOutcomeResponse(
            recorded=True,
            outcomes=known.outcomes,
            mean_expected_accuracy=known.mean_expected,
            mean_score=known.mean_score,
            reliability=known.slope,
            drifted=reported.drifted,
        )

    @_answered
    async def GetBudget(self, request: pb.GetBudgetRequest, context: _Context) -> pb.GetBudgetResponse:
        """Return the ledger."""
        self._intake.tenant(_credentials(context))
        return self._board.budget()

    @_answered
    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.GetStatusResponse:
        """Return how the scheduler is doing."""
        scope = self._intake.scope(_credentials(context))
        check(request)
        return self._board.status(request.recent, scope)

    @_answered
    async def GetRequest(self, request: pb.GetRequestRequest, context: _Context) -> pb.GetRequestResponse:
        """Return what became of a request."""
        scope = self._intake.scope(_credentials(context))
        check(request)
        found = self._board.find(request.request_id, scope)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.request_id!r} is none of the last requests")
        return pb.GetRequestResponse(request=found)

    @_answered
    async def TakeSamples(self, request: pb.TakeSamplesRequest, context: _Context) -> pb.TakeSamplesResponse:
        """Hand out prompts of tenants that have agreed."""
        reader = self._intake.scope(_credentials(context))
        check(request)
        if self._samples is None:
            raise PreconditionError("sample_tenants", "the server names no tenant that has agreed")
        if reader is not None and reader not in self._samples.readers:
            raise PermissionDeniedError("the server does not name the caller in sample_readers")
        taken, seen = self._samples.take(request.most)
        samples = [pb.PromptSample(prompt=sample.prompt, tenant=sample.tenant) for sample in taken]
        return pb.TakeSamplesResponse(samples=samples, seen=seen)

    def _events(self, request: pb.GenerateRequest | pb.CompleteRequest, context: _Context) -> AsyncGenerator[Event]:
        return self._generations.stream(self._intake.job(request, _credentials(context), context.time_remaining()))


def _credentials(context: _Context) -> Credentials:
    metadata = dict(context.invocation_metadata() or ())
    name = next(iter(context.auth_context().get("x509_common_name") or ()), b"")
    return Credentials(str(metadata.get("authorization", "")), name.decode(errors="replace"))


def _response(event: Event) -> pb.GenerateResponse:
    match event:
        case Allocation():
            return pb.GenerateResponse(allocation=allocation_message(event))
        case Text():
            return pb.GenerateResponse(text=text_message(event))
        case Usage():
            return pb.GenerateResponse(usage=usage_message(event))


def _add(response: pb.CompleteResponse, event: Event) -> None:
    match event:
        case Allocation():
            response.allocation.CopyFrom(allocation_message(event))
        case Text(kind=TextKind.REASONING):
            response.reasoning += event.text
        case Text():
            response.answer += event.text
        case Usage():
            response.usage.CopyFrom(usage_message(event))


async def _abort(context: _Context, error: Exception) -> NoReturn:
    """End the call with the status that belongs to the error, once it has none yet."""
    if isinstance(error, (grpc.aio.AbortError, grpc.aio.BaseError)):
        raise error
    if not isinstance(error, SchedulingError):
        log.error("a call failed by a fault of ours", exc_info=error)
    status = status_of(error)
    if status.fields:
        await abort_invalid(context, status.fields, status.row.code)
    if status.quota is not None:
        await abort_quota(context, *status.quota, status.retry_seconds or 0.0)
    if status.retry_seconds is not None:
        await abort_retry(context, status.row.code, status.message, status.retry_seconds)
    await context.abort(status.row.code, status.message)
