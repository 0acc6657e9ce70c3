"""What an access log tells: settled here, handed on, or of no use, each counted once."""

import asyncio
from collections import Counter

from scheduler_service.gateway.grant_names import GrantName, written
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import Told
from tests.builders.deciding import Deciding
from tests.standins.mail_store import MailStore
from tests.waiting import eventually

TOLD = Told(44, 40, 7)


def settling(budgets, store=None):
    counted = Counter()

    def count(name, requests=1):
        counted[name] += requests

    return Settling(budgets, count, Mailbox(store, budgets.instance, count) if store else None), counted


def test_a_grant_of_its_own_is_settled_once():
    budgets = Deciding()
    found, counted = settling(budgets)
    name = budgets.grant()
    found.tell(name, TOLD)
    found.tell(name, Told(1))
    assert budgets.settled == {1: TOLD}
    assert counted == {"settled": 1, "closed": 1}


def test_what_names_nothing_is_counted():
    found, counted = settling(Deciding())
    found.tell("gold/mine", TOLD)
    assert counted == {"unread": 1}


def test_without_a_store_grants_of_another_scheduler_are_told_in_the_log_once(caplog):
    found, counted = settling(Deciding())
    for number in (1, 2):
        found.tell(written(GrantName("b" * 12, number), ("", "mine")), TOLD)
    assert counted == {"elsewhere": 2}
    assert len([record for record in caplog.records if "shared_budget_url" in record.message]) == 1


async def test_without_a_store_there_is_nothing_to_exchange():
    found, _ = settling(Deciding())
    assert await found.exchange() is False


async def test_a_grant_of_another_scheduler_is_settled_there():
    store, budgets = MailStore(), (Deciding(), Deciding())
    (one, first), (two, second) = (settling(each, store) for each in budgets)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run()) for each in (one, two)]
        one.tell(budgets[1].grant(), TOLD)
        await eventually(lambda: second["settled"])
        for task in tasks:
            task.cancel()
    assert budgets[1].settled == {1: TOLD}
    assert (first, second) == ({"forwarded": 1}, {"settled": 1})
