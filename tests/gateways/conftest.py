"""Real gateways, started once for all tests; 'make test-gateways' sets up their environments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_asyncio

from tests.gateways.running import running
from tests.waiting import PATIENCE


@pytest.fixture(scope="session")
def litellm() -> Path:
    """The virtual environment of LiteLLM's proxy."""
    found = os.environ.get("LITELLM", "")
    if not found:
        pytest.skip("needs LiteLLM's proxy: make test-gateways")
    return Path(found)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def proxy(litellm, tmp_path_factory):
    """A proxy whose model ``m`` gets budgets, and falls back to ``cloud``, which gets none."""
    told = {"MODELS": "m", "TIMEOUT_MS": str(1000 * PATIENCE)}
    folder = tmp_path_factory.mktemp("litellm")
    cache = {"cache": True, "cache_params": {"type": "local", "mode": "default_off"}}
    async with running(litellm, folder, told, fallbacks=[{"m": ["cloud"]}], **cache) as found:
        yield found
