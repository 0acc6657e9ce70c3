"""LLM servers behind one small protocol. A new kind is one module and one line in ``_server``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scheduler_service.backends.base import Backend
from scheduler_service.backends.embedded import EmbeddedBackend
from scheduler_service.backends.gguf_files import ADAPTER
from scheduler_service.backends.http import HttpServer
from scheduler_service.backends.llama_cpp import LlamaCppBackend
from scheduler_service.backends.openai import DIALECTS, OpenAiBackend
from scheduler_service.backends.pool import BackendPool
from scheduler_service.backends.tgi import TgiBackend

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings


def make_backend(settings: SchedulerSettings) -> Backend:
    """Return the backend that the settings name, not yet started."""
    if settings.backend == "embedded":
        model, adapter = (Path(name) if name else None for name in (settings.embedded_model, settings.embedded_adapter))
        return EmbeddedBackend(
            model=model,
            adapter=adapter or (ADAPTER if model is None else None),
            adapter_scale=settings.embedded_adapter_scale,
            slots=settings.backend_slots or 8,
        )
    urls = [url.strip() for url in settings.backend_url.split(",") if url.strip()]
    backends = [_server(settings, url) for url in urls]
    return BackendPool(backends)


def _server(settings: SchedulerSettings, url: str) -> Backend:
    token, ready = settings.backend_token.get_secret_value(), settings.backend_ready_seconds
    # llama.cpp announces to keep a connection after a stream, and closes it.
    server = HttpServer(url, token=token, reuse_connections=settings.backend != "llama_cpp")
    match settings.backend:
        case "llama_cpp":
            return LlamaCppBackend(server, ready_seconds=ready)
        case "openai" | "vllm" | "sglang":
            return OpenAiBackend(
                server,
                DIALECTS[settings.backend],
                model=settings.backend_model,
                ready_seconds=ready,
                chat=settings.backend_chat,
                thinking_budget=settings.backend_thinking_budget,
            )
        case _:
            return TgiBackend(server, ready_seconds=ready)
