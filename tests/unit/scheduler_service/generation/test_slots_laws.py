"""Laws of the backend's slots, whoever comes, leaves and is cancelled."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.generation.slots import Slots

# Who comes with which priority; who is cancelled, holding or waiting; who ends; and how many turns all run afterwards:
# few of them leave a slot handed over to somebody who has not run yet.
SETTLED = 4
KINDS = st.sampled_from(["comes", "cancelled", "ends"])
STEPS = st.lists(st.tuples(KINDS, st.integers(-2, 2), st.integers(0, 9), st.integers(0, SETTLED)), max_size=40)


async def settle():
    """Let every task go as far as it can."""
    for _ in range(100):
        await asyncio.sleep(0)


@settings(max_examples=300)
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

        for kind, priority, which, turns in steps:
            if kind == "comes":
                ends.append(asyncio.Event())
                tasks.append(asyncio.create_task(hold(len(tasks), priority, ends[-1])))
            elif alive := [at for at, task in enumerate(tasks) if not task.done()]:
                chosen = alive[which % len(alive)]
                if kind == "cancelled":
                    tasks[chosen].cancel()
                else:
                    ends[chosen].set()
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == SETTLED:
                await settle()
                unfinished = sum(not task.done() for task in tasks)
                assert len(holding) == min(most, unfinished)  # no slot is idle while somebody waits
        for end in ends:
            end.set()
        await settle()
        assert all(task.done() for task in tasks)  # whoever waited had a slot
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        last = [asyncio.create_task(slots._acquire(0)) for _ in range(most)]
        await settle()
        assert all(task.done() for task in last)  # all slots are free again

    asyncio.run(run())
