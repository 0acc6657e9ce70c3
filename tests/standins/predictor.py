"""Predictors without a model: a fake of ``scheduler_service.prediction.client.Predictor``, and one on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from predictive_scheduling.budget_points import evenly_spaced
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import NO_CURVE, Job, Prediction, PredictionOutcome
from scheduler_service.prediction.answers import PredictorInfo


@dataclass
class FakePredictor:
    """``curve_of`` maps a prompt to accuracies after 16, 32, … tokens; ``outcome`` other than FRESH predicts nothing.

    ``most_characters``: longer prompts are known to be refused.
    """

    curve_of: Callable[[str], Sequence[float]]
    outcome: PredictionOutcome = PredictionOutcome.FRESH
    hidden_size: int = 0
    seconds: float = 0.0
    windows: list[int] = field(default_factory=list)
    most_characters: int | None = None
    name = "fake@1"

    async def info(self) -> PredictorInfo | None:
        return PredictorInfo("fake", True, self.hidden_size, 0, 1 << 20)

    def refuses(self, job: Job) -> bool:
        return self.most_characters is not None and len(job.prompt) > self.most_characters

    def points(self) -> tuple[int, ...]:
        return ()

    def mean_curve(self, predictor: str) -> Curve:
        return NO_CURVE

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        self.windows.append(len(jobs))
        await asyncio.sleep(self.seconds)
        if self.outcome is not PredictionOutcome.FRESH:
            return [Prediction(self.outcome)] * len(jobs)
        rows = [tuple(self.curve_of(job.prompt)) for job in jobs]
        return [Prediction(self.outcome, Curve(evenly_spaced(len(row), 16), row), self.name) for row in rows]


class StreamingPredictor:
    """A predictor on the wire whose stream does as ``script`` says, and whose calls answer like ``MODEL``.

    ``script`` is given what reads one message (``None``: the client has closed its side) and what writes one: bytes or
    a message. ``streams`` and ``calls`` count what came.
    """

    MODEL = pb.Model(
        name="m", version="1", windows=4, budget_window_tokens=16, takes_text=True, max_text_bytes=100,
        mean_curve=[0.5] * 4,
    )  # fmt: skip

    def __init__(self, script: Callable[..., Awaitable[None]] | None = None) -> None:
        self.script = script or honest
        self.streams = self.calls = 0

    @staticmethod
    def response(request: pb.PredictRequest) -> pb.PredictResponse:
        """Curves that tell queries apart: their last value is the length of the text over 100."""
        curves = [[0.0, 0.0, 0.0, len(query.text) / 100] for query in request.queries]
        return pb.PredictResponse(
            model="m", version="1", budget_window_tokens=16,
            predictions=[pb.Prediction(status=pb.PREDICTION_STATUS_OK, curve=curve) for curve in curves],
        )  # fmt: skip

    async def _stream(self, _: object, context: Any) -> None:
        self.streams += 1
        await context.send_initial_metadata(())

        async def read() -> pb.PredictStreamRequest | None:
            message = await context.read()
            return None if message is grpc.aio.EOF else message

        async def write(message: Any) -> None:
            await context.write(message if isinstance(message, bytes) else message.SerializeToString())

        await self.script(read, write)

    @asynccontextmanager
    async def running(self, *, streams: bool = True) -> AsyncIterator[str]:
        """Serve; yields the address. ``streams``: whether the stream is known at all."""

        async def get_model(_: object, __: object) -> pb.GetModelResponse:
            return pb.GetModelResponse(model=self.MODEL)

        async def predict(request: pb.PredictRequest, _: object) -> pb.PredictResponse:
            self.calls += 1
            return self.response(request)

        handlers = {
            "GetModel": grpc.unary_unary_rpc_method_handler(
                get_model, response_serializer=pb.GetModelResponse.SerializeToString
            ),
            "Predict": grpc.unary_unary_rpc_method_handler(
                predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
            ),
        }
        if streams:
            handlers["PredictStream"] = grpc.stream_stream_rpc_method_handler(
                self._stream, pb.PredictStreamRequest.FromString
            )
        server = grpc.aio.server()
        service = pb.DESCRIPTOR.services_by_name["PredictorService"].full_name
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def answers(message: pb.PredictStreamRequest) -> list[pb.StreamedAnswer]:
    """What is right for a message's requests, in their order."""
    return [pb.StreamedAnswer(id=one.id, response=StreamingPredictor.response(one.request)) for one in message.requests]


async def honest(read: Any, write: Any) -> None:
    """A script that answers every message with one."""
    while (message := await read()) is not None:
        await write(pb.PredictStreamResponse(answers=answers(message)))
