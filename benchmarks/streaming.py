"""What the scheduler adds to streams: against reading the backend directly, and other proxies, in one run.

    python -m benchmarks.streaming --json out/bench/streaming.json --litellm-python …/bin/python

Contenders: the backend read directly, a bare grpc.aio proxy, the scheduler by gRPC and by its HTTP front, and, where
an interpreter is given that has it, LiteLLM's proxy, which is what one would put there today; it speaks HTTP to both
sides.

Every contender is a process of its own, the backend too; callers are in this one. The scheduler predicts every request
anew (none is remembered), by a predictor in a process of its own, and decides by the price; the CPU time is the
scheduler's. The contenders take turns, round by round. Two things are measured at each concurrency:

* time to the first token at a pace that leaves the machine idle for most of the time (each caller waits between its
  requests), so that it is the contender's own latency and not a queue before a full core;
* CPU time per streamed token of the contender's process, with callers that never wait: its inverse is the tokens that
  a core carries.

The backend answers at once, which no LLM does: what is decided meanwhile then delays the first token. With
``--prefill-ms`` it thinks so long before it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio

from benchmarks.callers import at_once, keep
from benchmarks.plots import Panel, draw
from benchmarks.processes import Service, backend, process, service
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from predictive_scheduling_cli.demo.services import free_port
from scheduler_service.generation.backends.sse import SseParser

_TOKENS = 128
# All of them are reasoning: the answer of the scheduler's last call is one token.
_ALL = {"min_reasoning_tokens": _TOKENS - 1, "max_reasoning_tokens": _TOKENS - 1}
Stream = Callable[[str], AsyncIterator[float]]


async def read_backend(session: aiohttp.ClientSession, url: str, prompt: str, tokens: int) -> AsyncIterator[str]:
    """The backend's tokens, read as a client would."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": tokens, "details": True}}
    parser = SseParser()
    async with session.post(f"{url}/generate_stream", json=body) as response:
        async for chunk in response.content.iter_any():
            for data in parser.feed(chunk):
                yield json.loads(data)["token"]["text"]


def chat_stream(session: aiohttp.ClientSession, url: str, count: int, **fields: int) -> Stream:
    """Read ``count`` tokens of a proxy that speaks OpenAI's protocol for chat, asked with ``fields`` besides."""

    async def stream(prompt: str) -> AsyncIterator[float]:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": "m", "messages": messages, "max_tokens": count, "stream": True, **fields}
        parser, unseen = SseParser(), count
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_any():
                for data in parser.feed(chunk):
                    if data == b"[DONE]":
                        yield unseen
                        return
                    delta = json.loads(data)["choices"][0]["delta"]
                    if unseen == count and (delta.get("content") or delta.get("reasoning_content")):
                        unseen -= 1
                        yield 1

    return stream


class BareProxy(scheduler_pb2_grpc.SchedulerServiceServicer):
    """As little as a gRPC service before a TGI can do: one message a token, nothing counted, nothing decided."""

    def __init__(self, url: str) -> None:
        """Re-stream ``url``."""
        self._url = url
        self._session = aiohttp.ClientSession()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the backend's tokens."""
        tokens = request.job.max_reasoning_tokens
        async for text in read_backend(self._session, self._url, request.job.prompt, tokens):
            yield pb.GenerateResponse(text=pb.TextChunk(kind=pb.TEXT_KIND_REASONING, text=text, tokens=1))


async def serve_proxy(url: str) -> None:
    """Run the bare proxy until the process is ended."""
    server = grpc.aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(BareProxy(url), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"listening on port {port}\n")
    await server.wait_for_termination()


async def serve_backend(prefill_seconds: float) -> None:
    """Run the backend until the process is ended."""
    async with backend(prefill_seconds) as url:
        sys.stderr.write(f"listening on port {url.rpartition(':')[2]}\n")
        await asyncio.Event().wait()


def direct(session: aiohttp.ClientSession, url: str) -> Stream:
    """Read the backend without anything between."""

    async def stream(prompt: str) -> AsyncIterator[float]:
        async for _ in read_backend(session, url, prompt, _TOKENS):
            yield 1

    return stream


def grpc_stream(client: AsyncSchedulerClient, **fields: int) -> Stream:
    """Read a scheduler, or what looks like one, asked with ``fields``."""

    async def stream(prompt: str) -> AsyncIterator[float]:
        async for event in client.generate(prompt, **fields):
            if event.HasField("text") and event.text.tokens:
                yield event.text.tokens

    return stream


async def first_token(stream: Stream, callers: int, requests: int, pause: float) -> list[float]:
    """Seconds to the first token of each request; each caller pauses between two."""
    found: list[float] = []

    async def caller(number: int) -> None:
        await asyncio.sleep(pause * number / callers)
        for at in range(requests):
            started = time.perf_counter()
            first = True
            async for _ in stream(f"{number} {at}"):
                if first:
                    found.append(time.perf_counter() - started)
                    first = False
            await asyncio.sleep(max(0.0, pause - (time.perf_counter() - started)))

    await at_once(callers, callers, caller)
    return found


