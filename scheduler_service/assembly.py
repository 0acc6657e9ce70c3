"""Puts a scheduler's parts together as its settings say. What runs them is ``server``."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc.aio
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from predictive_scheduling.connection import channel_options
from predictive_scheduling.credentials import channel_credentials
from predictive_scheduling.interceptors import StreamedCalls, client_tracing
from predictive_scheduling.listening import listens
from predictive_scheduling.telemetry import Telemetry
from scheduler_service.admission.admission import Admission
from scheduler_service.admission.rates import Rate, TenantRates
from scheduler_service.allocation import POLICIES, Policy
from scheduler_service.allocation.price import DualPrice
from scheduler_service.allocation.target import Target
from scheduler_service.budget.income import Controlled, Income, PerQuery, PerSecond, PerWindow
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.budget.reclaim import Reclaimer
from scheduler_service.budget.shared_budget import Deposits, Lease, SharedBudget
from scheduler_service.control.capacity import Bounds
from scheduler_service.domain import Prediction
from scheduler_service.gateway.budgets import Way
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.generation.backends.base import Backend, Limits
from scheduler_service.generation.dispatcher import Dispatcher
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.pace import Pace
from scheduler_service.governor import Governor
from scheduler_service.pipeline import Pipeline
from scheduler_service.planning.allocator import Allocator, Expectations
from scheduler_service.planning.budget_range import BudgetRange
from scheduler_service.planning.plan import Rules
from scheduler_service.planning.priced import PricedAllocator
from scheduler_service.planning.pricing import Pricing
from scheduler_service.planning.window import RequestWindow
from scheduler_service.planning.windowed import Waiting, WindowedAllocator
from scheduler_service.prediction.client import GrpcPredictor, NoPredictor, Predictor
from scheduler_service.prediction.guard import GuardedPredictor
from scheduler_service.prediction.outcomes import OutcomeBook
from scheduler_service.prediction.streams import METHOD as STREAM_METHOD
from scheduler_service.prediction.streams import PredictionStreams
from scheduler_service.prediction.trust import trusted
from scheduler_service.settings import SchedulerSettings
from scheduler_service.shared_load import SharedLoad
from scheduler_service.telemetry.metrics import Watched
from scheduler_service.telemetry.observers import Observers

if TYPE_CHECKING:
    from redis.asyncio import Redis  # the extra "shared"

_DEFAULT_SLOTS = 128


def make_predictor(settings: SchedulerSettings, reporting: Telemetry, closing: AsyncExitStack) -> Predictor:
    """The predictor that the settings name, remembered and guarded; none where they name none."""
    if not settings.predictor:
        return NoPredictor()
    channel = _predictor_channel(settings, reporting)
    closing.push_async_callback(channel.close)
    calls = StreamedCalls(STREAM_METHOD, SpanKind.CLIENT, reporting.tracers, reporting.meters)
    streams = PredictionStreams(channel, calls)
    closing.push_async_callback(streams.aclose)
    return GuardedPredictor(
        GrpcPredictor(
            channel,
            model=settings.predictor_model,
            timeout_seconds=settings.predictor_timeout_ms / 1000,
            streams=streams,
        ),
        entries=settings.predictor_cache,
        seconds=settings.predictor_cache_seconds,
    )


def _predictor_channel(settings: SchedulerSettings, reporting: Telemetry) -> grpc.aio.Channel:
    interceptors, options = client_tracing(reporting.tracers, reporting.meters), channel_options()
    if not settings.predictor_tls_ca:
        return grpc.aio.insecure_channel(settings.predictor, options=options, interceptors=interceptors)
    credentials = channel_credentials(
        settings.predictor_tls_ca, settings.predictor_tls_cert, settings.predictor_tls_key
    )
    return grpc.aio.secure_channel(settings.predictor, credentials, options=options, interceptors=interceptors)


async def make_reports(settings: SchedulerSettings, closing: AsyncExitStack) -> EngineReports | None:
    """What takes engines' reports, listening, where the settings say so. Raises ListenError where it cannot listen."""
    if not settings.reports_listen:
        return None
    reports = EngineReports(settings.reports_listen, settings.reports_address)
    with listens("reports_listen", settings.reports_listen):
        await reports.start()
    closing.push_async_callback(reports.close)
    return reports


