"""Make docs/screens: the demo's report and status page as ``make demo OTEL=1`` left them, and ``top`` while it runs.

Needs chromium. The demo's LLM answers sixty questions for ``top``.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.callers import at_once
from benchmarks.processes import service
from exporters.demo.tasks import split_tasks
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.top import view

ROOT = Path(__file__).resolve().parents[1]
SCREENS = ROOT / "docs/screens"
_QUESTIONS, _CALLERS = 60, 12


async def top() -> str:
    """What ``top`` shows after some questions, as an SVG."""
    questions = [task.question for task in split_tasks().test[:_QUESTIONS]]
    async with service("predictor") as predictor:
        flags = (
            "--backend=embedded", "--template=demo", f"--predictor={predictor.address}", "--predictor-timeout-ms=5000",
            "--tokens-per-query=32", "--cap-tokens=128", "--answer-tokens=12", "--temperature=0",
        )  # fmt: skip
        async with service("scheduler", *flags) as running, AsyncSchedulerClient(running.address) as client:

            async def ask(at: int) -> None:
                await client.complete(questions[at], tenant=("search", "tutor", "mail")[at % 3])

            await at_once(_QUESTIONS, _CALLERS, ask)
            status = await client.status(recent=72)
    console = Console(record=True, width=110, file=sys.stderr)
    console.print(view(status))
    drawn = console.export_svg(title="predictive-scheduling top")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # fonts from somebody's CDN


def photograph(page: Path, path: Path, height: int) -> None:
    """Take a picture of the upper part of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("chromium: not installed")
    size = f"--window-size=1100,{height}"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            size,
            f"--screenshot={path}",
            str(page),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Make them all."""
    SCREENS.mkdir(exist_ok=True)
    photograph(ROOT / "out/demo/report.html", SCREENS / "report.png", 900)
    photograph(ROOT / "out/demo/status-envelope-32.html", SCREENS / "status.png", 900)
    (SCREENS / "top.svg").write_text(asyncio.run(top()))


if __name__ == "__main__":
    main()
