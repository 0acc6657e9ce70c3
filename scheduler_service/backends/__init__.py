"""LLM servers behind one small protocol. A new kind is one module and one line in ``make_backend``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler_service.backends.base import Backend
from scheduler_service.backends.embedded import EmbeddedBackend
from scheduler_service.backends.http import HttpServer
from scheduler_service.backends.llama_cpp import LlamaCppBackend
from scheduler_service.backends.tgi import TgiBackend

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings


def make_backend(settings: SchedulerSettings) -> Backend:
    """Return the backend that the settings name, not yet started."""
    if settings.backend == "embedded":
        return EmbeddedBackend(slots=settings.backend_slots or 8)
    server = HttpServer(settings.backend_url, token=settings.backend_token.get_secret_value())
    kinds = {"tgi": TgiBackend, "llama_cpp": LlamaCppBackend}
    return kinds[settings.backend](server, ready_seconds=settings.backend_ready_seconds)
