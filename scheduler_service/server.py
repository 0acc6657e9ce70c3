"""Puts the scheduler together and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc.aio
from opentelemetry import trace

from predictive_scheduling import telemetry
from predictive_scheduling.interceptors import client_tracing
from predictive_scheduling.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from predictive_scheduling.serving import Serving
from predictive_scheduling.version import VERSION
from scheduler_service.allocation import POLICIES
from scheduler_service.backends import make_backend
from scheduler_service.backends.base import Backend, Limits
from scheduler_service.collector import Collector
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.ledger import BudgetLedger
from scheduler_service.pipeline import Pipeline
from scheduler_service.planning import Rules
from scheduler_service.predictor_client import GrpcPredictor, NoPredictor, Predictor
from scheduler_service.servicer import Offer, SchedulerServicer
from scheduler_service.settings import SchedulerSettings
from scheduler_service.templates import TEMPLATES
from scheduler_service.window import RequestWindow

log = logging.getLogger(__name__)

SERVICE = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_DEFAULT_SLOTS = 128


async def serve(
    settings: SchedulerSettings,
    *,
    backend: Backend | None = None,
    provider: trace.TracerProvider | None = None,
    on_started: Callable[[Serving], None] = lambda _: None,
) -> None:
    """Serve until a signal, or until ``Serving.draining`` is set by whoever got it through ``on_started``.

    It listens once its backend answers, and needs no predictor to start. Raises BackendUnavailableError where the
    backend takes longer than ``backend_ready_seconds``, ValueError where its context is too short for the cap.
    """
    settings.log_masked()
    tracing = provider or telemetry.tracer_provider("scheduler", VERSION)
    backend = backend or make_backend(settings)
    async with AsyncExitStack() as closing:
        closing.callback(telemetry.shut_down, tracing)
        closing.push_async_callback(backend.close)
        await backend.start()
        limits = await backend.limits()
        _check_fits(settings, limits)
        predictor: Predictor = NoPredictor()
        if settings.predictor:
            channel = grpc.aio.insecure_channel(settings.predictor, interceptors=client_tracing(tracing))
            closing.push_async_callback(channel.close)
            timeout = settings.predictor_timeout_ms / 1000
            predictor = GrpcPredictor(channel, model=settings.predictor_model, timeout_seconds=timeout)
        pipeline = build_pipeline(settings, backend, limits, predictor, tracing)
        serving = Serving.by_settings(settings, SERVICE, tracing)
        offer = Offer(settings.model or limits.model, settings.floor_tokens, settings.cap_tokens, settings.temperature)
        servicer = SchedulerServicer(pipeline, offer, serving.draining.is_set)
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, serving.server)
        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(pipeline.collector.run())
            await serving.start()
            await serving.ready()
            on_started(serving)
            await serving.run_until_signal()
            collecting.cancel()


def _check_fits(settings: SchedulerSettings, limits: Limits) -> None:
    """Refuse a cap that no prompt would leave room for; raises ValueError naming the setting."""
    log.info("backend %s: %s", settings.backend, limits)
    wanted = settings.cap_tokens + settings.answer_tokens
    if limits.max_total_tokens and wanted >= limits.max_total_tokens:
        raise ValueError(
            f"cap_tokens: {settings.cap_tokens} and {settings.answer_tokens} answer tokens leave no room for a prompt; "
            f"the backend takes {limits.max_total_tokens} tokens in all"
        )


def build_pipeline(
    settings: SchedulerSettings, backend: Backend, limits: Limits, predictor: Predictor, tracing: trace.TracerProvider
) -> Pipeline:
    """Wire a pipeline from settings around a started backend and a predictor."""
    tracer = tracing.get_tracer("scheduler_service")
    rules = Rules(POLICIES[settings.policy], settings.answer_tokens)
    ledger = BudgetLedger(settings.tokens_per_query, settings.bank_limit_tokens)
    window = RequestWindow(settings.window_size, settings.window_ms / 1000)  # type: ignore[var-annotated]
    slots = settings.backend_slots or limits.max_concurrent_requests or _DEFAULT_SLOTS
    return Pipeline(
        collector=Collector(window, predictor, ledger, rules, tracer),
        dispatcher=Dispatcher(backend, settings.model or limits.model, slots, tracer),
        predictor=predictor,
        ledger=ledger,
        rules=rules,
        template=TEMPLATES[settings.template],
        max_pending=settings.max_pending,
    )
