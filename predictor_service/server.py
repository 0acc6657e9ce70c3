"""Puts the predictor together and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from opentelemetry.trace import SpanKind

from predictive_scheduling import telemetry
from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from predictive_scheduling.serving import Serving
from predictive_scheduling.telemetry import Telemetry
from predictive_scheduling.version import VERSION
from predictor_service.batching.batch_queue import BatchQueue
from predictor_service.batching.batcher import Batcher
from predictor_service.catalog import Catalog
from predictor_service.execution.providers import Execution, available
from predictor_service.metrics import PredictorMetrics
from predictor_service.model import LoadedModel
from predictor_service.open_inference import OpenInferenceServicer
from predictor_service.predictions import Predictions
from predictor_service.servicer import PredictorServicer
from predictor_service.settings import PredictorSettings
from predictor_service.trials import Trials

log = logging.getLogger(__name__)

SERVICE = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name


async def serve(
    settings: PredictorSettings,
    *,
    reporting: Telemetry | None = None,
    on_started: Callable[[Serving], None] = lambda _: None,
) -> None:
    """Serve until a signal, or until ``Serving.draining`` is set by the caller that got it through ``on_started``.

    Raises ProviderError where the execution provider cannot be had, ArtifactError where no model folder can be
    served, or none of them has the default model, which is not allowed to be missing, and ListenError, in a group,
    where an address is taken.
    """
    settings.log_masked()
    execution = await asyncio.to_thread(available, _execution(settings))
    reporting = reporting or telemetry.from_environment("predictor", VERSION, scraped=bool(settings.metrics_listen))
    measured = PredictorMetrics(reporting.meters)
    make_batcher = partial(_batch, settings, measured)
    catalog = Catalog(
        settings.models,
        settings.default_model,
        lambda folder: LoadedModel(folder, execution),
        make_batcher,
        default_may_be_missing=settings.default_may_be_missing,
    )
    try:
        await catalog.load()
        for name, trial in (*settings.canary.items(), *settings.shadow.items()):
            for missing in {name, trial.model} - set(catalog):
                log.warning("model %s is part of a trial, but is not served yet", missing)
        serving = Serving.by_settings(settings, SERVICE, reporting)
        async with aclosing(serving), asyncio.TaskGroup() as group:
            trials = Trials(settings.canary, settings.shadow)
            predictions = Predictions(catalog, settings.default_model, group, trials, measured.answered)
            measured.watch(predictions, lambda: catalog.refused)
            calls = StreamedCalls(f"{SERVICE}/PredictStream", SpanKind.SERVER, reporting.tracers, reporting.meters)
            servicer = PredictorServicer(predictions, calls, serving.draining, settings.drain_seconds / 2)
            predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, serving.server)
            OpenInferenceServicer(predictions, serving.draining.is_set).register(serving.server)
            watching = group.create_task(catalog.watch(settings.reload_seconds)) if settings.reload_seconds else None
            await serving.start()
            await serving.ready()
            on_started(serving)
            await serving.run_until_signal()
            if watching is not None:
                watching.cancel()
    finally:
        await catalog.close()
        await asyncio.to_thread(reporting.shut_down)


def _execution(settings: PredictorSettings) -> Execution:
    return Execution(
        provider=settings.provider,
        fallback=settings.provider_fallback,
        threads=settings.threads,
        most_queries=settings.max_batch_size,
        engines=settings.engines,
    )


def _batch(settings: PredictorSettings, measured: PredictorMetrics, model: LoadedModel) -> Batcher:
    delay = settings.max_batch_delay_ms / 1000
    return Batcher(model, BatchQueue(settings.max_batch_size, delay, settings.max_queued_queries), measured.ran)
