"""Puts the predictor together and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from opentelemetry import trace

from predictive_scheduling import telemetry
from predictive_scheduling.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from predictive_scheduling.serving import Serving
from predictive_scheduling.version import VERSION
from predictor_service.artifact import ArtifactError
from predictor_service.batch_queue import BatchQueue
from predictor_service.batcher import Batcher
from predictor_service.model import load_models
from predictor_service.servicer import PredictorServicer
from predictor_service.settings import PredictorSettings

SERVICE = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name


async def serve(
    settings: PredictorSettings,
    *,
    provider: trace.TracerProvider | None = None,
    on_started: Callable[[Serving], None] = lambda _: None,
) -> None:
    """Serve until a signal, or until ``Serving.draining`` is set by whoever got it through ``on_started``.

    Raises ArtifactError where a model folder cannot be served, or the default model is not among them.
    """
    settings.log_masked()
    models = load_models(settings.models, threads=settings.threads, provider=settings.provider)
    if settings.default_model not in models:
        raise ArtifactError(f"default_model: {settings.default_model!r} is none of {', '.join(models)}")
    tracing = provider or telemetry.tracer_provider("predictor", VERSION)
    serving = Serving.by_settings(settings, SERVICE, tracing)
    delay = settings.max_batch_delay_ms / 1000
    batchers = {
        name: Batcher(model, BatchQueue(settings.max_batch_size, delay, settings.max_queued_queries))
        for name, model in models.items()
    }
    servicer = PredictorServicer(batchers, settings.default_model)
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, serving.server)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(batcher.run()) for batcher in batchers.values()]
        await serving.start()
        await serving.ready()
        on_started(serving)
        await serving.run_until_signal()
        for task in running:
            task.cancel()
    telemetry.shut_down(tracing)