def check_fits(settings: SchedulerSettings, limits: Limits) -> None:
    """Refuse a cap, or a mean budget, that leaves no room for a prompt; raises ValueError naming the setting."""
    name = "cap_tokens" if settings.cap_tokens else "tokens_per_query"
    largest = settings.cap_tokens or settings.tokens_per_query
    if limits.max_total_tokens and largest + settings.answer_tokens >= limits.max_total_tokens:
        raise ValueError(
            f"{name}: {largest} and {settings.answer_tokens} answer tokens leave no room for a prompt; "
            f"the backend takes {limits.max_total_tokens} tokens in all"
        )


def budget_range(settings: SchedulerSettings, limits: Limits, predictor: Predictor) -> BudgetRange:
    """What budgets requests may have: as set, or as the predictor's points and the backend's room say."""
    return BudgetRange(
        settings.tokens_per_query,
        None if settings.floor_tokens < 0 else settings.floor_tokens,
        settings.largest_exact if settings.policy == "exact" else settings.cap_tokens or None,
        settings.answer_tokens,
        limits.max_total_tokens,
        predictor.points,
    )


def make_pipeline(
    settings: SchedulerSettings,
    backend: Backend,
    limits: Limits,
    predictor: Predictor,
    observers: Observers,
    tracing: trace.TracerProvider,
    reports: EngineReports | None = None,
) -> Pipeline:
    """Wire a pipeline from settings around a started backend and a predictor."""
    tracer = tracing.get_tracer("scheduler_service")
    rules = Rules(_policy(settings), settings.answer_tokens, shares=settings.tenant_shares)
    priced = settings.policy == "price"
    shared = _shares_budget(settings)
    ledger = BudgetLedger(
        settings.tokens_per_query,
        settings.bank_tokens,
        overdraft=int(settings.burst_requests * settings.tokens_per_query) if priced else 0,
        income=_income(settings),
        opening=settings.bank_tokens if settings.budget_per == "second" and not shared else 0,
    )
    slots = settings.backend_slots or limits.max_concurrent_requests or _DEFAULT_SLOTS
    if settings.backend == "none":  # whoever runs the requests knows how many at once
        slots = settings.backend_slots or settings.max_in_flight
    outcomes, pace = OutcomeBook(), Pace()

    def trust(prediction: Prediction) -> Prediction:
        mean = predictor.mean_curve(prediction.predictor)
        return trusted(prediction, mean, outcomes.slope(prediction.predictor), settings.confidence)

    expectations = Expectations(predictor, rules, pace, trust)
    allocator: Allocator
    if priced:
        pricing = Pricing(settings.tokens_per_query, settings.answer_tokens, DualPrice())
        allocator = PricedAllocator(pricing, expectations, ledger, tracer)
    else:
        window: RequestWindow[Waiting] = RequestWindow(
            settings.window_size, settings.window_ms / 1000, settings.window_adaptive
        )
        allocator = WindowedAllocator(window, expectations, ledger, tracer)
    return Pipeline(
        allocator=allocator,
        expectations=expectations,
        dispatcher=Dispatcher(backend, settings.model or limits.model, slots, tracer, reports),
        predictor=predictor,
        ledger=ledger,
        rules=rules,
        template=settings.known_templates[settings.template],
        admission=_admission(settings),
        outcomes=outcomes,
        pace=pace,
        observers=observers,
        reclaimer=Reclaimer() if settings.reclaim else None,
        state_seconds=settings.predictor_timeout_ms / 1000,
        # An engine that ends the thinking by itself has to know the budget before.
        engine_first=priced
        and bool(settings.predictor)
        and (reports is not None or not settings.backend_thinking_budget),
    )


