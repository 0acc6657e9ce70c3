"""The demo model's prompt format, in one place: training writes it, and the scheduler's template mirrors it."""

from __future__ import annotations

from exporters.demo.tasks import Task

THINK_END = "Final answer:"


def prompt_of(question: str) -> str:
    """Return the prompt that the tuned demo model was trained to continue."""
    return f"Question: {question}\n"


def completion_of(task: Task, steps: str | None = None) -> str:
    """Return what the model should write after the prompt: steps, the end of thinking, the answer, a blank line."""
    worked = task.steps if steps is None else steps
    return f"{worked}\n{THINK_END} {task.answer}\n\n"
