"""Questions that were asked of a scheduler, and what became of them, without one."""

from __future__ import annotations

from exporters.demo.tasks import Task
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.load import Asked
from predictive_scheduling_cli.demo.runner import Result


def answered(
    at: float, seconds: float, *, family: str = "sum", right: bool = True, tokens: int = 40, price: float = 0.0
) -> Asked:
    """A question that came ``at`` seconds and was answered after ``seconds``, with so many tokens of reasoning."""
    task = Task(family, f"What is it at {at}?", "", "1")
    allocation = pb.Allocation(expected_tokens=float(tokens), price=price)
    return Asked(at, task, Result(task, "1", right, allocation, pb.Usage(reasoning_tokens=tokens), seconds))


def refused(at: float, *, family: str = "sum") -> Asked:
    """A question that was refused."""
    return Asked(at, Task(family, f"What is it at {at}?", "", "1"), None)
