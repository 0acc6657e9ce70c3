"""A running engine, and what its metrics say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import aiohttp


@dataclass(frozen=True)
class Server:
    """Where it is, and where it logs."""

    url: str
    log: Path

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series with these labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        found = [line for line in lines if re.match(rf"{re.escape(name)}[{{ ]", line)]
        assert found, f"{name} is no metric of this engine"
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(one in line for one in wanted))

    async def generated(self) -> float:
        """Tokens that it has generated."""
        return await self.metric("vllm:generation_tokens_total")

    async def running(self) -> float:
        """Requests that run or wait."""
        return await self.metric("vllm:num_requests_running") + await self.metric("vllm:num_requests_waiting")
