"""LLM servers behind one small protocol. A new kind is one module and one line in ``SERVERS``."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from scheduler_service.generation.backends.base import Backend, BackendConfiguration

EMBEDDED, NONE = "embedded", "none"
_HERE = "scheduler_service.generation.backends"

# By name, since a module needs what who only reads settings lacks (aiohttp, llama.cpp).
SERVERS: dict[str, str] = {
    "tgi": f"{_HERE}.tgi",
    "vllm": f"{_HERE}.openai",
    "sglang": f"{_HERE}.openai",
    "openai": f"{_HERE}.openai",
    "llama_cpp": f"{_HERE}.llama_cpp",
    EMBEDDED: f"{_HERE}.embedded",
    NONE: "scheduler_service.generation.no_backend",
}


WITHOUT_ADDRESS = (EMBEDDED, NONE)


class ServerModule(Protocol):
    """A module that talks to one or more kinds of LLM server."""

    def make(self, url: str, configuration: BackendConfiguration) -> Backend:
        """Return a backend for one endpoint (no address for one inside this process), not yet started."""
        ...


def make_backend(configuration: BackendConfiguration) -> Backend:
    """Return the backend that is configured, not yet started. Raises KeyError for a kind that is not in ``SERVERS``."""
    module = cast("ServerModule", import_module(SERVERS[configuration.kind]))
    if configuration.kind in WITHOUT_ADDRESS:
        return module.make("", configuration)
    from scheduler_service.generation.backends.pool import BackendPool

    return BackendPool([module.make(url, configuration) for url in configuration.urls])
