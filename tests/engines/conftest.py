"""Real engines, started once for all tests; 'make test-engines' sets up their environment."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from predictive_scheduling_cli.demo.engines import LAYER, connector, no_drafts, running_vllm
from tests.engines.metrics import Server

# Two servers, each of which takes most of a minute to start: a parser of one's own gives vLLM no marks by which it
# could enforce budgets. Prompts longer than a batch are computed in chunks; the tokens after "Steps:" are counted by
# vLLM itself where a request asks for it.
STATES = [
    *no_drafts(LAYER), "--max-num-batched-tokens", "256",
    "--reasoning-config", '{"reasoning_start_str": "Steps:", "reasoning_end_str": "\\nFinal answer:"}',
]  # fmt: skip
PARSER = ["--reasoning-parser", "demo", "--scheduling-policy", "priority"]
PLUGIN = {"PYTHONPATH": str(Path(__file__).parent / "plugin")}


@pytest.fixture(scope="session")
def environment() -> Path:
    """The virtual environment of the engines, with the demo's model."""
    found = os.environ.get("ENGINES", "")
    if not found:
        pytest.skip("needs a real vLLM: make test-engines")
    return Path(found)


@pytest.fixture(scope="session")
def sockets():
    """A folder for sockets, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(environment, sockets, tmp_path_factory):
    """A vLLM that keeps and sends hidden states, and enforces budgets where it is asked to."""
    log = tmp_path_factory.mktemp("vllm") / "vllm.log"
    destinations = connector(f"unix:{sockets}/*.sock", "tcp://127.0.0.0/8:*", f"file:{sockets}")
    async with running_vllm(environment, log, [*STATES, *destinations]) as url:
        yield Server(url, log)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def replica(environment, tmp_path_factory):
    """A second one, which parses reasoning and serves by priority; the last test that uses it kills it."""
    log = tmp_path_factory.mktemp("replica") / "vllm.log"
    async with running_vllm(environment, log, PARSER, PLUGIN) as url:
        yield Server(url, log)


@pytest_asyncio.fixture
async def session():
    """An HTTP client."""
    async with aiohttp.ClientSession() as opened:
        yield opened
