"""Laws of settling: whichever scheduler is told, however often and in whatever order, a grant ends once, by its own.

A fleet of three lives through what is drawn: grants, entries (again, late, at any scheduler), headers that somebody has
made up, exchanges, a store that is away, loses an answer, or comes back empty, and schedulers that start anew.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.gateway.grant_names import read
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import Told
from tests.builders.deciding import Deciding
from tests.standins.mail_store import MailStore

ONE, ANY = st.integers(0, 2), st.integers(0, 1000)
FORGED = st.text() | st.from_regex(r"[a-z/%]{0,9}@[0-9a-f]{12}\.[1-9][0-9]{0,15}", fullmatch=True)
QUIET = st.one_of(
    st.tuples(st.just("grant"), ONE),
    st.tuples(st.just("tell"), ONE, ANY),
    st.tuples(st.just("exchange"), ONE),
    st.tuples(st.just("forged"), ONE, FORGED),
    st.tuples(st.just("guessed"), ONE, ANY, st.integers(1000, 10**15 - 1)),
    st.tuples(st.just("away"), st.booleans()),
)
LOUD = st.one_of(
    QUIET,
    st.tuples(st.just("loses answer")),
    st.tuples(st.just("empty")),
    st.tuples(st.just("restart"), ONE),
    st.tuples(st.just("time"), st.floats(0, 10)),
)


@dataclass
class Fleet:
    """Three schedulers and a store. ``given``: each grant's name and who gave it. ``told``: how often, of which."""

    store: MailStore = field(default_factory=MailStore)
    counted: Counter = field(default_factory=Counter)
    given: list = field(default_factory=list)
    told: Counter = field(default_factory=Counter)
    entries: int = 0

    def __post_init__(self):
        self.running = [self.started() for _ in range(3)]

    def started(self):
        budgets = Deciding()
        return budgets, Settling(budgets, self.count, Mailbox(self.store, budgets.instance, self.count))

    def count(self, name, requests=1):
        self.counted[name] += requests

    def tell(self, at, name, told):
        self.entries += 1
        self.running[at][1].tell(name, told)

    async def live(self, step):
        match step:
            case "grant", at:
                budgets = self.running[at][0]
                self.given.append((budgets.grant(), budgets))
            case "tell", at, which if self.given:
                which %= len(self.given)
                self.told[which] += 1
                self.tell(at, self.given[which][0], of(which))
            case "forged", at, text:
                self.tell(at, text, Told(failure="forged"))
            case "guessed", at, whose, number if self.given:  # of a scheduler that is known; numbers are not
                name, _ = self.given[whose % len(self.given)]
                self.tell(at, f"{name.rpartition('.')[0]}.{number}", Told(failure="forged"))
            case "exchange", at:
                self.store.now += 0.2
                await self.running[at][1].exchange()
            case "away", whether:
                self.store.away = whether
            case ("loses answer",):
                self.store.loses_answer = True
            case ("empty",):
                self.store.empty()
            case "restart", at:
                self.running[at] = self.started()
            case "time", seconds:
                self.store.now += seconds

    async def calm(self):
        """The store is there, and everybody exchanges what there is."""
        self.store.away = self.store.loses_answer = False
        for _ in range(3):
            for at in range(3):
                await self.live(("exchange", at))


def of(which):
    """What is told of a grant, and of no other."""
    return Told(which, None, which)


def lived(steps):
    """A fleet that has lived through these steps, and a calm after them."""
    fleet = Fleet()

    async def live():
        for step in steps:
            await fleet.live(step)
        await fleet.calm()

    asyncio.run(live())
    return fleet


@settings(max_examples=200)
@given(st.lists(LOUD, max_size=60))
def test_whatever_happens_a_grant_ends_at_most_once_and_by_what_was_told_of_it(steps):
    fleet = lived(steps)
    for which, (name, budgets) in enumerate(fleet.given):
        found = budgets.settled.get(read(name).number)
        assert found is None or (found == of(which) and fleet.told[which])
    for budgets, _ in fleet.running:
        assert set(budgets.settled) <= set(range(1, budgets.last + 1))


@settings(max_examples=200)
@given(st.lists(QUIET, max_size=50))  # fewer exchanges than anybody is waited for
def test_whoever_is_told_every_grant_that_is_told_of_ends_and_every_entry_counts_once(steps):
    fleet = lived(steps)
    for which, (name, budgets) in enumerate(fleet.given):
        assert (read(name).number in budgets.settled) == bool(fleet.told[which])
    # A letter is counted by who posts it and by who settles it.
    counted, waiting = fleet.counted, sum(len(each._mailbox) for _, each in fleet.running)
    assert fleet.entries == counted.total() - counted["forwarded"] + waiting
    assert counted["settled"] == len(+fleet.told)
