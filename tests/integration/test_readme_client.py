"""The README's client example, run against a scheduler."""

import asyncio
import re
import sys
from pathlib import Path

from tests.integration.running import scheduler
from tests.integration.test_scheduler import thinker
from tests.standins.backend import ScriptedBackend


async def test_the_client_example_runs():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    async with scheduler(ScriptedBackend(thinker)) as address:
        code = block[1].replace("127.0.0.1:50051", address)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"budget 64 uniform 64" in out
    assert b"42" in out
    assert b"used 44 saved 84" in out
