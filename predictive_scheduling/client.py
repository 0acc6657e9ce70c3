"""Thin clients of the scheduler, blocking and asyncio. They need grpcio and protobuf only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from functools import cached_property
from typing import Any

from predictive_scheduling.connection import AsyncConnection, Connection
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc


def make_job(prompt: str, **fields: Any) -> pb.Job:
    """Return a job; ``fields`` are those of the proto (``max_reasoning_tokens``, ``tenant``, ``sampling``, …).

    Text may come before the allocation, which is the fastest; ``allocation_may_follow=False`` has the allocation first.
    """
    return pb.Job(**{"prompt": prompt, "allocation_may_follow": True, **fields})


def _until_left(call: Any) -> Generator[pb.GenerateResponse, None, None]:
    try:
        yield from call
    finally:
        call.cancel()  # a call that has ended is left as it is


class SchedulerClient(Connection):
    """A blocking client; a context manager that closes its channel.

    Every method raises ``grpc.RpcError``; its ``code()`` is one of those documented in ``scheduler.proto``.
    """

    @cached_property
    def stub(self) -> scheduler_pb2_grpc.SchedulerServiceStub:
        """The generated stub, for what the methods below do not offer."""
        return scheduler_pb2_grpc.SchedulerServiceStub(self._channel)

    def generate(
        self, prompt: str, *, timeout: float | None = None, **fields: Any
    ) -> Generator[pb.GenerateResponse, None, None]:
        """Stream the text, one allocation among it, and last the usage; closing the stream cancels the call.

        ``timeout``: this call's deadline, in seconds.
        """
        request = pb.GenerateRequest(job=make_job(prompt, **fields))
        return _until_left(self.stub.Generate(request, timeout=timeout or self._timeout, metadata=self._metadata))

    def complete(self, prompt: str, *, timeout: float | None = None, **fields: Any) -> pb.CompleteResponse:
        """Return the whole generation; ``timeout``: this call's deadline, in seconds."""
        request = pb.CompleteRequest(job=make_job(prompt, **fields))
        return self.stub.Complete(request, timeout=timeout or self._timeout, metadata=self._metadata)

    def grant(self, prompt: str, *, max_completion_tokens: int | None = None, **fields: Any) -> pb.Allocation:
        """Return the budget of a request that you run yourself, reserved; ``settle`` its ``request_id`` afterwards.

        ``max_completion_tokens``: the most tokens of reasoning and answer together.
        """
        request = pb.GrantRequest(job=make_job(prompt, **fields), max_completion_tokens=max_completion_tokens)
        return self.stub.Grant(request, timeout=self._timeout, metadata=self._metadata).allocation

    def settle(self, request_id: str, **told: Any) -> pb.SettleResponse:
        """Tell what a granted request used; ``told`` are fields of ``SettleRequest`` (``completion_tokens``, …)."""
        request = pb.SettleRequest(**{"request_id": request_id, **told})
        return self.stub.Settle(request, timeout=self._timeout, metadata=self._metadata)

    def report_outcome(self, request_id: str, score: float) -> pb.ReportOutcomeResponse:
        """Tell whether an answer was right: 1 right, 0 wrong."""
        request = pb.ReportOutcomeRequest(request_id=request_id, score=score)
        return self.stub.ReportOutcome(request, timeout=self._timeout, metadata=self._metadata)

    def budget(self) -> pb.GetBudgetResponse:
        """Return the ledger."""
        return self.stub.GetBudget(pb.GetBudgetRequest(), timeout=self._timeout, metadata=self._metadata)

    def status(self, recent: int = 0) -> pb.GetStatusResponse:
        """Return how the scheduler is doing, with its last ``recent`` requests."""
        request = pb.GetStatusRequest(recent=recent)
        return self.stub.GetStatus(request, timeout=self._timeout, metadata=self._metadata)

    def find(self, request_id: str) -> pb.RequestRecord:
        """Return what became of one of the last requests, and why it got its budget."""
        request = pb.GetRequestRequest(request_id=request_id)
        return self.stub.GetRequest(request, timeout=self._timeout, metadata=self._metadata).request

    def take_samples(self, most: int) -> pb.TakeSamplesResponse:
        """Take ``most`` prompts at most of tenants that have agreed; they are handed out once."""
        request = pb.TakeSamplesRequest(most=most)
        return self.stub.TakeSamples(request, timeout=self._timeout, metadata=self._metadata)


