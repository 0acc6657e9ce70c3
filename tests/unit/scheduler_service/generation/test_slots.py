"""The backend's slots: never more holders than slots, priority before arrival, and no slot lost to who leaves."""

import asyncio

import pytest

from scheduler_service.generation.slots import Slots
from tests.waiting import eventually


async def settle():
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def holder(slots, name, held, over, priority=0):
    """A task that notes when it holds a slot, and holds it until ``over``."""

    async def hold():
        async with slots.slot(priority):
            held.append(name)
            await over.wait()

    return asyncio.get_running_loop().create_task(hold())


async def test_who_waits_goes_by_priority_and_then_by_arrival():
    slots, held, over, first = Slots(1), [], asyncio.Event(), asyncio.Event()
    tasks = [holder(slots, "running", held, first)]
    await settle()
    for name, priority in (("early", 0), ("late", 0), ("urgent", 5), ("idle", -1), ("urgent too", 5)):
        tasks.append(holder(slots, name, held, over, priority))
        await settle()
    assert held == ["running"]
    over.set()
    first.set()
    await asyncio.gather(*tasks)
    assert held == ["running", "urgent", "urgent too", "early", "late", "idle"]


async def test_who_leaves_the_queue_is_passed_over():
    slots, held, over, first = Slots(1), [], asyncio.Event(), asyncio.Event()
    running = holder(slots, "running", held, first)
    await settle()
    gone, next_one = holder(slots, "gone", held, over, priority=1), holder(slots, "next", held, over)
    await settle()
    gone.cancel()
    first.set()
    over.set()
    await asyncio.gather(running, next_one)
    assert held == ["running", "next"]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_who_leaves_leaves_nothing_behind_while_others_keep_the_slots():
    slots, held, over = Slots(1), [], asyncio.Event()
    async with slots.slot():
        waiting = [holder(slots, f"waits {at}", held, over, priority=-at) for at in range(4)]
        leaving = [holder(slots, "leaves", held, over, priority=-1) for _ in range(100)]
        await settle()
        for task in leaving:
            task.cancel()
            await settle()
        assert slots.waiting == 4
        assert len(slots._waiting) <= 8  # as many that left as wait
    over.set()
    await asyncio.gather(*waiting)
    assert held == [f"waits {at}" for at in range(4)]


async def test_who_is_cancelled_at_the_hand_over_passes_the_slot_on():
    """The slot was handed over, and its new holder is cancelled before it runs."""
    slots, held, over = Slots(1), [], asyncio.Event()
    async with slots.slot():
        chosen = holder(slots, "chosen", held, over)
        await settle()
        next_one = holder(slots, "next", held, over)
        await settle()
    chosen.cancel()  # nothing has run since the slot was freed
    await eventually(lambda: held == ["next"])
    over.set()
    await next_one
    assert chosen.cancelled()
    async with asyncio.timeout(10), slots.slot():  # and it is free again
        held.append("later")


async def test_nobody_who_comes_later_takes_a_slot_that_was_handed_over():
    slots, held, over = Slots(1), [], asyncio.Event()
    async with slots.slot():
        waiting = holder(slots, "waiting", held, over)
        await settle()
    later = holder(slots, "later", held, over, priority=9)
    over.set()
    await asyncio.gather(waiting, later)
    assert held == ["waiting", "later"]


async def test_a_holder_that_fails_frees_its_slot():
    slots = Slots(1)
    with pytest.raises(ValueError, match="broken"):
        async with slots.slot():
            raise ValueError("broken")
    async with asyncio.timeout(10), slots.slot():
        pass


async def test_who_holds_and_who_waits_is_counted_and_who_left_is_not():
    slots = Slots(1)

    async def hold(until):
        async with slots.slot():
            await until.wait()

    ending = asyncio.Event()
    tasks = [asyncio.create_task(hold(ending)) for _ in range(3)]
    await asyncio.sleep(0)
    assert (slots.most, slots.held, slots.waiting) == (1, 1, 2)
    tasks[1].cancel()
    await asyncio.sleep(0)
    assert (slots.held, slots.waiting) == (1, 1)
    ending.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (slots.held, slots.waiting) == (0, 0)
