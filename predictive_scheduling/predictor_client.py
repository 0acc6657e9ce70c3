"""Thin clients of the predictor: what a query's accuracy curve is expected to be, outside the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from predictive_scheduling.connection import AsyncConnection, Connection
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc


def _request(
    texts: Sequence[str], hidden_states: Iterable[Sequence[float]] | None, layer: int, model: str
) -> pb.PredictRequest:
    """A request of queries with text, hidden states, or both; raises ValueError where their numbers differ."""
    states = None if hidden_states is None else [pb.HiddenState(values=state, layer=layer) for state in hidden_states]
    if states is None:
        return pb.PredictRequest(model=model, queries=[pb.Query(text=text) for text in texts])
    if texts and len(texts) != len(states):
        raise ValueError(f"hidden_states: {len(states)} for {len(texts)} texts")
    words = texts or [""] * len(states)
    queries = [pb.Query(text=text, hidden_state=state) for text, state in zip(words, states, strict=True)]
    return pb.PredictRequest(model=model, queries=queries)


class PredictorClient(Connection):
    """A blocking client; a context manager that closes its channel. Its methods raise ``grpc.RpcError``."""

    @cached_property
    def stub(self) -> predictor_pb2_grpc.PredictorServiceStub:
        """The generated stub, for what the methods below do not offer."""
        return predictor_pb2_grpc.PredictorServiceStub(self._channel)

    def predict(
        self,
        texts: Sequence[str] = (),
        *,
        hidden_states: Iterable[Sequence[float]] | None = None,
        layer: int = 0,
        model: str = "",
    ) -> pb.PredictResponse:
        """Predict a batch, in order: texts, hidden states of ``layer`` (0: not said), or both."""
        request = _request(texts, hidden_states, layer, model)
        return self.stub.Predict(request, timeout=self._timeout, metadata=self._metadata)

    def models(self) -> pb.ListModelsResponse:
        """Describe the models, the default first."""
        return self.stub.ListModels(pb.ListModelsRequest(), timeout=self._timeout, metadata=self._metadata)


class AsyncPredictorClient(AsyncConnection):
    """The same for asyncio. ``interceptors`` are those of the channel, such as tracing."""

    @cached_property
    def stub(self) -> predictor_pb2_grpc.PredictorServiceAsyncStub:
        """The generated stub, for what the methods below do not offer."""
        return predictor_pb2_grpc.PredictorServiceStub(self._channel)

    async def predict(
        self,
        texts: Sequence[str] = (),
        *,
        hidden_states: Iterable[Sequence[float]] | None = None,
        layer: int = 0,
        model: str = "",
    ) -> pb.PredictResponse:
        """Predict a batch, in order: texts, hidden states of ``layer`` (0: not said), or both."""
        request = _request(texts, hidden_states, layer, model)
        return await self.stub.Predict(request, timeout=self._timeout, metadata=self._metadata)

    async def models(self) -> pb.ListModelsResponse:
        """Describe the models, the default first."""
        return await self.stub.ListModels(pb.ListModelsRequest(), timeout=self._timeout, metadata=self._metadata)
