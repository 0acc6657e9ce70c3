"""Thin clients of the scheduler, blocking and asyncio. They need grpcio and protobuf only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc


def channel_options() -> list[tuple[str, str | int]]:
    """Return the channel options we recommend: the shipped service config (round robin, health checks, retries)."""
    config = (files("predictive_scheduling") / "service_config.json").read_text()
    return [("grpc.service_config", config), ("grpc.enable_retries", 1)]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a bearer token; none for an empty one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def make_job(prompt: str, **fields: Any) -> pb.Job:
    """Return a job; ``fields`` are those of the proto (``max_reasoning_tokens``, ``tenant``, ``sampling``, …)."""
    return pb.Job(prompt=prompt, **fields)


class SchedulerClient:
    """A blocking client; a context manager that closes its channel.

    Every method raises ``grpc.RpcError``; its ``code()`` is one of those documented in ``scheduler.proto``.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        """Call the scheduler at ``address``; ``timeout`` (seconds) is the deadline of every call.

        ``credentials``: for TLS (``channel_credentials``). ``token``: sent as a bearer token.
        """
        options = channel_options()
        self._channel = (
            grpc.insecure_channel(address, options=options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=options)
        )
        self._metadata = bearer(token)
        self.stub = scheduler_pb2_grpc.SchedulerServiceStub(self._channel)
        self._timeout = timeout

    def generate(self, prompt: str, *, timeout: float | None = None, **fields: Any) -> Iterator[pb.GenerateResponse]:
        """Stream one allocation, the text, and last the usage; ``timeout``: this call's deadline, in seconds."""
        request = pb.GenerateRequest(job=make_job(prompt, **fields))
        return iter(self.stub.Generate(request, timeout=timeout or self._timeout, metadata=self._metadata))

    def complete(self, prompt: str, *, timeout: float | None = None, **fields: Any) -> pb.CompleteResponse:
        """Return the whole generation; ``timeout``: this call's deadline, in seconds."""
        request = pb.CompleteRequest(job=make_job(prompt, **fields))
        return self.stub.Complete(request, timeout=timeout or self._timeout, metadata=self._metadata)

    def report_outcome(self, request_id: str, score: float) -> pb.ReportOutcomeResponse:
        """Tell whether an answer was right: 1 right, 0 wrong."""
        return self.stub.ReportOutcome(
            pb.ReportOutcomeRequest(request_id=request_id, score=score), timeout=self._timeout, metadata=self._metadata
        )

    def budget(self) -> pb.GetBudgetResponse:
        """Return the ledger."""
        return self.stub.GetBudget(pb.GetBudgetRequest(), timeout=self._timeout, metadata=self._metadata)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncSchedulerClient:
    """The same for asyncio. ``interceptors`` are those of the channel, such as tracing."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        interceptors: list[grpc.aio.ClientInterceptor] | None = None,
    ) -> None:
        """Call the scheduler at ``address``; ``timeout`` (seconds) is the deadline of every call.

        ``credentials``: for TLS (``channel_credentials``). ``token``: sent as a bearer token.
        """
        options = channel_options()
        self._channel = (
            grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)
        )
        self._metadata = bearer(token)
        self.stub = scheduler_pb2_grpc.SchedulerServiceStub(self._channel)
        self._timeout = timeout

    async def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # a gRPC deadline, which travels to the server
        **fields: Any,
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one allocation, the text, and last the usage; leaving the iteration cancels the call.

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

    async def report_outcome(self, request_id: str, score: float) -> pb.ReportOutcomeResponse:
        """Tell whether an answer was right: 1 right, 0 wrong."""
        request = pb.ReportOutcomeRequest(request_id=request_id, score=score)
        return await self.stub.ReportOutcome(request, timeout=self._timeout, metadata=self._metadata)

    async def budget(self) -> pb.GetBudgetResponse:
        """Return the ledger."""
        return await self.stub.GetBudget(pb.GetBudgetRequest(), timeout=self._timeout, metadata=self._metadata)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self._channel.close()
