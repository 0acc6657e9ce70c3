"""Laws of the backend's slots, whoever comes, leaves and is cancelled."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.generation.slots import Slots

# Who comes with which priority; who is cancelled, holding or waiting; who ends; and whether anybody runs in between.
STEPS = st.lists(
    st.tuples(st.sampled_from(["comes", "cancelled", "ends"]), st.integers(-2, 2), st.integers(0, 9), st.booleans()),
    max_size=40,
)


@given(most=st.integers(1, 3), steps=STEPS)
def test_never_more_than_the_slots_hold_and_none_is_lost(most, steps):
    async def run():
        slots, holding, ends, tasks = Slots(most), set(), [], []

        async def hold(name, priority, end):
            async with slots.slot(priority):
                holding.add(name)
                assert len(holding) <= most
                try:
                    await end.wait()
                finally:
                    holding.discard(name)

        for kind, priority, which, runs in steps:
            if kind == "comes":
                ends.append(asyncio.Event())
                tasks.append(asyncio.create_task(hold(len(tasks), priority, ends[-1])))
            elif tasks and kind == "cancelled":
                tasks[which % len(tasks)].cancel()
            elif tasks:
                ends[which % len(tasks)].set()
            if runs:
                for _ in range(5):
                    await asyncio.sleep(0)
                alive = sum(not task.done() for task in tasks)
                assert len(holding) == min(most, alive)  # no slot is idle while somebody waits
        for end in ends:
            end.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        async with asyncio.timeout(10):  # all slots are free again
            for _ in range(most):
                await slots._acquire(0)

    asyncio.run(run())
