"""Holding a latency objective on a real engine: the load steps from half to twice its capacity and back.

    python -m benchmarks.load_step --engine embedded --json load_step.json --plot docs/plots/load-step-embedded.svg
    python -m benchmarks.load_step --engine vllm --environment .venv-vllm --json load_step.json

Predictor, scheduler and engine run as processes on this machine, as the demo's do; questions are of the demo's kinds,
though none that its predictor or its model has seen. The engine's capacity is measured first: the questions a second
that it answers with all slots taken and the largest mean budget. Its objective, unless one is given, is half as much
time again as questions take then. Questions come by a Poisson process, the same for every policy:

    price               the objective, and the price
    scaled uniform      the objective, and one budget for all that the controller scales
    admission alone     the price at the largest mean budget, whatever the load, with as many requests in flight as end
                        within the objective; others are refused
    fixed budgets       the price at the largest mean budget, whatever the load

A scheduler is started anew for each, so the first phase is also that in which the price is learned.
``outside_fraction`` is that of ``benchmarks.objectives``: the share of windows of ten seconds in which more requests
were late than the objective allows, less what runs when the load rises, and ten seconds more.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.callers import keep
from exporters.demo.tasks import Task, fresh_tasks
from exporters.replay.load import Load
from exporters.replay.load_simulation import Outcome, outside
from predictive_scheduling_cli.demo.engines import running_vllm
from predictive_scheduling_cli.demo.load import (
    QUANTILE,
    Asked,
    Capacity,
    Phase,
    by_phase,
    figures,
    poisson_arrivals,
    rise_and_fall,
    starts,
)
from predictive_scheduling_cli.demo.load_run import LEAST, MOST, scheduler_settings
from predictive_scheduling_cli.demo.open_loop import Fleet, Watch, measure_capacity, offer
from predictive_scheduling_cli.demo.questions import question_set
from predictive_scheduling_cli.demo.run import uniform_that_uses
from predictive_scheduling_cli.demo.services import free_address, service
from predictive_scheduling_cli.demo.summary import percentile
from scheduler_service.control.objectives import Objective, parse_objectives

PRICE, UNIFORM, ADMISSION, FIXED = "price", "scaled uniform", "admission alone", "fixed budgets"
_WINDOW, _REACTION, _DRAWN_WINDOW = 10.0, 10.0, 5.0  # seconds
_UNLIMITED = 100_000  # requests in flight
_SLOTS = {"embedded": 8, "vllm": 16}


@dataclass(frozen=True)
class Setting:
    """What all policies share. ``engine``: settings of a scheduler that asks it; ``most``, ``least``: mean budgets."""

    engine: Mapping[str, Any]
    slots: int
    most: int
    least: int
    predictor: str

    def scheduler(self, tokens: int, **more: Any) -> dict[str, Any]:
        """Settings of a scheduler at ``tokens`` a question."""
        given = {"max_in_flight": _UNLIMITED, **more}
        return scheduler_settings(self.engine, self.predictor, slots=self.slots, tokens=tokens, **given)


@dataclass(frozen=True)
class Run:
    """What became of one policy's questions, and what its scheduler said of itself meanwhile."""

    asked: Sequence[Asked]
    seen: Sequence[Fleet]


async def policies(setting: Setting, capacity: Capacity, objective: Objective) -> dict[str, dict[str, Any]]:
    """The schedulers that are compared."""
    most, least = setting.most, setting.least
    larger, smaller = [
        await uniform_that_uses(tokens, setting.predictor, question_set(long=False)) for tokens in (most, least)
    ]
    return {
        PRICE: setting.scheduler(most, objective=str(objective), least_tokens_per_query=least),
        UNIFORM: setting.scheduler(
            larger, policy="uniform", window_ms=5, objective=str(objective), least_tokens_per_query=smaller
        ),
        ADMISSION: setting.scheduler(most, max_in_flight=capacity.in_flight(objective.seconds)),
        FIXED: setting.scheduler(most),
    }


async def replay(
    settings: Mapping[str, Any], folder: Path, log: Path, tasks: Sequence[Task], arrivals: Sequence[float]
) -> Run:
    """Start a scheduler, and send it the load."""
    page = free_address()
    async with service("scheduler", f"unix:{folder}/s.sock", log, otlp="", metrics_listen=page, **settings) as address:
        watch = Watch(page)
        watching = asyncio.create_task(watch.run())
        try:
            asked = await offer(address, tasks, arrivals, lambda _: None)
        finally:
            watching.cancel()
    return Run(asked, watch.seen)


def outside_fraction(asked: Sequence[Asked], phases: Sequence[Phase], objective: Objective) -> float:
    """The share of the time in which the objective did not hold, after the reaction to the step up."""
    count = len(asked)
    none, numbers = np.zeros(count), np.zeros(count, np.int64)
    at, seconds = np.array([one.at for one in asked]), np.array([one.seconds for one in asked])
    rise = starts(phases)[1]
    load = Load(at, numbers, numbers, numbers, none, starts(phases)[-1], steps=(rise,))
    budgets = np.where(np.isfinite(seconds), 0, -1)
    return outside(load, Outcome(budgets, none, none, seconds), objective, window=_WINDOW, reaction=_REACTION)


def summary(run: Run, phases: Sequence[Phase], objective: Objective) -> dict[str, Any]:
    """One policy's figures: over all questions, and by phase."""
    seconds = [one.seconds for one in run.asked if one.result is not None]
    return {
        "outside_fraction": outside_fraction(run.asked, phases, objective),
        "late_fraction": sum(one > objective.seconds for one in seconds) / len(seconds),
        **figures(run.asked),
        "phases": by_phase(run.asked, phases),
    }