async def throughput(stream: Stream, callers: int, requests: int) -> float:
    """Tokens that were read with all callers busy."""
    total = 0.0

    async def caller(number: int) -> None:
        nonlocal total
        for at in range(requests):
            async for tokens in stream(f"{number} {at}"):
                total += tokens

    await at_once(callers, callers, caller)
    return total


async def measure(
    concurrency: list[int], rounds: int, rate: float, prefill_ms: float, litellm: str | None
) -> dict[str, Any]:
    """Measure all contenders at every concurrency; ``rate``: requests a second while latencies are measured.

    ``prefill_ms``: how long the backend takes to its first token.
    """
    module = ("-m", "benchmarks.streaming")
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(process(*module, "--serve=backend", f"--prefill-ms={prefill_ms:g}"))
        url = f"http://{source.address}"
        proxy = await stack.enter_async_context(process(*module, "--serve=proxy", f"--backend={url}"))
        front = f"127.0.0.1:{free_port()}"
        predictor = await stack.enter_async_context(service("predictor"))
        scheduler = await stack.enter_async_context(
            service(
                "scheduler", f"--predictor={predictor.address}", "--predictor-cache=0", "--backend=tgi",
                f"--backend-url={url}", "--floor-tokens=0", "--answer-tokens=1", "--tokens-per-query=128",
                "--cap-tokens=128", "--metrics-listen=127.0.0.1:0", "--max-in-flight=4096", "--backend-slots=1024",
                f"--http-listen={front}",
            )
        )  # fmt: skip
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        clients = [await stack.enter_async_context(AsyncSchedulerClient(one.address)) for one in (proxy, scheduler)]
        contenders: dict[str, tuple[Stream, Service | None]] = {
            "direct": (direct(session, url), None),
            "bare proxy": (grpc_stream(clients[0], **_ALL), proxy),
            "scheduler": (grpc_stream(clients[1], **_ALL), scheduler),
            "http front": (chat_stream(session, f"http://{front}", _TOKENS, **_ALL), scheduler),
        }
        if litellm:
            program = str(Path(__file__).parent / "contenders" / "litellm_proxy.py")
            rival = await stack.enter_async_context(process(program, url, python=litellm))
            contenders["litellm"] = (chat_stream(session, f"http://{rival.address}", _TOKENS), rival)
        return {str(callers): await _at(contenders, callers, rounds, rate) for callers in concurrency}


async def _at(
    contenders: dict[str, tuple[Stream, Service | None]], callers: int, rounds: int, rate: float
) -> dict[str, Any]:
    latencies: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    requests = max(2, 64 // callers)
    for at_round in range(rounds + 1):  # the first warms up
        for name, (stream, running) in contenders.items():
            seen = await first_token(stream, callers, requests, callers / rate)
            before = running.cpu_seconds() if running else 0.0
            tokens = await throughput(stream, callers, requests)
            if at_round:
                latencies[name] += seen
                if running:
                    costs[name].append((running.cpu_seconds() - before) / tokens)
    found: dict[str, Any] = {}
    for name, seen in latencies.items():
        quantiles = statistics.quantiles(seen, n=100)
        found[name] = {"first_token_ms_p50": 1e3 * quantiles[49], "first_token_ms_p99": 1e3 * quantiles[98]}
        if costs[name]:
            found[name]["cpu_us_a_token"] = 1e6 * statistics.median(costs[name])
    return found


def panels(found: dict[str, Any]) -> list[Panel]:
    """What is drawn: CPU time a token, and the first token."""
    contenders = list(next(iter(found.values())))

    def bars(key: str) -> dict[str, dict[str, float]]:
        known = [one for one in contenders if all(key in figures[one] for figures in found.values())]
        return {one: {callers: figures[one][key] for callers, figures in found.items()} for one in known}

    return [
        Panel("CPU time a streamed token", "µs", bars("cpu_us_a_token"), logarithmic=True),
        Panel("First token, median", "ms", bars("first_token_ms_p50"), logarithmic=True),
    ]


def main() -> None:
    """Serve one of the contenders, or measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve", choices=["backend", "proxy"])
    parser.add_argument("--backend", default="")
    parser.add_argument("--prefill-ms", type=float, default=0.0)
    parser.add_argument("--litellm-python")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve_backend(given.prefill_ms / 1e3) if given.serve == "backend" else serve_proxy(given.backend))
        return
    found = asyncio.run(measure(given.concurrency, given.rounds, given.rate, given.prefill_ms, given.litellm_python))
    for callers, figures in found.items():
        for name, one in figures.items():
            cost = f"{one['cpu_us_a_token']:6.1f} µs a token" if "cpu_us_a_token" in one else ""
            times = f"first token p50 {one['first_token_ms_p50']:7.2f} ms, p99 {one['first_token_ms_p99']:7.2f} ms"
            print(f"{callers:>4} at once  {name:11} {times}  {cost}")  # noqa: T201
    keep(given, found, lambda path: draw(path, panels(found)))


if __name__ == "__main__":
    main()
