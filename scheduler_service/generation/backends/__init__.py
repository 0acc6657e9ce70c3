"""LLM servers behind one small protocol. A new kind is one module and one line in ``SERVERS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scheduler_service.generation.backends import llama_cpp, openai, tgi
from scheduler_service.generation.backends.base import Backend
from scheduler_service.generation.backends.embedded import EmbeddedBackend
from scheduler_service.generation.backends.gguf_files import ADAPTER
from scheduler_service.generation.backends.pool import BackendPool

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings

# What makes a backend for one of the addresses of ``backend_url``.
SERVERS: dict[str, Callable[[str, SchedulerSettings], Backend]] = {
    "tgi": tgi.make,
    "llama_cpp": llama_cpp.make,
    "openai": openai.make,
    "vllm": openai.make,
    "sglang": openai.make,
}


def make_backend(settings: SchedulerSettings) -> Backend:
    """Return the backend that the settings name, not yet started."""
    if settings.backend == "embedded":
        model, adapter = (Path(name) if name else None for name in (settings.embedded_model, settings.embedded_adapter))
        return EmbeddedBackend(
            model=model,
            adapter=adapter or (ADAPTER if model is None else None),
            adapter_scale=settings.embedded_adapter_scale,
            slots=settings.backend_slots or 8,
            generated_tokens=settings.cap_tokens + settings.answer_tokens,
        )
    urls = [url.strip() for url in settings.backend_url.split(",") if url.strip()]
    return BackendPool([SERVERS[settings.backend](url, settings) for url in urls])
