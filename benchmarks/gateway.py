"""What budgets cost where Envoy carries the tokens: against Envoy alone, the least processor, and our own proxy.

    python -m benchmarks.gateway --json out/bench/gateway.json

Contenders, 16 callers at once, by OpenAI's chat route, streamed: the engine read directly; Envoy alone; Envoy with a
minimal external processor that decides nothing; the gateway (Envoy, our processor with a real decision: predictor,
price, ledger, and usage read by the Lua filter and told by the access log); the same with responses that come back to
the processor instead; the scheduler by gRPC and by its HTTP front, through which every token passes. Every contender's
processes are its own; the engine writes eight tokens at a time, and no prediction is remembered.

CPU time is that of all processes of a contender but the predictor, which decides for three of them alike; it is given
for each token and each request. First tokens are measured at a pace that leaves the machine idle for most of the time.
The contenders take turns, round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.callers import keep
from benchmarks.plots import Panel, draw
from benchmarks.processes import Service, process, service
from benchmarks.streaming import Stream, chat_stream, first_token, grpc_stream, throughput
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.demo.services import free_port
from tools.local_envoy import EXT_PROC, filter_of, local_envoy, manager_of, without_lua

_CALLERS = 16
_MINIMAL = str(Path(__file__).parent / "contenders" / "minimal_processor.py")


@dataclass(frozen=True)
class Contender:
    """A way to the engine. ``running``: its processes."""

    stream: Stream
    running: Sequence[Service] = ()

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        return sum(one.cpu_seconds() for one in self.running)


def _bare(config: dict[str, Any]) -> None:
    manager = manager_of(config)
    manager["access_log"], manager["http_filters"] = [], manager["http_filters"][-1:]


def _only_processor(config: dict[str, Any]) -> None:
    manager = manager_of(config)
    filters = manager["http_filters"]
    manager["access_log"], manager["http_filters"] = [], [filters[0], filters[-1]]
    filter_of(config, EXT_PROC)["processing_mode"]["request_body_mode"] = "BUFFERED"


@asynccontextmanager
async def contenders(tokens: int) -> AsyncIterator[dict[str, Contender]]:
    """Start all of them, for requests of so many tokens."""
    # Requests through our proxy reason for all but one token, which is the answer.
    all_reasoning = {"min_reasoning_tokens": tokens - 1, "max_reasoning_tokens": tokens - 1}
    common = (
        "--floor-tokens=0", f"--tokens-per-query={tokens}", f"--cap-tokens={tokens}", "--answer-tokens=1",
        "--predictor-cache=0", "--metrics-listen=127.0.0.1:0", "--max-in-flight=4096",
    )  # fmt: skip
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, own: bool = True) -> Service:
            started = service(*arguments) if own else process(*arguments)
            return await stack.enter_async_context(started)

        async def envoy(processor: str, change: Callable[[dict[str, Any]], None]) -> tuple[str, Service]:
            found = await stack.enter_async_context(local_envoy(url, processor, change))
            return found.url, Service(found.url, found.process)

        engine = await start("-m", "benchmarks.streaming", "--serve=backend", own=False)
        url = f"http://{engine.address}"
        predictor = f"--predictor={(await start('predictor')).address}"
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

        def chat(where: str, **fields: int) -> Stream:
            return chat_stream(session, where, tokens, **fields)

        found = {"direct": Contender(chat(url))}
        alone, alone_runs = await envoy("127.0.0.1:1", _bare)
        found["envoy"] = Contender(chat(alone), [alone_runs])
        minimal = await start(_MINIMAL, own=False)
        with_minimal, minimal_runs = await envoy(minimal.address, _only_processor)
        found["minimal processor"] = Contender(chat(with_minimal), [minimal_runs, minimal])
        gateways: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
            "gateway": ("always", lambda _: None),
            "gateway, responses through it": ("auto", without_lua),
        }
        for name, (usage, change) in gateways.items():
            processor = f"127.0.0.1:{free_port()}"
            decides = await start(
                "scheduler", "--backend=none", *common, predictor, f"--ext-proc-listen={processor}",
                f"--ext-proc-usage={usage}", "--ext-proc-budget-field=thinking_token_budget",
            )  # fmt: skip
            there, runs = await envoy(processor, change)
            found[name] = Contender(chat(there), [runs, decides])
        front = f"127.0.0.1:{free_port()}"
        scheduler = await start(
            "scheduler", "--backend=tgi", f"--backend-url={url}", *common, predictor, f"--http-listen={front}",
            "--backend-slots=1024",
        )  # fmt: skip
        client = await stack.enter_async_context(AsyncSchedulerClient(scheduler.address))
        found["scheduler"] = Contender(grpc_stream(client, **all_reasoning), [scheduler])
        found["http front"] = Contender(chat(f"http://{front}", **all_reasoning), [scheduler])
        yield found


async def measure(tokens: int, rounds: int, rate: float) -> dict[str, dict[str, float]]:
    """Measure all contenders; ``rate``: requests a second while first tokens are measured."""
    requests = max(2, 6400 // tokens // _CALLERS)
    async with contenders(tokens) as running:
        latencies: dict[str, list[float]] = {name: [] for name in running}
        costs: dict[str, list[float]] = {name: [] for name in running}
        for at_round in range(rounds + 1):  # the first warms up
            for name, contender in running.items():
                seen = await first_token(contender.stream, _CALLERS, 4, _CALLERS / rate)
                before = contender.cpu_seconds()
                await throughput(contender.stream, _CALLERS, requests)
                if at_round:
                    latencies[name] += seen
                    costs[name].append((contender.cpu_seconds() - before) / (_CALLERS * requests))
    found = {}
    for name, seen in latencies.items():
        quantiles, cost = statistics.quantiles(seen, n=100), statistics.median(costs[name])
        found[name] = {
            "first_token_ms_p50": 1e3 * quantiles[49],
            "first_token_ms_p99": 1e3 * quantiles[98],
            "cpu_us_a_token": 1e6 * cost / tokens,
            "cpu_ms_a_request": 1e3 * cost,
        }
    return found


def panels(found: dict[str, Any]) -> list[Panel]:
    """What is drawn."""
    names = [name for name in next(iter(found.values())) if name != "direct"]

    def bars(key: str, among: Sequence[str]) -> dict[str, dict[str, float]]:
        return {one: {tokens: figures[one][key] for tokens, figures in found.items()} for one in among}

    return [
        Panel("CPU time a token", "µs", bars("cpu_us_a_token", names), logarithmic=True),
        Panel("First token, median", "ms", bars("first_token_ms_p50", ["direct", *names])),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    found = {str(tokens): asyncio.run(measure(tokens, given.rounds, given.rate)) for tokens in given.tokens}
    for tokens, figures in found.items():
        for name, one in figures.items():
            cost = f"{one['cpu_us_a_token']:6.1f} µs a token, {one['cpu_ms_a_request']:6.2f} ms a request"
            times = f"first token p50 {one['first_token_ms_p50']:6.2f} ms, p99 {one['first_token_ms_p99']:6.2f} ms"
            print(f"{tokens:>5} tokens  {name:30} {times}  {cost}")  # noqa: T201
    keep(given, found, lambda path: draw(path, panels(found), "tokens a request"))


if __name__ == "__main__":
    main()
