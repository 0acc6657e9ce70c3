"""What it costs vLLM to keep and send hidden states: tokens a second, first token, CPU time; beside a plain vLLM.

Run ``python -m benchmarks.engine_states`` after ``make test-engines`` has set up its environment. Three servers run
side by side and are asked in turn, so that whatever else the machine does meets all of them: plain; keeping states with
the draft token that vLLM's method proposes; keeping states without drafts.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import aiohttp
import typer

from predictive_scheduling_cli.demo.engines import LAYER, MODEL, connector, no_drafts, running_vllm, with_drafts
from scheduler_service.generation.engine_reports import EngineReports

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """A server's rounds: tokens a second, milliseconds to the first token (median of a round), CPU ms a token."""

    tokens_a_second: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    cpu_ms_a_token: list[float] = field(default_factory=list)

    def summary(self, baseline: Measured) -> dict[str, float]:
        """Medians over rounds, and the median of the ratios of rounds to those of ``baseline``."""
        pairs = zip(self.tokens_a_second, baseline.tokens_a_second, strict=True)
        costs = zip(self.cpu_ms_a_token, baseline.cpu_ms_a_token, strict=True)
        return {
            "tokens_a_second": round(median(self.tokens_a_second), 1),
            "first_token_ms_p50": round(median(self.first_token_ms), 1),
            "cpu_ms_a_token": round(median(self.cpu_ms_a_token), 2),
            "tokens_to_plain": round(median(own / plain for own, plain in pairs), 3),
            "cpu_to_plain": round(median(own / plain for own, plain in costs), 3),
        }


def cpu_seconds(port: int) -> float:
    """CPU time of the processes of the server that listens on ``port``, its workers among them."""
    total, groups = 0, set()
    stats = {}
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_text().split("\0")
            stats[process.name] = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if "--port" in command and command[command.index("--port") + 1] == str(port):
            groups.add(stats[process.name][2])
    for found in stats.values():
        if found[2] in groups:
            total += int(found[11]) + int(found[12])
    return total / _TICKS


async def load(
    session: aiohttp.ClientSession, url: str, concurrency: int, tokens: int, temperature: float, to: str
) -> tuple[float, float]:
    """Ask ``concurrency`` questions at once; returns tokens a second, and the median time to the first token in ms."""
    firsts = []

    async def ask(at: int) -> None:
        body: dict[str, Any] = {
            "model": MODEL, "prompt": f"Question: What is {at} + 14 + 5 + 6?\n", "max_tokens": tokens,
            "ignore_eos": True, "temperature": temperature, "seed": at, "stream": True,
        }  # fmt: skip
        if to:
            asked = {"to": to, "id": uuid.uuid4().hex, "layers": [LAYER]}
            body["kv_transfer_params"] = {"prompt_state": asked}
        began, first = time.perf_counter(), 0.0
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            async for line in reply.content:
                if not first and line.startswith(b"data"):
                    first = time.perf_counter() - began
        firsts.append(first)

    began = time.perf_counter()
    await asyncio.gather(*(ask(at) for at in range(concurrency)))
    return concurrency * tokens / (time.perf_counter() - began), 1000 * median(firsts)


async def measure(
    environment: Path, rounds: int, concurrency: int, tokens: int, temperatures: Sequence[float]
) -> dict[str, Any]:
    """Measure all servers at each temperature; returns the figures."""
    with tempfile.TemporaryDirectory(prefix="ps-") as folder:
        address = f"unix:{folder}/states.sock"
        sending = connector(address)
        servers: Mapping[str, list[str]] = {
            "plain": [],
            "states, one draft": [*with_drafts(LAYER), *sending],
            "states, no drafts": [*no_drafts(LAYER), *sending],
        }
        async with AsyncExitStack() as closing:
            urls = {
                name: await closing.enter_async_context(running_vllm(environment, Path(folder) / "log", options))
                for name, options in servers.items()
            }
            session = await closing.enter_async_context(aiohttp.ClientSession())
            reports = EngineReports(address)
            await reports.start()
            closing.push_async_callback(reports.close)
            found: dict[str, Any] = {}
            for temperature in temperatures:
                measured = {name: Measured() for name in servers}
                for at in range(-1, rounds):
                    for name, url in urls.items():
                        port = int(url.rsplit(":", 1)[1])
                        before = cpu_seconds(port)
                        to = address if servers[name] else ""
                        rate, first = await load(session, url, concurrency, tokens, temperature, to)
                        if at < 0:  # to warm up
                            continue
                        measured[name].tokens_a_second.append(rate)
                        measured[name].first_token_ms.append(first)
                        measured[name].cpu_ms_a_token.append(1000 * (cpu_seconds(port) - before) / concurrency / tokens)
                plain = measured["plain"]
                found[f"temperature {temperature:g}"] = {n: one.summary(plain) for n, one in measured.items()}
            return {"concurrency": concurrency, "tokens": tokens, "rounds": rounds, "layers": [LAYER], **found}


def main(
    environment: Annotated[Path, typer.Option(help="The environment of the engines.")] = Path(".venv-vllm"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each over all servers.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens a request.")] = 96,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
) -> None:
    """Measure what keeping and sending hidden states costs a real vLLM."""
    found = asyncio.run(measure(environment, rounds, concurrency, tokens, (0.0, 0.6)))
    text = json.dumps(found, indent=1)
    typer.echo(text)
    if json_path is not None:
        json_path.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
