"""The client examples of the README, of docs/client.md and of examples/, run against a scheduler."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.running import scheduler
from tests.integration.test_scheduler import thinker
from tests.programs import needs
from tests.standins.backend import ScriptedBackend

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:50051"


def examples(page):
    """The Python blocks of a page, each under the heading that it stands below."""
    heading, found = "", []
    for match in re.finditer(
        r"^#+ ([^\n]*)$|^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    ):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


async def run(*command, **options):
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, **options
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def test_the_readmes_example_runs():
    ((_, code),) = examples("README.md")
    async with scheduler(ScriptedBackend(thinker)) as address:
        out = await run(sys.executable, "-c", code.replace(ADDRESS, address))
    assert "budget 64 uniform 64" in out
    assert "42" in out
    assert "used 44 saved 84" in out


SHOWN = {
    "Blocking": ["answer 42", "used 44 of 64", "why "],
    "asyncio": ["What is 7 * 6? "],
    "Streaming": ["budget 64", "42", "finished FINISH_REASON_"],
    "Cancelling": ["still reserved 0"],
    "Deadlines": ["in time, with 44 tokens"],
    "Errors, by code": ["INVALID_ARGUMENT job.prompt", "job.prompt | "],
    "Telling how it went": ["reported"],
}


def test_every_example_is_checked():
    assert {heading for heading, _ in examples("docs/client.md")} == set(SHOWN)


def test_the_examples_are_typed_as_callers_will_see_them(tmp_path):
    files = []
    for at, (_, code) in enumerate(examples("docs/client.md")):
        files.append(tmp_path / f"example_{at}.py")
        files[-1].write_text(code)
    options = ["--strict", "--ignore-missing-imports", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("heading", SHOWN)
async def test_the_examples_of_the_clients_page_run(heading):
    async with scheduler(ScriptedBackend(thinker, token_seconds=0.001), policy="uniform") as address:
        codes = [code for above, code in examples("docs/client.md") if above == heading]
        # Two seconds are a deadline to read about, not one for a busy machine.
        codes = [code.replace(ADDRESS, address).replace("timeout=2.0", "timeout=60.0") for code in codes]
        shown = [await run(sys.executable, "-c", code) for code in codes]
    for expected in SHOWN[heading]:
        assert expected in "".join(shown)


@needs("npm")
async def test_the_node_example_runs(tmp_path):
    for folder in ("protos", "third_party/protos", "examples/node"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("node_modules"))
    example = tmp_path / "examples/node"
    try:
        await run("npm", "ci", "--no-audit", "--no-fund", cwd=example)
    except AssertionError as error:
        pytest.skip(f"its packages cannot be had here: {error}")
    async with scheduler(ScriptedBackend(thinker)) as address:
        out = await run("node", "generate.mjs", address, "What is 6 * 7?", cwd=example)
    assert "budget 64" in out
    assert "42" in out
    assert "used 44 FINISH_REASON_" in out
