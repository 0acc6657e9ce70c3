"""Services as processes, and the backend that they are measured on."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
        """CPU time that it has used, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


@asynccontextmanager
async def service(*arguments: str) -> AsyncIterator[Service]:
    """Run a service of ours until the block ends."""
    async with process("-m", "predictive_scheduling_cli", *arguments, "--listen=127.0.0.1:0") as running:
        yield running


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Service]:
    """Run a Python program that logs on which port it listens, until the block ends."""
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.PIPE)
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
            started.terminate()
            await started.wait()


@asynccontextmanager
async def backend() -> AsyncIterator[str]:
    """A TGI that writes tokens eight at a time, without end token."""
    token = b'data: {"token":{"id":1,"text":" word","special":false},"generated_text":null,"details":null}\n\n'
    last = token.replace(
        b'"generated_text":null,"details":null', b'"generated_text":"","details":{"finish_reason":"length"}'
    )

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"model_id": "m", "max_total_tokens": 8192, "max_concurrent_requests": 512})

    async def stream(request: web.Request) -> web.StreamResponse:
        count = (await request.json())["parameters"]["max_new_tokens"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at in range(0, count - 1, 8):
            await response.write(token * min(8, count - 1 - at))
        await response.write(last)
        return response

    app = web.Application()
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
