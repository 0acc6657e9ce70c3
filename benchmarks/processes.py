"""Services as processes, and the backend that they are measured on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Service:
    """A running service."""

    address: str
    process: asyncio.subprocess.Process

    def cpu_seconds(self) -> float:
        """CPU time that it has used, with all its threads and its child processes."""
        return sum(int(fields[11]) + int(fields[12]) for fields in _family(self.process.pid)) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory."""
        return resident_mb(self.process.pid)


def resident_mb(process: int | str = "self") -> float:
    """Resident memory of a process, this one unless another is named."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def _family(process: int) -> list[list[str]]:
    """The fields of /proc/…/stat from the state on, of a process and all that it has started."""
    fields = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    found = {process}
    while more := {one for one, values in fields.items() if int(values[1]) in found} - found:
        found |= more
    return [fields[one] for one in found if one in fields]


@asynccontextmanager
async def service(*arguments: str) -> AsyncIterator[Service]:
    """Run a service of ours until the block ends."""
    async with process("-m", "predictive_scheduling_cli", *arguments, "--listen=127.0.0.1:0") as running:
        yield running


@asynccontextmanager
async def process(*arguments: str, python: str = sys.executable) -> AsyncIterator[Service]:
    """Run a Python program that logs on which port it listens, until the block ends; ``python``: which interpreter."""
    started = await asyncio.create_subprocess_exec(
        python, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    if started.stderr is None:
        raise RuntimeError("no log")
    port = ""
    async for line in started.stderr:
        if b"listening on port" in line:
            port = line.split()[-1].decode()
            break
    async with asyncio.TaskGroup() as group:
        group.create_task(started.stderr.read())
        try:
            yield Service(f"127.0.0.1:{port}", started)
        finally:
            with suppress(TimeoutError, ProcessLookupError):
                started.terminate()
                await asyncio.wait_for(started.wait(), 10)
            with suppress(ProcessLookupError):  # what it has started and left
                os.killpg(started.pid, signal.SIGKILL)


@asynccontextmanager
async def backend(prefill_seconds: float = 0.0) -> AsyncIterator[str]:
    """A server that writes tokens eight at a time, without end token: by TGI's routes, and by OpenAI's for chat."""
    token = b'data: {"token":{"id":1,"text":" word","special":false},"generated_text":null,"details":null}\n\n'
    last = token.replace(
        b'"generated_text":null,"details":null', b'"generated_text":"","details":{"finish_reason":"length"}'
    )

    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def chat_event(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n"

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"model_id": "m", "max_total_tokens": 131072, "max_concurrent_requests": 512})

    async def stream(request: web.Request) -> web.StreamResponse:
        count = (await request.json())["parameters"]["max_new_tokens"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await asyncio.sleep(prefill_seconds)
        await response.prepare(request)
        for at in range(0, count - 1, 8):
            await response.write(token * min(8, count - 1 - at))
        await response.write(last)
        return response

    async def chat(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        count = asked["max_tokens"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await asyncio.sleep(prefill_seconds)
        await response.prepare(request)
        pieces = [chat_event({"content": f" word{at}"}) for at in range(8)]  # LiteLLM ends what repeats itself
        for at in range(0, count, 8):
            await response.write(b"".join(pieces[: count - at]))
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}
        told = b"data: " + json.dumps(chunk | {"choices": [], "usage": usage}).encode() + b"\n\n"
        wanted = (asked.get("stream_options") or {}).get("include_usage")
        await response.write(chat_event({}, "length") + told * bool(wanted) + b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/health", info)
    app.router.add_get("/info", info)
    app.router.add_post("/generate_stream", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
