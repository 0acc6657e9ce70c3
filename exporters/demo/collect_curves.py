"""Measure the demo model's curves: ``python -m exporters.demo.collect_curves --split curves --out FILE.parquet``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer

from exporters.collect import Measured, Plan, collect
from exporters.demo.tasks import Task, is_right, split_tasks
from exporters.questions import Question
from scheduler_service.backends.embedded import EmbeddedBackend
from scheduler_service.backends.gguf_files import ADAPTER
from scheduler_service.templates import TEMPLATES


def questions_of(split: str, tasks: list[Task]) -> list[Question]:
    """Number the tasks of a split as questions to measure."""
    return [Question(f"{split}_{at}", task.question, task.answer, task.family) for at, task in enumerate(tasks)]


def main(out: Path, split: str = "curves", limit: int = 0, adapter: Path = ADAPTER) -> None:
    """Measure a split (``curves`` or ``test``) with the embedded model."""
    tasks = getattr(split_tasks(), split)
    questions = questions_of(split, tasks[: limit or None])

    async def run() -> list[Measured]:
        backend = EmbeddedBackend(adapter=adapter)
        await backend.start()
        try:
            with typer.progressbar(length=len(questions), label=f"measuring {split}") as bar:
                return await collect(
                    backend, Plan(TEMPLATES["demo"]), questions, is_right, out, on_measured=lambda _: bar.update(1)
                )
        finally:
            await backend.close()

    measured = asyncio.run(run())
    for family in sorted({item.group for item in measured}):
        group = [item for item in measured if item.group == family]
        curve = [sum(item.accuracy_at_window[window] for item in group) / len(group) for window in range(16)]
        tokens = sum(item.reasoning_tokens for item in group) / len(group)
        typer.echo(f"{family:10} {len(group):4}  {tokens:6.1f} tokens  " + " ".join(f"{100 * a:3.0f}" for a in curve))


if __name__ == "__main__":
    typer.run(main)
