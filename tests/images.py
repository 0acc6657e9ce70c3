"""Start the built images and send one generation through them; prints their sizes and start times.

    BUILDAH='--isolation chroot --storage-driver vfs' python -m tests.images
    BUILDAH='--isolation chroot --storage-driver overlay' python -m tests.images predictor-gpu

The second, on a machine without a GPU: the image must refuse to start on ``cuda``, and serve where it may fall back.

Run after ``images/build.sh``. The backend is TGI's stand-in in this process. Exit code 1 where something is amiss. It
needs buildah and the right to run containers, so CI leaves it out.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.version import VERSION
from predictive_scheduling_cli.demo.services import free_port
from tests.integration.test_scheduler import thinker
from tests.standins.tgi import TgiStandIn

_FOUND = (
    "import importlib.util as u, shutil as s, sys; sys.exit(any(find(sys.argv[1]) for find in (u.find_spec, s.which)))"
)
REGISTRY = os.environ.get("REGISTRY", "registry.example.com/predictive-scheduling")
OPTIONS = shlex.split(os.environ.get("BUILDAH", ""))
_STORAGE = ("--storage-driver", "--root", "--runroot")  # buildah's own options; the others belong to its commands


def options(*names):
    """Those of buildah's options that were given, with their values."""
    return [word for name in names if name in OPTIONS for word in (name, OPTIONS[OPTIONS.index(name) + 1])]


def buildah(*arguments):
    """Run buildah; returns what it prints."""
    command = ["buildah", *options(*_STORAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@asynccontextmanager
async def running(image, **settings):
    """Run an image's entry point as its user; yields its address and how long it took to be ready."""
    name = f"{REGISTRY}/{image}:{VERSION}"
    config = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
    container = buildah("from", name)
    port = free_port()
    prefix = "SCHEDULER" if image == "scheduler" else "PREDICTOR"
    given = {"LISTEN": f"127.0.0.1:{port}", **{key.upper(): str(value) for key, value in settings.items()}}
    environment = [f"--env={prefix}_{key}={value}" for key, value in given.items()]
    command = ["buildah", *options(*_STORAGE), "run", *options("--isolation"), *environment, container, "--"]
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, *config["Entrypoint"])
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(120):
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                assert process.returncode is None, f"{image} ended"
                try:
                    reply = await health.Check(health_pb2.HealthCheckRequest())
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
        ready = time.monotonic() - started
        probe = [part.replace("127.0.0.1:50051", f"127.0.0.1:{port}") for part in config["Healthcheck"]["Test"][1:]]
        probe = [part.replace("127.0.0.1:50052", f"127.0.0.1:{port}") for part in probe]
        healthy = await asyncio.create_subprocess_exec(*command, *probe)
        assert await healthy.wait() == 0, "the health check does not answer"
        for tool in ("pip", "gcc"):
            found = await asyncio.create_subprocess_exec(
                *command, "/app/bin/python", "-c", _FOUND, tool,
            )  # fmt: skip
            assert await found.wait() == 0, f"{tool} is in the image"
        yield f"127.0.0.1:{port}", ready
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        buildah("rm", container)


def refusal(image, provider):
    """How an image ends that is started on a provider which is not here: its exit code and its last words."""
    name = f"{REGISTRY}/{image}:{VERSION}"
    container = buildah("from", name)
    entry = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]["Entrypoint"]
    command = ["buildah", *options(*_STORAGE), "run", *options("--isolation"), f"--env=PREDICTOR_PROVIDER={provider}"]
    done = subprocess.run([*command, container, "--", *entry], capture_output=True, text=True, timeout=60, check=False)
    buildah("rm", container)
    return done.returncode, next(line for line in done.stderr.splitlines() if line.startswith("provider: "))


async def without_a_gpu(image) -> int:
    """Start an image for a GPU where there is none; returns the exit code."""
    code, reason = refusal(image, "cuda")
    assert code == 1, code
    assert "no NVIDIA driver" in reason, reason
    print(reason)  # noqa: T201
    async with running(image, provider="cuda", provider_fallback="true") as (_, ready):
        print(f"with the fallback it is ready after {ready:.1f} s")  # noqa: T201
    return 0


async def main() -> int:
    """Start both, generate once; returns the exit code."""
    async with TgiStandIn(thinker) as tgi, running("predictor-cpu") as (predictions, predictor_ready):
        settings = {"backend": "tgi", "backend_url": tgi.url, "template": "demo", "predictor": predictions}
        settings |= {}
        async with running("scheduler", **settings) as (address, scheduler_ready):
            async with AsyncSchedulerClient(address, timeout=20) as client:
                done = await client.complete("What is 40 + 2?")
    assert done.answer.strip() == "42" or done.answer.strip() == "7", done
    assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH, done.allocation
    sizes = buildah("images", "--format", "{{.Name}} {{.Size}}")
    print(f"predictor ready after {predictor_ready:.1f} s, scheduler after {scheduler_ready:.1f} s")  # noqa: T201
    print("\n".join(line for line in sizes.splitlines() if REGISTRY in line))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(without_a_gpu(sys.argv[1]) if len(sys.argv) > 1 else main()))
