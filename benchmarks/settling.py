"""What an entry of Envoy's access log costs where another scheduler decided: CPU time there, here and in the store.

    python -m benchmarks.settling

Two schedulers and a real redis-server. Entries come as Envoy sends them, those of a fifth of a second in a message and
in an exchange. The baseline is an entry that is settled by the one that is told, in turns with the others. What a
ledger takes to settle is left out of both: it is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio as aioredis

from predictive_scheduling_cli.demo.services import free_port
from scheduler_service.gateway.access_logs import told_by
from scheduler_service.gateway.budgets import REQUEST_HEADER
from scheduler_service.gateway.envoy_messages import StreamAccessLogsMessage
from scheduler_service.gateway.grant_names import GrantName, written
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import Told

_PER_SECOND = (10, 100, 1000, 4000)
_EXCHANGES = 5


class Settles:
    """In a scheduler's place: counts what is settled."""

    def __init__(self) -> None:
        """Nothing is."""
        self.instance, self.settled = secrets.token_hex(6), 0

    def settle(self, grant: int, told: Told) -> bool:
        """Count it."""
        self.settled += 1
        return True


def message(instance: str, entries: int) -> bytes:
    """What Envoy sends for so many requests of a scheduler, streamed and told in full."""
    counts = {"completion_tokens": 528, "prompt_tokens": 90, "events": 529}
    entry = {
        "common_properties": {
            "metadata": {
                "filter_metadata": {
                    "predictive_scheduling": {"fields": {name: {"number_value": one} for name, one in counts.items()}}
                }
            },
            "time_to_first_upstream_rx_byte": {"nanos": 80_000_000},
            "time_to_last_upstream_rx_byte": {"seconds": 9, "nanos": 120_000_000},
        },
        "response": {"response_code": {"value": 200}, "response_body_bytes": 90_000},
    }
    names = [written(GrantName(instance, at), ("gold", f"r{at}")) for at in range(1, entries + 1)]
    logged = [{**entry, "request": {"request_headers": {REQUEST_HEADER: name}}} for name in names]
    sent: bytes = StreamAccessLogsMessage(http_logs={"log_entry": logged}).SerializeToString()
    return sent


def tell(settling: Settling, sent: bytes) -> None:
    """Read a message as the port does."""
    for entry in StreamAccessLogsMessage.FromString(sent).http_logs.log_entry:
        settling.tell(entry.request.request_headers.get(REQUEST_HEADER), told_by(entry))


async def cost(work: Callable[[], Awaitable[Any]]) -> float:
    """CPU seconds of this process."""
    before = time.process_time()
    await work()
    return time.process_time() - before


async def store_seconds(client: aioredis.Redis) -> float:
    """CPU seconds of the store."""
    info = await client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def measure(port: int, rounds: int) -> None:
    """Measure at each rate, and print."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(aioredis.Redis.from_url(f"redis://127.0.0.1:{port}")) for _ in range(2)
        ]
        counted: Counter[str] = Counter()

        def count(name: str, requests: int = 1) -> None:
            counted[name] += requests

        decides, told = Settles(), Settles()
        owner, other = (
            Settling(one, count, Mailbox(client, one.instance, count))  # type: ignore[arg-type]  # stands in
            for one, client in zip((decides, told), clients, strict=True)
        )
        for _ in range(3):
            await owner.exchange()
            await other.exchange()
        for a_second in _PER_SECOND:
            entries = a_second // _EXCHANGES
            found: dict[str, list[float]] = {"here": [], "told": [], "decided": [], "store": [], "idle": []}
            sent = message(decides.instance, entries)

            async def here(sent: bytes = sent) -> None:
                tell(owner, sent)

            async def posts(sent: bytes = sent) -> None:
                tell(other, sent)
                await other.exchange()

            for _ in range(rounds):
                found["here"].append(await cost(here))
                before = await store_seconds(clients[0])
                found["told"].append(await cost(posts))
                found["decided"].append(await cost(owner.exchange))
                found["store"].append(await store_seconds(clients[0]) - before)
                found["idle"].append(await cost(owner.exchange))
            us = {name: 1e6 * statistics.median(seconds) for name, seconds in found.items()}
            us["store"] = 1e6 * statistics.mean(found["store"])
            each = {name: one / entries for name, one in us.items()}
            print(  # noqa: T201
                f"{a_second:>5} entries a second: its own {each['here']:6.1f} µs; another's {each['told']:6.1f} µs"
                f" where it is told, {each['decided']:6.1f} µs where it was decided, {each['store']:5.1f} µs in the"
                f" store; an exchange of nothing {us['idle']:4.0f} µs"
            )
        if 2 * counted["forwarded"] != decides.settled:
            raise RuntimeError(f"not all were settled: {counted}, {decides.settled}")


async def run(rounds: int) -> None:
    """Start a store and measure."""
    port = free_port()
    store = await asyncio.create_subprocess_exec(
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with aioredis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
            while True:
                try:
                    await client.ping()
                    break
                except aioredis.ConnectionError:
                    await asyncio.sleep(0.05)
        await measure(port, rounds)
    finally:
        store.kill()
        await store.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    asyncio.run(run(given.rounds))


if __name__ == "__main__":
    main()