def over_time(run: Run, until: float) -> dict[str, list[tuple[float, float]]]:
    """Latency, tokens and price of the questions that came in each window, for a picture; by the window's middle."""
    lines: dict[str, list[tuple[float, float]]] = {"latency": [], "tokens": [], "price": []}
    for start in np.arange(0.0, until, _DRAWN_WINDOW).tolist():
        results = [
            one.result for one in run.asked if start <= one.at < start + _DRAWN_WINDOW and one.result is not None
        ]
        if not results:
            continue
        middle = start + _DRAWN_WINDOW / 2
        lines["latency"].append((middle, percentile([result.seconds for result in results], QUANTILE)))
        lines["tokens"].append((middle, float(np.mean([result.allocation.expected_tokens for result in results]))))
        lines["price"].append((middle, 1e4 * float(np.mean([result.allocation.price for result in results]))))
    return lines


def courses(runs: Mapping[str, Run], phases: Sequence[Phase], objective: Objective) -> list[plots.Course]:
    """What the picture shows, a line a policy."""
    end = starts(phases)[-1]
    lines = {name: over_time(run, end) for name, run in runs.items()}
    return [
        plots.Course(
            f"Latency, p{100 * QUANTILE:g} of those that came",
            "s",
            {name: line["latency"] for name, line in lines.items()},
            limit=objective.seconds,
            logarithmic=True,
        ),
        plots.Course(
            "Mean budget, tokens expected to be used", "tokens", {n: line["tokens"] for n, line in lines.items()}
        ),
        plots.Course(
            "Price", "points / 100 tokens", {name: line["price"] for name, line in lines.items() if name != UNIFORM}
        ),
    ]


@asynccontextmanager
async def running_engine(engine: str, environment: Path, log: Path) -> AsyncIterator[dict[str, Any]]:
    """Settings of a scheduler that asks the engine, which runs until the block ends."""
    if engine == "embedded":
        yield {"backend": "embedded"}
        return
    async with running_vllm(environment, log) as url:
        yield {"backend": "vllm", "backend_url": url}


async def measure(given: argparse.Namespace) -> tuple[dict[str, Any], list[plots.Course]]:
    """Measure the capacity and every policy; returns the figures and what the picture shows."""
    phases, tasks = rise_and_fall(*given.seconds), fresh_tasks(2000)
    runs: dict[str, Run] = {}
    async with AsyncExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="ps-")))
        log = folder / "log"
        engine = await closing.enter_async_context(running_engine(given.engine, given.environment, log))
        predictor = await closing.enter_async_context(
            service("predictor", f"unix:{folder}/predictor.sock", log, otlp="")
        )
        slots = given.slots or _SLOTS[given.engine]
        setting = Setting(engine, slots, given.most, given.least, predictor)
        async with service(
            "scheduler", f"unix:{folder}/s.sock", log, otlp="", **setting.scheduler(given.most)
        ) as first:
            capacity = await measure_capacity(first, tasks[::-1], slots, given.capacity_seconds)
        (objective,) = parse_objectives([given.objective or capacity.objective])
        arrivals = poisson_arrivals(phases, capacity.rate, given.seed)
        print(f"{capacity.rate:.2f} questions a second; {objective}; {len(arrivals)} questions", flush=True)  # noqa: T201
        found: dict[str, Any] = {
            "engine": given.engine, "slots": slots, "most": given.most, "least": given.least,
            "capacity_per_second": capacity.rate, "objective": str(objective), "questions": len(arrivals),
            "phases": [asdict(phase) for phase in phases], "policies": {}, "seconds": {},
        }  # fmt: skip
        for name, settings in (await policies(setting, capacity, objective)).items():
            if given.policies and name not in given.policies:
                continue
            run = runs[name] = await replay(settings, folder, log, tasks, arrivals)
            row = found["policies"][name] = summary(run, phases, objective)
            found["seconds"][name] = [asdict(one) for one in run.seen]
            print(told(name, row), flush=True)  # noqa: T201
    return found, courses(runs, phases, objective)


def told(name: str, row: Mapping[str, Any]) -> str:
    """One policy's figures as lines of text."""
    over_all = (
        f"{name:16} outside {row['outside_fraction']:6.1%}, late {row['late_fraction']:6.1%}, "
        f"right {row['right_of_asked']:.1%} of asked, {row['right_of_served']:.1%} of served, "
        f"refused {row['refused'] / row['asked']:.1%}, {row['tokens']:.1f} tokens"
    )
    lines = [over_all]
    for phase, one in row["phases"].items():
        if one["p50_seconds"] is not None:
            lines.append(
                f"    {phase:12} {one['asked']:5} asked, {one['refused']:4} refused, "
                f"right {one['right_of_asked']:.1%}, {one['tokens']:5.1f} tokens, "
                f"p50 {one['p50_seconds']:.1f} s, p99 {one['p99_seconds']:.1f} s"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=list(_SLOTS), default="embedded")
    parser.add_argument("--environment", type=Path, default=Path(".venv-vllm"), help="of --engine vllm")
    parser.add_argument("--slots", type=int, help="requests that run at once; without, 8 embedded and 16 on vLLM")
    parser.add_argument("--most", type=int, default=MOST, help="the largest mean budget, in tokens that are used")
    parser.add_argument("--least", type=int, default=LEAST, help="the least mean budget")
    parser.add_argument("--objective", help="such as 'total p95 10s'")
    parser.add_argument("--seconds", type=float, nargs=3, default=[40.0, 60.0, 60.0], help="of the three phases")
    parser.add_argument("--capacity-seconds", type=float, default=30.0)
    parser.add_argument("--policies", nargs="*", help="some of them only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    found, drawn = asyncio.run(measure(given))
    keep(given, found, lambda path: plots.draw_over_time(path, drawn))


if __name__ == "__main__":
    main()
