"""The LLM server that the demo asks: the one inside the scheduler's process, or a real vLLM that it starts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from predictive_scheduling_cli.demo.services import free_address

_READY_SECONDS = 300.0
_END_SECONDS = 10.0
MODEL = "demo"
# The layer whose states the demo's predictor takes: in the middle of 30, as in the paper.
LAYER = 16


class EngineFailedError(RuntimeError):
    """An engine is not there, ended before it was ready (the message has the end of its log), or answers nothing."""


@dataclass(frozen=True)
class Engine:
    """A server to ask. ``name``: with its version. ``scheduler``: settings of a scheduler that asks it.

    ``states``: settings of one that is sent hidden states; empty where the engine sends none.
    """

    name: str
    scheduler: Mapping[str, Any]
    states: Mapping[str, Any] = field(default_factory=dict)


EMBEDDED = Engine("llama.cpp (embedded)", {"backend": "embedded"})


@asynccontextmanager
async def vllm_engine(environment: Path, sockets: Path, log: Path) -> AsyncIterator[Engine]:
    """Run the demo's model on the vLLM of a virtual environment until the block ends.

    ``environment``: what ``make`` sets up: vLLM, our connector, and the model's folder ``model``. ``sockets``: a folder
    in which the scheduler may listen for hidden states. Raises EngineFailedError.
    """
    options = [*no_drafts(LAYER), *connector(f"unix:{sockets}/*.sock")]
    async with running_vllm(environment, log, options) as url:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/version") as reply:
            version = (await reply.json())["version"]
        asked = {"backend": "vllm", "backend_url": url, "backend_slots": 8}
        yield Engine(f"vllm {version}", asked, {"reports_listen": f"unix:{sockets}/states.sock"})


def no_drafts(layer: int) -> list[str]:
    """Options that make vLLM keep the states of ``layer``, without guessing tokens (see ``engines/vllm``)."""
    return _keeping(layer, {"num_speculative_tokens_per_batch_size": [[1, 4096, 0]]})


def with_drafts(layer: int) -> list[str]:
    """Options that make vLLM keep the states of ``layer``, and guess a token in each step."""
    return _keeping(layer, {})


def _keeping(layer: int, more: Mapping[str, object]) -> list[str]:
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": [layer]}},
        **more,
    }
    return ["--speculative-config", json.dumps(speculative)]


def connector(*destinations: str) -> list[str]:
    """Options that make vLLM send states to ``destinations`` by our connector."""
    transfer = {
        "kv_connector": "PromptStateConnector",
        "kv_connector_module_path": "predictive_scheduling_vllm.connector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"destinations": list(destinations)},
    }
    return ["--kv-transfer-config", json.dumps(transfer)]


@asynccontextmanager
async def running_vllm(
    environment: Path, log: Path, options: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    """Run vLLM's server with the demo's model until the block ends; yields its address once it is ready.

    ``variables``: of its environment, beside the usual ones. Raises EngineFailedError where it does not become ready.
    """
    python = environment / "bin" / "python"
    if not python.exists() or not (environment / "model").exists():
        raise EngineFailedError(f"no vLLM with the demo's model in {environment}: 'make demo ENGINE=vllm' sets it up")
    port = free_address().rpartition(":")[2]
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            str(python), "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(environment / "model"), "--served-model-name", MODEL, "--host", "127.0.0.1",
            "--port", port, "--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "32",
            "--enforce-eager", *options,
            stdout=file, stderr=file, env={**_environment(), **(variables or {})}, start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            await _wait_until_ready(process, url, log)
            yield url
        finally:
            await end_group(process)


def _environment() -> dict[str, str]:
    """The environment of a vLLM on CPUs. On two cores it would take both, and its threads wait for each other."""
    own = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if len(os.sched_getaffinity(0)) <= 2:
        own["VLLM_CPU_OMP_THREADS_BIND"] = str(min(os.sched_getaffinity(0)))
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    return {**own, **without}


async def end_group(process: asyncio.subprocess.Process) -> None:
    """End a server with its worker processes, which outlive it otherwise."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(_READY_SECONDS):
            while process.returncode is None:
                with suppress(aiohttp.ClientError, OSError):
                    async with session.get(f"{url}/health") as reply:
                        if reply.status == 200:
                            return
                await asyncio.sleep(0.2)
            said = "ended before it was ready"
    except TimeoutError:
        said = f"was not ready in {_READY_SECONDS:g} s"
    lines = (await asyncio.to_thread(log.read_text, errors="replace")).splitlines()[-20:]
    raise EngineFailedError(f"vLLM {said} (log: {log}):\n" + "\n".join(lines))
