"""Runs the demo of a load that rises above what this machine can do: services up, questions sent, lines told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from exporters.demo.tasks import fresh_tasks
from predictive_scheduling_cli.demo.engines import EMBEDDED
from predictive_scheduling_cli.demo.load import (
    BUSY,
    Asked,
    Capacity,
    Phase,
    by_phase,
    figures,
    given_up,
    phase_at,
    poisson_arrivals,
    rise_and_fall,
)
from predictive_scheduling_cli.demo.load_view import LoadView, closing
from predictive_scheduling_cli.demo.open_loop import Watch, measure_capacity, offer
from predictive_scheduling_cli.demo.questions import question_set
from predictive_scheduling_cli.demo.services import free_address, service
from scheduler_service.control.objectives import parse_objectives

MOST, LEAST = 40, 8  # mean budgets, in tokens that are used
_SLOTS, _CAPACITY_SECONDS, _LINE_SECONDS = 8, 20.0, 4.0
PHASES = rise_and_fall(32, 56, 40)


def scheduler_settings(
    engine: Mapping[str, Any], predictor: str, *, slots: int, tokens: int, **more: Any
) -> dict[str, Any]:
    """Settings of a scheduler that asks ``engine`` (its own settings) at ``tokens`` a question, by the price.

    The floor is below the predictor's first point: under load, who gains nothing by thinking should not have to.
    """
    asked = question_set(long=False)
    return {
        **engine, "backend_slots": slots, "template": "demo", "predictor": predictor,
        "predictor_model": asked.predictor_model, "predictor_timeout_ms": 2000, "floor_tokens": 4,
        "cap_tokens": asked.cap, "tokens_per_query": tokens, "policy": "price", **asked.scheduler, **more,
    }  # fmt: skip


async def run_load_demo(
    out: Path, sockets: Path, console: Console, *, telemetry: bool, phases: Sequence[Phase] = PHASES
) -> Path:
    """Measure this machine, then ask at half of what it can do, twice that, and half again; returns what was written.

    ``telemetry``: serve the scheduler's status page meanwhile.
    """
    log = out / "services.log"
    log.unlink(missing_ok=True)
    tasks, page, settings = fresh_tasks(2000), free_address(), EMBEDDED.scheduler
    async with service("predictor", f"unix:{sockets}/predictor.sock", log, otlp="") as predictor:
        capacity = await _measured(settings, predictor, sockets, log, console)
        (objective,) = parse_objectives([capacity.objective])
        arrivals = poisson_arrivals(phases, capacity.rate, seed=0)
        view = LoadView(phases, arrivals, objective.seconds, MOST)
        flags = scheduler_settings(
            settings, predictor, slots=_SLOTS, tokens=MOST, objective=str(objective), least_tokens_per_query=LEAST
        )
        if telemetry:
            flags["status_listen"] = status = free_address()
            console.print(f"watch it at [bold]http://{status}/[/bold]")
        async with service("scheduler", f"unix:{sockets}/load.sock", log, otlp="", metrics_listen=page, **flags) as own:
            console.print(
                f"\n[bold]{capacity.rate:.1f} questions a second[/bold] are what this machine answers at {MOST} tokens "
                f"each. They now come at half of that, at twice, and at half again. Promised: {objective}.\n"
                "[dim]fleet: what the largest budgets would take of it; price: points of accuracy that 100 tokens must "
                "gain[/dim]\n",
                soft_wrap=True,
            )
            console.print(view.header(), soft_wrap=True)
            watch = Watch(page)
            telling = [asyncio.create_task(watch.run()), asyncio.create_task(_tell(view, watch, console))]
            try:
                asked = await offer(own, tasks, arrivals, view.asked.append)
            finally:
                for task in telling:
                    task.cancel()
    console.print()
    for line in closing(asked, phases, objective.seconds):
        console.print(line, soft_wrap=True)
    return _written(out, capacity, phases, asked, watch)


async def _measured(
    settings: Mapping[str, Any], predictor: str, sockets: Path, log: Path, console: Console
) -> Capacity:
    """What the engine can do at the largest mean budget, with a scheduler that has no objective."""
    console.print(f"[dim]measuring what this machine can do: {_SLOTS} questions at once for some seconds[/dim]")
    flags = scheduler_settings(settings, predictor, slots=_SLOTS, tokens=MOST)
    async with service("scheduler", f"unix:{sockets}/capacity.sock", log, otlp="", **flags) as address:
        return await measure_capacity(address, fresh_tasks(2000)[::-1], _SLOTS, _CAPACITY_SECONDS)


async def _tell(view: LoadView, watch: Watch, console: Console) -> None:
    """Print a line every few seconds, until cancelled."""
    began = time.perf_counter()
    while True:
        await asyncio.sleep(_LINE_SECONDS)
        if watch.seen:
            console.print(view.line(watch.seen[-1], time.perf_counter() - began), soft_wrap=True)


def _written(out: Path, capacity: Capacity, phases: Sequence[Phase], asked: Sequence[Asked], watch: Watch) -> Path:
    """Keep the figures, and what the scheduler said each second."""
    path = out / "load.json"
    found = {
        "capacity_per_second": capacity.rate,
        "objective": capacity.objective,
        **figures(asked),
        "phases": by_phase(asked, phases),
        "given_up": [asdict(row) for row in given_up(asked, lambda at: phase_at(phases, at).name == BUSY)],
        "seconds": [asdict(one) for one in watch.seen],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path