class AsyncSchedulerClient(AsyncConnection):
    """The same for asyncio. ``interceptors`` are those of the channel, such as tracing."""

    @cached_property
    def stub(self) -> scheduler_pb2_grpc.SchedulerServiceAsyncStub:
        """The generated stub, for what the methods below do not offer."""
        return scheduler_pb2_grpc.SchedulerServiceStub(self._channel)

    async def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # a gRPC deadline, which travels to the server
        **fields: Any,
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Stream the text, one allocation among it, and last the usage; leaving the iteration cancels the call.

        ``timeout``: this call's deadline, in seconds.
        """
        request = pb.GenerateRequest(job=make_job(prompt, **fields))
        call = self.stub.Generate(request, timeout=timeout or self._timeout, metadata=self._metadata)
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()  # a call that has ended is left as it is

    async def complete(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # a gRPC deadline, which travels to the server
        **fields: Any,
    ) -> pb.CompleteResponse:
        """Return the whole generation; ``timeout``: this call's deadline, in seconds."""
        request = pb.CompleteRequest(job=make_job(prompt, **fields))
        return await self.stub.Complete(request, timeout=timeout or self._timeout, metadata=self._metadata)

    async def grant(self, prompt: str, *, max_completion_tokens: int | None = None, **fields: Any) -> pb.Allocation:
        """Return the budget of a request that you run yourself, reserved; ``settle`` its ``request_id`` afterwards.

        ``max_completion_tokens``: the most tokens of reasoning and answer together.
        """
        request = pb.GrantRequest(job=make_job(prompt, **fields), max_completion_tokens=max_completion_tokens)
        response = await self.stub.Grant(request, timeout=self._timeout, metadata=self._metadata)
        return response.allocation

    async def settle(self, request_id: str, **told: Any) -> pb.SettleResponse:
        """Tell what a granted request used; ``told`` are fields of ``SettleRequest`` (``completion_tokens``, …)."""
        request = pb.SettleRequest(**{"request_id": request_id, **told})
        return await self.stub.Settle(request, timeout=self._timeout, metadata=self._metadata)

    async def report_outcome(self, request_id: str, score: float) -> pb.ReportOutcomeResponse:
        """Tell whether an answer was right: 1 right, 0 wrong."""
        request = pb.ReportOutcomeRequest(request_id=request_id, score=score)
        return await self.stub.ReportOutcome(request, timeout=self._timeout, metadata=self._metadata)

    async def budget(self) -> pb.GetBudgetResponse:
        """Return the ledger."""
        return await self.stub.GetBudget(pb.GetBudgetRequest(), timeout=self._timeout, metadata=self._metadata)

    async def status(self, recent: int = 0) -> pb.GetStatusResponse:
        """Return how the scheduler is doing, with its last ``recent`` requests."""
        request = pb.GetStatusRequest(recent=recent)
        return await self.stub.GetStatus(request, timeout=self._timeout, metadata=self._metadata)

    async def find(self, request_id: str) -> pb.RequestRecord:
        """Return what became of one of the last requests, and why it got its budget."""
        request = pb.GetRequestRequest(request_id=request_id)
        response = await self.stub.GetRequest(request, timeout=self._timeout, metadata=self._metadata)
        return response.request

    async def take_samples(self, most: int) -> pb.TakeSamplesResponse:
        """Take ``most`` prompts at most of tenants that have agreed; they are handed out once."""
        request = pb.TakeSamplesRequest(most=most)
        return await self.stub.TakeSamples(request, timeout=self._timeout, metadata=self._metadata)
