"""Schedulers settle for each other by a real redis-server, which does what the stand-in of other tests does."""

import random
from collections import Counter
from contextlib import asynccontextmanager

import redis.asyncio as aioredis

from scheduler_service.gateway import mailbox
from scheduler_service.gateway.grant_names import GrantName
from scheduler_service.gateway.mailbox import Letter, Mailbox
from scheduler_service.grants import Told
from tests.integration.test_shared_budget import Store, store  # noqa: F401
from tests.programs import needs
from tests.standins.mail_store import MailStore
from tests.waiting import eventually

pytestmark = needs("redis-server")

A, B, C = ("a" * 12, "b" * 12, "c" * 12)


@asynccontextmanager
async def connected(store):  # noqa: F811
    async with aioredis.Redis.from_url(store.url, socket_connect_timeout=0.2, socket_timeout=0.2) as client:
        yield client


def boxes(client, *names):
    """A mailbox for each, and what they count together."""
    counted = Counter()
    return [Mailbox(client, name, lambda what, count: counted.update({what: count})) for name in names], counted


async def test_the_script_does_what_its_stand_in_does(store, monkeypatch):  # noqa: F811
    monkeypatch.setattr(mailbox, "_MOST_AT_ONCE", 5)
    monkeypatch.setattr(mailbox, "_MOST_WAITING", 20)
    monkeypatch.setattr(mailbox, "_TTL_SECONDS", 1000.0)
    drawn, names = random.Random(7), (A, B, C)
    async with connected(store) as client:
        (real, real_counts), (fake, fake_counts) = boxes(client, *names), boxes(MailStore(), *names)
        for number in range(1, 1500):
            at, told = drawn.randrange(3), Told(drawn.randrange(100), None, 1, "é" * drawn.randrange(3), 0.5, 0.01)
            if drawn.random() < 0.8:
                to = GrantName(drawn.choice((*names, "d" * 12)), number)
                for one in (real, fake):
                    one[at].post(to, told)
            else:
                assert await real[at].exchange() == await fake[at].exchange()
        assert [len(one) for one in real] == [len(one) for one in fake]
    assert real_counts == fake_counts
    assert real_counts.keys() == {"forwarded", "full", "gone"}


async def test_fleets_of_other_names_do_not_meet(store):  # noqa: F811
    async with connected(store) as client:
        one, other = (Mailbox(client, name, lambda *_: None, key) for name, key in ((A, "one"), (B, "other")))
        await other.exchange()
        one.post(GrantName(B, 1), Told(1))
        for _ in range(3):
            await one.exchange()
        assert len(one) == 1
        assert await other.exchange() == ([], False)


async def test_a_store_that_is_killed_and_comes_back_empty_delivers_what_waited(store):  # noqa: F811
    async with connected(store) as client:
        (one, two), counted = boxes(client, A, B)
        for box in (one, two, one):
            await box.exchange()
        await store.kill()
        one.post(GrantName(B, 1), Told(1))
        assert await one.exchange() == ([], False)
        assert one.away
        await store.start()
        found = []

        async def arrived():
            await one.exchange()
            found.extend((await two.exchange())[0])
            return found

        assert await eventually(arrived) == [Letter(1, Told(1))]
        assert counted == {"forwarded": 1}


async def test_who_is_gone_is_forgotten_and_leaves_nothing_for_ever(store, monkeypatch):  # noqa: F811
    monkeypatch.setattr(mailbox, "_TTL_SECONDS", 0.05)
    async with connected(store) as client:
        (one, gone), counted = boxes(client, A, B)
        await gone.exchange()
        await one.exchange()
        one.post(GrantName(B, 1), Told(1))
        await one.exchange()
        assert counted == {"forwarded": 1}  # it may be there still, for all that is known

        async def dropped():
            one.post(GrantName(B, 2), Told(1))
            await one.exchange()
            return counted["gone"]

        await eventually(dropped)
        keys = await client.keys()
        assert {key.decode() for key in keys} == {
            "{predictive-scheduling}:settling",
            f"{{predictive-scheduling}}:told:{B}",
        }
        assert all([0 < await client.ttl(key) <= 60 for key in keys])
