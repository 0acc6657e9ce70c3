"""Runs a scheduler until SIGTERM: starts its backend, serves gRPC and what else the settings ask for, drains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from predictive_scheduling import telemetry
from predictive_scheduling.listening import listens
from predictive_scheduling.page_access import PageAccess
from predictive_scheduling.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from predictive_scheduling.serving import Serving
from predictive_scheduling.telemetry import Telemetry
from predictive_scheduling.version import VERSION
from scheduler_service.api.generations import Generations
from scheduler_service.api.guarded_site import HttpLimits
from scheduler_service.api.identity import Identity, read_tokens
from scheduler_service.api.intake import Intake, ServedModel
from scheduler_service.api.openai.front import OpenAiFront
from scheduler_service.api.servicer import SchedulerServicer
from scheduler_service.api.status import StatusBoard
from scheduler_service.api.status_page import StatusPage
from scheduler_service.assembly import (
    budget_range,
    check_fits,
    make_governor,
    make_mailbox,
    make_pipeline,
    make_predictor,
    make_reports,
    make_shared_budget,
    state_of,
    way_of,
)
from scheduler_service.gateway.budgets import GatewayBudgets
from scheduler_service.gateway.server import GatewayServer
from scheduler_service.gateway.settling import Settling
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import Backend
from scheduler_service.grants import Grants
from scheduler_service.settings import SchedulerSettings
from scheduler_service.telemetry.journal import Journal
from scheduler_service.telemetry.metrics import MetricsObserver
from scheduler_service.telemetry.observers import Observers
from scheduler_service.telemetry.prompt_samples import PromptSamples
from scheduler_service.telemetry.spans import SpanObserver

log = logging.getLogger(__name__)

SERVICE = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name


async def serve(
    settings: SchedulerSettings,
    *,
    backend: Backend | None = None,
    reporting: Telemetry | None = None,
    on_started: Callable[[Serving], None] = lambda _: None,
) -> None:
    """Serve until a signal, or until ``Serving.draining`` is set by the caller that got it through ``on_started``.

    It listens once its backend answers, and needs no predictor to start. Raises BackendUnavailableError where the
    backend takes longer than ``backend_ready_seconds``, ValueError where its context is too short for the cap, and
    ListenError, in a group, where an address is taken.
    """
    settings.log_masked()
    reporting = reporting or telemetry.from_environment("scheduler", VERSION, scraped=bool(settings.metrics_listen))
    backend = backend or make_backend(settings.backend_configuration)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(asyncio.to_thread, reporting.shut_down)
        closing.push_async_callback(backend.close)
        await backend.start()
        limits = await backend.limits()
        log.info("backend %s: %s, %s", settings.backend, limits, backend.capabilities)
        check_fits(settings, limits)
        predictor = make_predictor(settings, reporting, closing)
        await predictor.info()  # so that the first request has budgets at its points; where it is away, later ones do
        budgets = budget_range(settings, limits, predictor)
        served = ServedModel(settings.model or limits.model, budgets, settings.temperature)
        journal = Journal(settings.journal_requests, settings.journal_prompts)
        measured = MetricsObserver(reporting.meters, served.model, settings.backend, tenants=settings.metrics_tenants)
        observers = Observers([SpanObserver(), measured, journal])
        samples = PromptSamples(settings.sample_tenants, settings.sample_readers) if settings.sample_tenants else None
        if samples is not None:
            observers.add(samples)
        reports = await make_reports(settings, closing)
        pipeline = make_pipeline(settings, backend, limits, predictor, observers, reporting.tracers, reports)
        measured.watch(state_of(pipeline, backend))
        governor = make_governor(settings, pipeline, budgets, backend, closing)
        if governor is not None:
            measured.watch_objectives(governor)
        sharing = make_shared_budget(settings, pipeline, closing)
        serving = Serving.by_settings(settings, SERVICE, reporting)
        tokens = read_tokens(Path(settings.auth_tokens)) if settings.auth_tokens else {}
        identity = Identity(tokens, by_certificate=bool(settings.tls_client_ca))
        intake = Intake(served, identity, pipeline.clock, lambda: serving.refuses)
        async with aclosing(serving), asyncio.TaskGroup() as group:
            generations = Generations(pipeline.generate, group, most_stalled_seconds=settings.slow_reader_seconds)
            board = StatusBoard(pipeline, journal, served.model, settings.policy, settings.backend)
            grants = Grants(pipeline, settings.grant_seconds)
            servicer = SchedulerServicer(pipeline, generations, grants, board, intake, samples)
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, serving.server)
            working = [group.create_task(pipeline.allocator.run()), group.create_task(grants.run())]
            if governor is not None:
                working.append(group.create_task(governor.run()))
            if sharing is not None:
                await sharing.beat()  # so that the first request finds a lease
                working.append(group.create_task(sharing.run()))
            await serving.start()
            if settings.http_listen:
                front = OpenAiFront(
                    generations,
                    intake,
                    reporting.tracers.get_tracer(__name__),
                    serving.calls,
                    leaving=serving.draining.is_set,
                    drain_seconds=settings.drain_seconds,
                    limits=HttpLimits(settings.http_connections, write_seconds=settings.slow_reader_seconds),
                    tls=settings.tls,
                )
                serving.also_drains.append(front.stop)
                with listens("http_listen", settings.http_listen):
                    await front.start(settings.http_listen)
            if settings.ext_proc_listen:
                decides = GatewayBudgets(grants, intake, way_of(settings), measured.passed)
                mailbox = make_mailbox(settings, decides.instance, measured.told, closing)
                settling = Settling(decides, measured.told, mailbox)
                if mailbox is not None:
                    working.append(group.create_task(settling.run()))
                gateway = GatewayServer(
                    decides,
                    settling,
                    settings.ext_proc_listen,
                    settings.tls,
                    patience=lambda: settings.drain_seconds if serving.refuses else 0.0,
                )
                serving.also_drains.append(gateway.stop)
                with listens("ext_proc_listen", settings.ext_proc_listen):
                    await gateway.start()
                log.info("external processor on port %d", gateway.port)
            if settings.status_listen:
                page = StatusPage(board, PageAccess(settings.pages_token.get_secret_value()))
                serving.also_drains.append(page.stop)
                with listens("status_listen", settings.status_listen):
                    await page.start(settings.status_listen)
            await serving.ready()
            on_started(serving)
            await serving.run_until_signal()
            for task in working:
                task.cancel()
