"""Three schedulers and one budget in a real redis-server, which is killed and comes back empty in the middle."""

import asyncio
import contextlib
import random
import socket
import time

import pytest
import redis.asyncio as aioredis

from predictive_scheduling import AsyncSchedulerClient
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.budget.shared_budget import Deposits, Lease, SharedBudget
from tests.integration.running import scheduler
from tests.programs import needs
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE, eventually

pytestmark = needs("redis-server")

RATE, LIMIT, BUDGET = 2000.0, 400.0, 16


def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Store:
    """A redis-server process on one port, without persistence."""

    def __init__(self):
        # Below the ephemeral ports: a client that knocks on one of those while nobody listens may connect to itself.
        self.port = next(port for port in random.sample(range(15_000, 25_000), 100) if free(port))
        self.url = f"redis://127.0.0.1:{self.port}"

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with aioredis.Redis.from_url(self.url) as client:

            async def answers():
                with contextlib.suppress(aioredis.RedisError, OSError):
                    return await client.ping()

            await eventually(answers)

    async def kill(self):
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def store():
    server = Store()
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


class Replica:
    """A scheduler's ledger, fed by leases, that spends whatever it has as soon as it has it."""

    def __init__(self, store, name, **lease):
        self.deposits = Deposits()
        self.ledger = BudgetLedger(BUDGET, bank_limit=int(LIMIT), income=self.deposits)
        self.client = aioredis.Redis.from_url(store.url, socket_connect_timeout=0.2, socket_timeout=0.2)
        settings = {"interval_seconds": 0.05, "ttl_seconds": 0.6, **lease}
        self.budget = SharedBudget(self.client, name, Lease(RATE, LIMIT, **settings), self.ledger, self.deposits)
        self.asked = 0
        self.tasks = [asyncio.create_task(self.budget.run()), asyncio.create_task(self.spend())]

    async def spend(self):
        while True:
            self.asked += 1
            if self.ledger.available(1) >= BUDGET:
                self.ledger.reserve({str(self.asked): BUDGET}, 0)
                self.ledger.settle(str(self.asked), BUDGET)
            await asyncio.sleep(0.001)

    @property
    def spent(self):
        return self.ledger.state().used

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.client.aclose()


def total(replicas):
    """What they have spent together."""
    return sum(replica.spent for replica in replicas)


@contextlib.asynccontextmanager
async def replicas(store, count=3):
    found = [Replica(store, f"r{at}") for at in range(count)]
    try:
        yield found
    finally:
        for replica in found:
            await replica.stop()


async def test_three_schedulers_spend_one_budget_fairly(store):
    started = time.monotonic()
    async with replicas(store) as three:
        await eventually(lambda: [replica.budget.replicas for replica in three] == [3, 3, 3])
        before = [replica.spent for replica in three]
        await eventually(lambda: total(three) >= sum(before) + 4 * LIMIT)
        took, spent = time.monotonic() - started, [replica.spent for replica in three]
    assert sum(spent) <= RATE * took + LIMIT
    shares = [after - earlier for after, earlier in zip(spent, before, strict=True)]
    assert min(shares) > 0.1 * sum(shares)


async def test_a_store_that_is_killed_and_comes_back_empty_is_never_overspent_beyond_the_leases(store):
    started = time.monotonic()
    async with replicas(store) as three:
        await eventually(lambda: total(three) > LIMIT)
        await store.kill()
        await eventually(lambda: all(replica.budget.away for replica in three))
        during = total(three)
        await eventually(lambda: total(three) > during + LIMIT)  # they go on with their leases and fair shares
        await store.start()
        await eventually(lambda: not any(replica.budget.away for replica in three))
        after = total(three)
        await eventually(lambda: total(three) > after + LIMIT)
        took, spent = time.monotonic() - started, total(three)
    assert spent <= RATE * took + 3 * LIMIT  # two stores that start, and the leases that the first forgot


async def test_the_lease_of_one_that_died_returns_to_the_others(store):
    async with replicas(store, 2) as (living, dying):
        await eventually(lambda: living.budget.replicas == 2)
        for task in dying.tasks:
            task.cancel()

        async def alone():
            leases = await living.client.hgetall("{predictive-scheduling}:leases")
            return set(leases) == {b"r0"} and living.budget.replicas == 1

        await eventually(alone)


