"""Letters between schedulers: who gets them, what waits, what is dropped, and what is no letter."""

import asyncio
import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.gateway.grant_names import GrantName
from scheduler_service.gateway.mailbox import Letter, Mailbox, letter_of, read_letters
from scheduler_service.grants import Told
from tests.standins.mail_store import MailStore

A, B = "a" * 12, "b" * 12
TOLD = Told(44, 40, 7, "HTTP 503", 0.5, 0.01)
COUNTS = st.none() | st.integers(0, 2**31)
SECONDS = st.floats(0, 1e9)
TOLDS = st.builds(Told, COUNTS, COUNTS, st.integers(0, 2**31), st.text(max_size=64), SECONDS, SECONDS)
JUNK = st.one_of(
    st.binary(),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=70),
        lambda inner: st.lists(inner, max_size=8),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.lists(st.integers() | st.floats() | st.none(), min_size=7, max_size=7).map(
        lambda values: json.dumps(values).encode()
    ),
)


def mailbox(store, instance):
    counted = Counter()
    return Mailbox(store, instance, lambda name, count: counted.update({name: count}), "k"), counted


async def exchanged(*boxes):
    """What each gets of an exchange, one after the other."""
    return [(await box.exchange())[0] for box in boxes]


async def both():
    """Two mailboxes that know of each other, their counts, and the store."""
    store = MailStore()
    (one, counts), (two, _) = mailbox(store, A), mailbox(store, B)
    await exchanged(one, two, one)
    return one, counts, two, store


@given(st.integers(1, 10**15), TOLDS)
def test_a_letter_is_read_as_it_was_written(number, told):
    assert list(read_letters([letter_of(number, told).encode()])) == [Letter(number, told)]


@given(st.lists(JUNK, max_size=4))
def test_whatever_stands_in_an_inbox_is_a_letter_of_bounded_numbers_or_left_out(found):
    for letter in read_letters(found):
        told = letter.told
        assert letter.number >= 1
        assert all(0 <= count <= 2**31 for count in (told.completion_tokens or 0, told.reasoning_tokens or 0))
        assert 0 <= told.prompt_tokens <= 2**31
        assert math.isfinite(told.first_token_seconds)
        assert math.isfinite(told.seconds_per_token)
        assert len(told.failure) <= 64


async def test_a_letter_gets_to_whom_it_is_for():
    one, counts, two, _ = await both()
    one.post(GrantName(B, 3), TOLD)
    assert len(one) == 1
    assert await exchanged(one, two) == [[], [Letter(3, TOLD)]]
    assert await exchanged(one, two) == [[], []]
    assert (len(one), counts) == (0, {"forwarded": 1})


async def test_letters_keep_their_order_and_come_a_thousand_at_once():
    one, counts, two, _ = await both()
    for number in range(1, 2502):
        one.post(GrantName(B, number), TOLD)
    assert [await one.exchange() for _ in range(3)] == [([], True), ([], True), ([], False)]
    found = [await two.exchange() for _ in range(3)]
    assert [(len(letters), more) for letters, more in found] == [(1000, True), (1000, True), (501, False)]
    assert [letter.number for letters, _ in found for letter in letters] == list(range(1, 2502))
    assert counts == {"forwarded": 2501}


async def test_one_that_is_not_there_yet_is_waited_for():
    store = MailStore()
    (one, counts), (two, _) = mailbox(store, A), mailbox(store, B)
    one.post(GrantName(B, 3), TOLD)
    await exchanged(one, one)
    assert store.inboxes.keys() == {f"{{k}}:told:{A}"}  # nothing is kept for names that somebody has made up
    await exchanged(two)
    assert await one.exchange() == ([], True)
    assert await exchanged(one, two) == [[], [Letter(3, TOLD)]]
    assert counts == {"forwarded": 1}


async def test_a_letter_to_one_that_does_not_come_is_dropped_after_a_while():
    one, counts, _, store = await both()
    store.now += 6.0  # longer than the other one is taken to be there without a word
    await one.exchange()
    one.post(GrantName(B, 3), TOLD)
    one.post(GrantName("c" * 12, 4), TOLD)
    for _ in range(50):
        await one.exchange()
    assert (len(one), counts) == (2, {})
    await one.exchange()
    assert (len(one), counts) == (0, {"gone": 2})


async def test_one_that_came_back_is_waited_for_anew():
    one, counts, two, store = await both()
    for _ in range(2):
        store.now += 6.0
        await one.exchange()
        one.post(GrantName(B, 3), TOLD)
        for _ in range(50):
            await one.exchange()
        await exchanged(two, one)
        assert await exchanged(one, two) == [[], [Letter(3, TOLD)]]
    assert counts == {"forwarded": 2}


async def test_what_finds_no_room_is_counted():
    one, counts, two, store = await both()
    for number in range(1, 10_002):
        one.post(GrantName(B, number), TOLD)
    assert (len(one), counts) == (10_000, {"full": 1})
    while len(one):
        await one.exchange()
    one.post(GrantName(B, 1), TOLD)
    await one.exchange()  # the inbox is full now
    assert counts == {"full": 2, "forwarded": 10_000}
    assert len((await two.exchange())[0]) == 1000
    assert len(store.inboxes[f"{{k}}:told:{B}"]) == 9000


async def test_while_the_store_is_away_letters_wait(caplog):
    one, counts, two, store = await both()
    store.away = True
    for number in (1, 2, 3):
        one.post(GrantName(B, number), TOLD)
        assert await one.exchange() == ([], False)
        assert one.away
    store.away = False
    assert await exchanged(one, two) == [[], [Letter(number, TOLD) for number in (1, 2, 3)]]
    assert not one.away
    assert (len(one), counts) == (0, {"forwarded": 3})
    assert len([record for record in caplog.records if "is away" in record.message]) == 1


async def test_a_store_that_comes_back_empty_learns_who_is_there():
    one, _, two, store = await both()
    store.empty()
    await one.exchange()
    one.post(GrantName(B, 1), TOLD)
    await exchanged(one, two, one)
    assert await exchanged(one, two) == [[], [Letter(1, TOLD)]]


async def test_a_cancelled_exchange_keeps_its_letters():
    one, counts, two, store = await both()
    waiting = asyncio.Event()

    async def hangs(keys, args):
        waiting.set()
        await asyncio.Event().wait()

    one._exchange, script = hangs, one._exchange
    one.post(GrantName(B, 1), TOLD)
    task = asyncio.create_task(one.exchange())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    one._exchange = script
    assert await exchanged(one, two) == [[], [Letter(1, TOLD)]]
    assert (counts, store.away) == ({"forwarded": 1}, False)
