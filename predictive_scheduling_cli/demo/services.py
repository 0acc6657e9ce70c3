"""Starts the demo's services as a user would: one process each, by the command line, on loopback."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_READY_SECONDS = 120.0
_FIRST, _PORTS = 10_000, 22_768  # outgoing connections, and who asks for port 0, get higher ones


class ServiceFailedError(RuntimeError):
    """A service of the demo ended before it was ready; the message has the end of its log."""


@asynccontextmanager
async def service(command: str, address: str, log: Path, *, otlp: str, **flags: object) -> AsyncIterator[str]:
    """Run ``predictive-scheduling COMMAND`` on ``address`` until the block ends; yields the address once it is ready.

    Its log goes to the file ``log``. Raises ServiceFailedError where it does not become ready.
    """
    options = [_flag(name.replace("_", "-"), value) for name, value in flags.items()]
    environ: Mapping[str, str] = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_BSP_SCHEDULE_DELAY": "500"}
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "predictive_scheduling_cli", command, f"--listen={address}", *options,
            stdout=file, stderr=file, env=dict(environ),
        )  # fmt: skip
        try:
            await _wait_until_ready(process, address, log)
            yield address
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, address: str, log: Path) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(_READY_SECONDS):
        health = health_pb2_grpc.HealthStub(channel)
        while process.returncode is None:
            try:
                reply = await health.Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError:
                reply = None
            if reply is not None and reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.1)
    lines = (await asyncio.to_thread(log.read_text, errors="replace")).splitlines()[-5:]
    raise ServiceFailedError(f"the service ended before it was ready (log: {log}):\n" + "\n".join(lines))


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that no outgoing connection takes before it is used."""
    while True:
        port = _FIRST + secrets.randbelow(_PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def free_address() -> str:
    """Such a port, as ``host:port``."""
    return f"127.0.0.1:{free_port()}"


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"
