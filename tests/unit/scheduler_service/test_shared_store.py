"""What goes on without a store that does not answer."""

import asyncio
import logging

import pytest

from scheduler_service.shared_store import SharedScript


class Store:
    """Answers with ``answers``, one after the other: raises what is an error, and hangs for ``None``."""

    def __init__(self, *answers):
        """Nothing was asked yet."""
        self._answers, self.asked = list(answers), []

    def register_script(self, script):
        """The one script."""
        assert script == "return 1"

        async def run(keys, args):
            self.asked.append((keys, args))
            answer = self._answers.pop(0)
            if answer is None:
                await asyncio.sleep(3600)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return run


def script(*answers, patience=0.01):
    store = Store(*answers)
    return store, SharedScript(store, "return 1", "things", patience)


async def test_it_returns_what_the_script_does():
    store, run = script([1, 2])
    assert await run(["key"], ["argument"]) == [1, 2]
    assert store.asked == [(["key"], ["argument"])]
    assert not run.away


@pytest.mark.parametrize("failure", [OSError("no route"), ValueError("the library's own"), None])
async def test_without_an_answer_it_returns_none_and_says_so_once(failure, caplog):
    caplog.set_level(logging.INFO)
    _, run = script(failure, failure, 7, failure)
    for away, found in ((True, None), (True, None), (False, 7), (True, None)):
        assert await run([], []) == found
        assert run.away is away
    told = [record.message.partition(",")[0] for record in caplog.records]
    assert told == [
        "the store of the shared things is away",
        "the store of the shared things is back",
        "the store of the shared things is away",
    ]


@pytest.mark.parametrize("swallowed", [OSError("the connection broke"), 1])
async def test_who_is_cancelled_stays_cancelled_whatever_the_library_makes_of_it(swallowed):
    class Wrapping(Store):
        def register_script(self, script):
            async def run(keys, args):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if isinstance(swallowed, Exception):
                        raise swallowed from None
                return swallowed

            return run

    run = SharedScript(Wrapping(), "return 1", "things", 3600)
    task = asyncio.create_task(run([], []))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not run.away