class Losing:
    """A store whose answers are lost while ``lost`` is set. ``asked``: what it was asked."""

    def __init__(self, client):
        self.client, self.lost, self.asked = client, False, []

    def register_script(self, script):
        run = self.client.register_script(script)

        async def ask(keys, args):
            self.asked.append((keys, args))
            found = await run(keys=keys, args=args)
            if self.lost:
                raise OSError("the answer is lost")
            return found

        self.ask = ask
        return ask


@pytest.mark.parametrize("seed", range(5))
async def test_no_token_is_lost_or_made_where_answers_are_lost_and_beats_come_late(store, seed):
    rng, total, spent = random.Random(seed), 100_000, 0
    async with aioredis.Redis.from_url(store.url) as client:
        losing, deposits, rounds = Losing(client), Deposits(), iter(range(1000))
        ledger = BudgetLedger(BUDGET, bank_limit=total, income=deposits)
        lease = Lease(1e-6, total, ttl_seconds=60.0)
        budget = SharedBudget(losing, "r", lease, ledger, deposits, clock=lambda: float(next(rounds)))
        await budget.beat()
        await client.hset("{predictive-scheduling}:pool", "tokens", total)
        for at in range(60):
            tokens = rng.choice([0, 0, 0, 5, 500])
            if tokens <= ledger.available(1):
                ledger.reserve({at: tokens}, 0)
                ledger.settle(at, tokens)
                spent += tokens
            losing.lost = rng.random() < 0.4
            if rng.random() < 0.3:  # one of before, by a connection that was slow
                with contextlib.suppress(OSError):
                    await losing.ask(*rng.choice(losing.asked))
            budget._spending = rng.choice([0.0, 10.0, 1000.0])
            await budget.beat()
        losing.lost = False
        await budget.beat()
        pool = float(await client.hget("{predictive-scheduling}:pool", "tokens"))
        held = ledger.bank + deposits.pending
        assert float(await client.hget("{predictive-scheduling}:leases", "r")) == pytest.approx(held)
    assert spent > 0
    assert pool + held + spent == pytest.approx(total, abs=0.1)


async def test_a_beat_that_comes_again_is_answered_again(store):
    """As the store's library does where a connection breaks."""
    async with aioredis.Redis.from_url(store.url) as client:
        losing, deposits = Losing(client), Deposits()
        ledger = BudgetLedger(BUDGET, bank_limit=int(LIMIT), income=deposits)
        await SharedBudget(losing, "r", Lease(RATE, LIMIT), ledger, deposits).beat()
        before = await client.hgetall("{predictive-scheduling}:leases")
        given, alive, _ = await losing.ask(*losing.asked[0])
        after = await client.hgetall("{predictive-scheduling}:leases")
    assert (given, alive) == (deposits.pending, 1)
    assert given > 0
    assert before == after


async def test_a_scheduler_serves_from_a_shared_budget(store):
    def endless(prompt):
        return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 4000

    settings = {
        "policy": "uniform", "budget_per": "second", "budget_tokens": 2000, "shared_budget_url": store.url,
        "tokens_per_query": 48, "cap_tokens": 128,
    }  # fmt: skip
    async with scheduler(ScriptedBackend(endless), **settings) as address, AsyncSchedulerClient(address) as client:
        first = await client.complete("q")
        budget = await client.budget()
    assert first.usage.reasoning_tokens > 0
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens > 0


async def test_a_feeder_ends_when_it_is_cancelled_whenever_that_is(store):
    """The store's library answers a cancellation with an error of its own, now and then; a server must still end."""
    rng = random.Random(0)
    for at in range(150):
        deposits = Deposits()
        ledger = BudgetLedger(BUDGET, bank_limit=int(LIMIT), income=deposits)
        client = aioredis.Redis.from_url(store.url, socket_connect_timeout=1.0, socket_timeout=1.0)
        budget = SharedBudget(client, f"r{at}", Lease(RATE, LIMIT, interval_seconds=0.0005), ledger, deposits)
        task = asyncio.create_task(budget.run())
        await asyncio.sleep(rng.random() * 0.01)
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=PATIENCE)
        assert ended, "it goes on for ever"
        assert task.cancelled()
        await client.aclose()
