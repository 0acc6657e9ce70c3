"""A scheduler around a scripted backend, as a process: ``POLICY FRONT`` in, its address out; ends with its input."""

import asyncio
import sys
import threading

from tests.integration.running import scheduler
from tests.standins.backend import ScriptedBackend


def script(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 30


async def main(policy, front):
    """Serve until standard input is closed."""
    options = {"http_listen": front, "policy": policy, "window_ms": 1.0, "cap_tokens": 128}
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    async with scheduler(ScriptedBackend(script), **options) as server:
        sys.stdout.write(server + "\n")
        sys.stdout.flush()

        def wait():
            sys.stdin.read()
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=wait).start()
        await over.wait()


asyncio.run(main(*sys.argv[1:]))