def make_governor(
    settings: SchedulerSettings, pipeline: Pipeline, budgets: BudgetRange, backend: Backend, closing: AsyncExitStack
) -> Governor | None:
    """What holds latency objectives in ``pipeline``; ``None`` where none are set. Its ``run`` must be called.

    Raises ModuleNotFoundError for a shared load without the extra ``shared``.
    """
    if not settings.objectives:
        return None
    income, allocator = pipeline.ledger.income, pipeline.allocator
    if not isinstance(income, Controlled):
        raise TypeError("objectives control the income")
    least = settings.least_tokens_per_query or budgets.floor
    most = settings.tokens_per_query
    bounds = Bounds(min(most, max(1, least)), most, max(most, budgets.cap))
    pricing = allocator.pricing if isinstance(allocator, PricedAllocator) else None
    sharing = None
    if settings.shared_budget_url.get_secret_value():
        sharing = SharedLoad(_store(settings, closing), _replica(), settings.shared_budget_key).exchange
    governor = Governor(settings.objectives, bounds, income, pricing, getattr(backend, "signals", None), sharing)
    governor.watch(pipeline)
    pipeline.observers.add(governor)
    pipeline.expectations.longest = governor.longest
    pipeline.refuses = lambda: governor.refuses
    if isinstance(allocator, PricedAllocator):
        allocator.check, allocator.note = governor.check, governor.note
    return governor


def way_of(settings: SchedulerSettings) -> Way:
    """How a gateway wants budgets."""
    return Way(
        settings.ext_proc_budget_field,
        settings.ext_proc_tenant_header.lower(),
        {"always": True, "never": False}.get(settings.ext_proc_usage),
    )


def make_mailbox(
    settings: SchedulerSettings, instance: str, count: Callable[[str, int], None], closing: AsyncExitStack
) -> Mailbox | None:
    """By what schedulers behind a gateway settle for each other, where they share a store; ``instance``: this one.

    Raises ModuleNotFoundError without the extra ``shared``.
    """
    if not settings.shared_budget_url.get_secret_value():
        return None
    return Mailbox(_store(settings, closing), instance, count, settings.shared_budget_key)


def state_of(pipeline: Pipeline, backend: Backend) -> Watched:
    """What metrics read of a pipeline and its backend."""
    return Watched(
        pipeline.admission,
        pipeline.ledger,
        pipeline.outcomes,
        lambda: pipeline.allocator.quoted_price,
        lambda: pipeline.pace.seconds_per_token,
        getattr(backend, "endpoints", ()),
    )


def _admission(settings: SchedulerSettings) -> Admission:
    rates = TenantRates(
        Rate(settings.tenant_requests_per_second, settings.tenant_burst_seconds),
        Rate(settings.tenant_tokens_per_second, settings.tenant_burst_seconds),
    )
    return Admission(settings.max_in_flight, settings.max_in_flight_tokens, settings.max_tenant_in_flight, rates)


def _policy(settings: SchedulerSettings) -> Policy:
    """The policy of windows; where requests are priced one by one, that of plans that are only asked for."""
    if settings.policy == "target":
        return Target(settings.target_accuracy)
    return POLICIES["envelope" if settings.policy == "price" else settings.policy]


def make_shared_budget(settings: SchedulerSettings, pipeline: Pipeline, closing: AsyncExitStack) -> SharedBudget | None:
    """The feeder of a shared budget, where one is set. Raises ModuleNotFoundError without the extra ``shared``."""
    if not _shares_budget(settings):
        return None
    lease = Lease(settings.budget_tokens, settings.bank_tokens, key=settings.shared_budget_key)
    deposits = pipeline.ledger.income
    if not isinstance(deposits, Deposits):
        raise TypeError("a shared budget feeds deposits")
    return SharedBudget(_store(settings, closing), _replica(), lease, pipeline.ledger, deposits)


def _shares_budget(settings: SchedulerSettings) -> bool:
    """Whether schedulers share a budget: one a second. With objectives they share the load instead."""
    return bool(settings.shared_budget_url.get_secret_value()) and settings.budget_per == "second"


def _store(settings: SchedulerSettings, closing: AsyncExitStack) -> Redis:
    """What schedulers share is in there. Raises ModuleNotFoundError without the extra ``shared``."""
    from redis.asyncio import Redis

    url = settings.shared_budget_url.get_secret_value()
    store = Redis.from_url(url, socket_connect_timeout=1.0, socket_timeout=1.0)
    closing.push_async_callback(store.aclose)
    return store


def _replica() -> str:
    """A name of this process alone."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _income(settings: SchedulerSettings) -> Income:
    if settings.objectives:
        return Controlled(settings.tokens_per_query)
    if _shares_budget(settings):
        return Deposits()
    match settings.budget_per:
        case "second":
            return PerSecond(settings.budget_tokens)
        case "window":
            return PerWindow(settings.budget_tokens)
        case _:
            return PerQuery(settings.tokens_per_query)
