"""LLM servers behind one small protocol. A new kind is one module and one line in ``make_backend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scheduler_service.backends.base import Backend
from scheduler_service.backends.embedded import EmbeddedBackend
from scheduler_service.backends.gguf_files import ADAPTER
from scheduler_service.backends.http import HttpServer
from scheduler_service.backends.llama_cpp import LlamaCppBackend
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
    token, ready = settings.backend_token.get_secret_value(), settings.backend_ready_seconds
    if settings.backend == "llama_cpp":
        return LlamaCppBackend(
            HttpServer(settings.backend_url, token=token, reuse_connections=False), ready_seconds=ready
        )
    return TgiBackend(HttpServer(settings.backend_url, token=token), ready_seconds=ready)
