"""Runs the demo: services up, questions through both policies, files out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rich.console import Console

from predictive_scheduling import AsyncPredictorClient
from predictive_scheduling.interceptors import client_tracing
from predictive_scheduling.predictor.v1 import predictor_pb2
from predictive_scheduling_cli.demo.engines import EMBEDDED, Engine
from predictive_scheduling_cli.demo.live import LiveView
from predictive_scheduling_cli.demo.otlp_receiver import OtlpReceiver
from predictive_scheduling_cli.demo.questions import QuestionSet
from predictive_scheduling_cli.demo.report import write_report
from predictive_scheduling_cli.demo.runner import Result, ask_all, wasted_tokens
from predictive_scheduling_cli.demo.services import free_address, service
from predictive_scheduling_cli.demo.summary import summarise
from scheduler_service.allocation.curve import Curve
from scheduler_service.api.status_page import picture

# The same budget for all, whatever is used of it; the same budget for all that is expected to use the grant; scheduled.
_POLICIES = ("uniform", "uniform_at_equal_use", "envelope")
_SCHEDULER = {"template": "demo", "floor_tokens": 16, "predictor_timeout_ms": 2000}
# The window closes by size: all questions are sent at once, and the last, smaller one must not wait long.
_WINDOWS = {"bank_limit_tokens": 0, "window_size": 36, "window_ms": 500, "window_adaptive": False}


async def run_demo(
    asked: QuestionSet,
    budgets: Sequence[int],
    out: Path,
    sockets: Path,
    console: Console,
    *,
    telemetry: bool,
    engine: Engine = EMBEDDED,
) -> tuple[dict[str, Any], list[Path]]:
    """Ask all questions under each policy at each mean budget; returns the summary, and the files that were written.

    ``telemetry``: serve the scheduler's status page meanwhile, and leave a picture of it. An ``engine`` that sends
    hidden states is asked once more, with budgets from these.
    """
    own = {"cap_tokens": asked.cap, "predictor_model": asked.predictor_model, **asked.scheduler, **engine.scheduler}
    policies = [*_POLICIES, *(["hidden"] if engine.states and asked.hidden_predictor else [])]
    receiver = OtlpReceiver()
    endpoint = await receiver.start()
    tracing = TracerProvider(resource=Resource.create({"service.name": "demo"}))
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True)))
    page = free_address()
    log = out / "services.log"
    log.unlink(missing_ok=True)
    runs: list[tuple[dict[str, Any], list[Result], list[Result]]] = []
    wasted: list[int] = []
    try:
        async with service("predictor", f"unix:{sockets / 'predictor.sock'}", log, otlp=endpoint) as predictor:
            for tokens in budgets:
                results: dict[str, list[Result]] = {}
                larger = await uniform_that_uses(tokens, predictor, asked)
                for policy in policies:
                    mean = larger if policy == "uniform_at_equal_use" else tokens
                    flags = {**_SCHEDULER, **own, "predictor": predictor, "tokens_per_query": mean}
                    if policy == "hidden":
                        flags |= {**engine.states, "policy": "price", "predictor_model": asked.hidden_predictor}
                    else:
                        flags |= {**_WINDOWS, "policy": "envelope" if policy == "envelope" else "uniform"}
                    console.print(f"[dim]{policy}, {tokens} tokens a question: starting scheduler and LLM[/dim]")
                    if telemetry:
                        flags["status_listen"] = page
                        console.print(f"watch it at [bold]http://{page}/[/bold]")
                    address = f"unix:{sockets / f'{policy}-{tokens}.sock'}"
                    async with service("scheduler", address, log, otlp=endpoint, **flags):
                        with LiveView(console, f"{policy}, {tokens}/question", len(asked.tasks)) as view:
                            results[policy] = await ask_all(
                                address, asked.tasks, on_result=view.add, interceptors=client_tracing(tracing), seed=0
                            )
                        if policy == "hidden":
                            wasted += await wasted_tokens(address, results[policy])
                        if telemetry:
                            await _picture(page, out / f"status-{policy}-{tokens}.html")
                summary = summarise(results, tokens)
                runs.append((summary, results["uniform"], results["envelope"]))
        await asyncio.to_thread(tracing.shutdown)  # it exports to the receiver on this loop
    finally:
        await receiver.stop()
    summary = {"engine": engine.name, **runs[0][0]}
    if wasted:
        summary["wasted_tokens_p50"] = round(median(wasted), 1)
    if len(runs) > 1:
        summary["ample"] = runs[1][0]
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_report(out / "report.html", runs)
    pictures = [out / f"status-{policy}-{tokens}.html" for tokens in budgets for policy in policies if telemetry]
    return summary, [out / "summary.json", out / "report.html", *receiver.write(out), *pictures]


async def uniform_that_uses(tokens: int, predictor: str, asked: QuestionSet) -> int:
    """The least budget for all that is expected to use ``tokens`` on average, by the predictor's mean usage curve."""
    async with AsyncPredictorClient(predictor) as client:
        reply = await client.stub.GetModel(predictor_pb2.GetModelRequest(model=asked.predictor_model))
    mean = Curve(tuple(reply.model.budget_points), (), tuple(reply.model.mean_used_tokens))
    return next((budget for budget in range(tokens, asked.cap) if mean.used_at(budget) >= tokens), asked.cap)


async def _picture(page: str, path: Path) -> None:
    """Keep what the status page shows now."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{page}/status.json") as reply,
    ):
        await asyncio.to_thread(path.write_text, picture(await reply.json()))
