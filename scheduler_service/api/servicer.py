"""The scheduler's gRPC API: messages in, messages out; every status it returns is documented in the proto."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import grpc
import grpc.aio
from opentelemetry import trace

from predictive_scheduling import semconv
from predictive_scheduling.rpc_errors import abort_invalid, abort_quota, abort_retry, require_valid
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from scheduler_service.api.generations import Generations
from scheduler_service.api.identity import Identity
from scheduler_service.api.messages import allocation_message, job_of, plan_item, text_message, usage_message
from scheduler_service.api.status import StatusBoard
from scheduler_service.domain import (
    Allocation,
    BackendUnavailableError,
    DrainingError,
    Event,
    InvalidRequestError,
    Job,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    QuotaExceededError,
    SchedulingError,
    SlowReaderError,
    Text,
    TextKind,
    UnauthenticatedError,
    Usage,
)
from scheduler_service.pipeline import Pipeline

log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Offer:
    """What this server offers: its model's name, budget range in tokens, mean budget, default temperature."""

    model: str
    floor_tokens: int
    cap_tokens: int
    temperature: float

    def job(self, message: pb.Job) -> Job:
        """Return the job of a valid message within this offer. Raises what ``job_of`` raises."""
        return job_of(
            message, model=self.model, floor=self.floor_tokens, cap=self.cap_tokens, temperature=self.temperature
        )


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Serves one pipeline. ``draining`` says whether new work is refused."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        board: StatusBoard,
        offer: Offer,
        draining: Callable[[], bool] = lambda: False,
        identity: Identity | None = None,
    ) -> None:
        """Serve ``pipeline``, whose requests run as ``generations``, within ``offer``, to whom ``identity`` lets in.

        ``board``: what is told of it.
        """
        self._identity = identity or Identity()
        self._pipeline = pipeline
        self._generations, self._board = generations, board
        self._offer = offer
        self._draining = draining

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one allocation, the text, and the usage."""
        await require_valid(context, request)
        try:
            async with aclosing(self._events(request.job, context)) as events:
                async for event in events:
                    yield _response(event)
        except SchedulingError as error:
            await _abort(context, error)

    async def Complete(self, request: pb.CompleteRequest, context: _Context) -> pb.CompleteResponse:
        """Return a whole generation."""
        await require_valid(context, request)
        response = pb.CompleteResponse()
        try:
            async with aclosing(self._events(request.job, context)) as events:
                async for event in events:
                    _add(response, event)
        except SchedulingError as error:
            await _abort(context, error)
        return response

    async def Allocate(self, request: pb.AllocateRequest, context: _Context) -> pb.AllocateResponse:
        """Return the plan of a window without spending anything."""
        await require_valid(context, request)
        await self._admit(context)
        pipeline, offer = self._pipeline, self._offer
        tokens = request.tokens_per_query or pipeline.ledger.tokens_per_query
        try:
            items = [
                plan_item(item, at, floor=offer.floor_tokens, cap=offer.cap_tokens)
                for at, item in enumerate(request.items)
            ]
            plan = await pipeline.plan([job for job, _ in items], [known for _, known in items], tokens, request.policy)
        except SchedulingError as error:
            await _abort(context, error)
        return pb.AllocateResponse(
            allocations=[allocation_message(allocation) for allocation in plan.allocations],
            total_tokens=round(plan.total),
            planned_tokens=round(plan.planned),
            tokens_saved_at_equal_accuracy=plan.saved_at_equal_accuracy,
        )

    async def ReportOutcome(self, request: pb.ReportOutcomeRequest, context: _Context) -> pb.ReportOutcomeResponse:
        """Record whether an answer was right."""
        await require_valid(context, request)
        await self._admit(context)
        reported = self._pipeline.outcomes.report(request.request_id, request.score)
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

    async def GetBudget(self, request: pb.GetBudgetRequest, context: _Context) -> pb.GetBudgetResponse:
        """Return the ledger."""
        await self._admit(context)
        return self._board.budget()

    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.GetStatusResponse:
        """Return how the scheduler is doing."""
        await require_valid(context, request)
        return self._board.status(request.recent, await self._own(context))

    async def GetRequest(self, request: pb.GetRequestRequest, context: _Context) -> pb.GetRequestResponse:
        """Return what became of a request."""
        await require_valid(context, request)
        found = self._board.find(request.request_id, await self._own(context))
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.request_id!r} is none of the last requests")
        return pb.GetRequestResponse(request=found)

    def _events(self, message: pb.Job, context: _Context) -> AsyncGenerator[Event]:
        if self._draining():
            raise DrainingError("the scheduler is shutting down")
        seconds = context.time_remaining()
        deadline = None if seconds is None else self._pipeline.clock() + seconds
        job = replace(self._offer.job(message), deadline=deadline, tenant=self._tenant(context, message.tenant))
        return self._generations.stream(job)

    async def _own(self, context: _Context) -> str | None:
        """Whose requests a caller may see: its own where callers have identities, else everybody's (``None``)."""
        tenant = await self._admit(context)
        return tenant if self._identity.known else None

    async def _admit(self, context: _Context) -> str:
        """Return who calls; end a call of somebody who may not."""
        try:
            return self._tenant(context, "")
        except SchedulingError as error:
            await _abort(context, error)

    def _tenant(self, context: _Context, asked: str) -> str:
        """For whom a call is made. Raises UnauthenticatedError or PermissionDeniedError."""
        metadata = dict(context.invocation_metadata() or ())
        name = next(iter(context.auth_context().get("x509_common_name") or ()), b"")
        return self._identity.tenant(str(metadata.get("authorization", "")), name.decode(), asked)


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


async def _abort(context: _Context, error: SchedulingError) -> NoReturn:
    """End the call with the status that belongs to the error."""
    match error:
        case PreconditionError():
            await abort_invalid(context, [(error.field_name, error.description)], grpc.StatusCode.FAILED_PRECONDITION)
        case InvalidRequestError():
            await abort_invalid(context, [(error.field_name, error.description)])
        case OverloadedError():
            await abort_retry(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), error.retry_seconds)
        case QuotaExceededError():
            await abort_quota(context, f"tenant:{error.tenant}", error.description, error.retry_seconds)
        case UnauthenticatedError():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        case SlowReaderError():
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        case PermissionDeniedError():
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        case BackendUnavailableError():
            await abort_retry(context, grpc.StatusCode.UNAVAILABLE, str(error), error.retry_seconds)
        case _:
            raise error
