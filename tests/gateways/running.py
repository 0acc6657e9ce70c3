"""Runs LiteLLM's proxy as a process of its own environment."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai

from predictive_scheduling_cli.demo.services import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
NOTHING: Mapping[str, Any] = {}
QUIET = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_DOCS": "True",
}


@dataclass(frozen=True)
class Proxy:
    """A running proxy. ``engine``, ``scheduler``: the ports at which it expects these. ``log``: what it wrote."""

    port: int
    engine: int
    scheduler: int
    log: Path

    def client(self, key: str = "none") -> openai.AsyncOpenAI:
        """OpenAI's own client, which does not try again."""
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60)


def configuration(engine: int, general: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The proxy's: models ``m`` and ``cloud``, which follows where ``m`` fails."""

    def model(name: str, provider: str) -> dict[str, Any]:
        params = {"model": f"{provider}/{name}", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
        return {"model_name": name, "litellm_params": params}

    return {
        "model_list": [model("m", "hosted_vllm"), model("cloud", "openai")],
        "litellm_settings": {"callbacks": ["predictive_scheduling.litellm.callback"], "num_retries": 1, **settings},
        "router_settings": {"disable_cooldowns": True},
        "general_settings": {"custom_auth": "tests.gateways.team_auth.by_key", **general},
    }


@asynccontextmanager
async def running(
    environment: Path, folder: Path, told: Mapping[str, str], general: Mapping[str, Any] = NOTHING, **settings: Any
) -> AsyncIterator[Proxy]:
    """Run a proxy with ``general`` settings and other ``settings`` of LiteLLM.

    ``told``: our variables, without their prefix.
    """
    proxy = Proxy(free_port(), free_port(), free_port(), folder / "litellm.log")
    config = folder / "config.yaml"
    config.write_text(json.dumps(configuration(proxy.engine, general, settings)))  # JSON is YAML
    ours = {f"PREDICTIVE_SCHEDULING_{name}": value for name, value in told.items()}
    ours["PREDICTIVE_SCHEDULING_SCHEDULER"] = f"localhost:{proxy.scheduler}"
    command = [environment / "bin/litellm", "--config", config, "--host", "127.0.0.1", "--port", str(proxy.port)]
    with proxy.log.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), env={**os.environ, **QUIET, **ours, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession() as session:

            async def alive() -> bool:
                assert process.returncode is None, proxy.log.read_text()[-2000:]
                try:
                    async with session.get(f"http://127.0.0.1:{proxy.port}/health/liveliness") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(alive, 240.0)
        yield proxy
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
