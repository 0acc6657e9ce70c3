"""Large work leaves the event loop for one thread, small work does not."""

import asyncio
import threading

import pytest

from scheduler_service.planning.aside import MOST_AT_ONCE, Aside


async def test_small_work_is_done_here_and_large_work_by_one_thread():
    aside = Aside()
    assert await aside.run(MOST_AT_ONCE, threading.current_thread) is threading.main_thread()
    threads = await asyncio.gather(*(aside.run(MOST_AT_ONCE + 1, threading.current_thread) for _ in range(5)))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


async def test_the_loop_goes_on_while_large_work_is_done():
    aside, over = Aside(), threading.Event()
    work = asyncio.create_task(aside.run(MOST_AT_ONCE + 1, lambda: over.wait(60)))
    await asyncio.sleep(0)
    over.set()  # the loop itself ends the work that it waits for
    assert await work


@pytest.mark.parametrize("size", [1, MOST_AT_ONCE + 1])
async def test_what_work_raises_reaches_its_caller(size):
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await Aside().run(size, broken)


async def test_work_whose_caller_leaves_before_it_begins_is_dropped():
    aside, over, done = Aside(), threading.Event(), []
    first = asyncio.create_task(aside.run(MOST_AT_ONCE + 1, lambda: over.wait(60)))
    second = asyncio.create_task(aside.run(MOST_AT_ONCE + 1, lambda: done.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    over.set()
    await first
    await aside.run(MOST_AT_ONCE + 1, lambda: done.append("third"))
    assert done == ["third"]
