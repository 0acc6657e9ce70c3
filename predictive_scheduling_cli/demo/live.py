"""What a person watches while the demo runs: the last questions, and how far it is."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from predictive_scheduling_cli.demo.runner import Result

_ROWS = 10


class LiveView:
    """A table of the latest results over a progress bar; a context manager."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        """Show ``total`` questions under ``title``."""
        self._title = title
        self._latest: deque[Result] = deque(maxlen=_ROWS)
        self._right = 0
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task(title, total=total)
        self._live = Live(self._render(), console=console, refresh_per_second=8, transient=True)

    def add(self, result: Result) -> None:
        """Show one more result."""
        self._done += 1
        self._right += result.right
        self._latest.append(result)
        description = f"{self._title}: {self._right}/{self._done} right"
        self._progress.update(self._task, advance=1, description=description)
        self._live.update(self._render())

    def _render(self) -> Group:
        table = Table("question", "budget", "used", "saved", "answer", "", expand=True)
        for result in self._latest:
            table.add_row(
                result.task.question[:56],
                str(result.allocation.reasoning_budget_tokens),
                str(result.usage.reasoning_tokens),
                str(result.usage.tokens_saved_vs_cap),
                result.answer[:12],
                "[green]right[/green]" if result.right else "[red]wrong[/red]",
            )
        return Group(table, self._progress)

    def __enter__(self) -> Self:
        """Start to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to draw."""
        self._live.stop()
