"""What a cut costs: tokens that an engine generates beyond those that were read, since it hears last of it.

    python -m benchmarks.cutting --json out/bench/cutting.json

A generation may be asked for more than its budget, and be cut at the token that uses it up (the budget was decided
beside the running call). Questions are asked for 256 tokens, and their budget becomes 12 once they run. llama.cpp (in
this process, as the demo runs it) counts what it generates in its metrics, read after each question; a real vLLM, where
an environment of ``make test-engines`` is given, reports it for each call.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from opentelemetry import trace

from benchmarks.callers import at_once as callers
from benchmarks.callers import keep
from exporters.demo.tasks import split_tasks
from predictive_scheduling_cli.demo.engines import LAYER, connector, no_drafts, running_vllm
from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.base import BackendConfiguration
from scheduler_service.generation.backends.embedded import EmbeddedBackend
from scheduler_service.generation.backends.openai import make
from scheduler_service.generation.dispatcher import Counted, Dispatcher
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.forcing import BudgetForcing
from scheduler_service.generation.templates import TEMPLATES

_CAP, _BUDGET, _ANSWER = 256, 12, 12
_GREEDY = Sampling(temperature=0.0)


async def cut(dispatcher: Dispatcher, question: str, counted: Counted) -> int:
    """Run a generation whose budget is lowered while it runs; returns the tokens that were read."""
    forcing = BudgetForcing(TEMPLATES["demo"], question, _CAP, _ANSWER)
    async for _ in dispatcher.run(forcing, _GREEDY, counted):
        forcing.set_budget(_BUDGET)
    return forcing.reasoning_tokens + forcing.answer_used


async def of_llama_cpp(questions: Sequence[str]) -> list[int]:
    """Wasted tokens of each question, one after the other, by llama.cpp's own count."""
    backend = EmbeddedBackend(slots=2, metrics=True)
    await backend.start()
    dispatcher, wasted = Dispatcher(backend, "demo", 2, trace.NoOpTracer()), []
    try:
        async with aiohttp.ClientSession() as session:

            async def generated() -> int:
                await asyncio.sleep(0.3)  # until the slot of a call that was cut is free, and counted
                async with session.get(f"{backend.url}/metrics") as reply:
                    found = re.search(r"^llamacpp:tokens_predicted_total (\S+)", await reply.text(), re.MULTILINE)
                return int(float(found[1])) if found else 0

            before = await generated()
            for question in questions:
                read, after = await cut(dispatcher, question, Counted()), await generated()
                wasted.append(after - before - read)
                before = after
    finally:
        await backend.close()
    return wasted


async def of_vllm(questions: Sequence[str], environment: Path, at_once: int) -> list[int]:
    """Wasted tokens of each question, ``at_once`` of them at a time, as vLLM's connector reports them."""
    with tempfile.TemporaryDirectory(prefix="ps-") as folder:
        reports = EngineReports(f"unix:{folder}/reports.sock")
        await reports.start()
        options = [*no_drafts(LAYER), *connector(f"unix:{folder}/*.sock")]
        async with running_vllm(environment, Path(folder) / "log", options) as url:
            backend = make(url, BackendConfiguration("vllm", (url,)))
            await backend.start()
            await backend.limits()
            dispatcher = Dispatcher(backend, "demo", at_once, trace.NoOpTracer(), reports)
            wasted = [0] * len(questions)

            async def ask(at: int) -> None:
                def add(tokens: int) -> None:
                    wasted[at] += tokens

                await cut(dispatcher, questions[at], Counted(on_wasted=add))

            await callers(len(questions), at_once, ask)
            await asyncio.sleep(1.0)  # the last reports
            await backend.close()
        await reports.close()
    return wasted


def summary(wasted: Sequence[int]) -> dict[str, float]:
    """Median, mean and most of the tokens that nobody read."""
    return {
        "wasted_tokens_p50": statistics.median(wasted),
        "wasted_tokens_mean": round(statistics.fmean(wasted), 2),
        "wasted_tokens_most": max(wasted),
    }


async def measure(environment: Path | None, count: int) -> dict[str, Any]:
    """Measure llama.cpp, and vLLM where there is an environment."""
    questions = [task.question for task in split_tasks().test if task.family == "count"] * 8
    found: dict[str, Any] = {"llama.cpp": summary(await of_llama_cpp(questions[:count]))}
    if environment is not None:
        found["vllm, 16 at once"] = summary(await of_vllm(questions[:count], environment, 16))
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environment", type=Path, help="the environment of the engines, such as .venv-vllm")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(plot=None)
    given = parser.parse_args()
    found = asyncio.run(measure(given.environment, given.questions))
    for engine, figures in found.items():
        print(engine, figures)  # noqa: T201
    keep(given, found, lambda path: None)


if __name__ == "__main__":
    main()
