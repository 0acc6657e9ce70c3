"""``predictive-scheduling top``: a running scheduler, live, in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import grpc
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from predictive_scheduling.client import SchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.calls import DEFAULT_ADDRESS, Address, fail

_BLOCKS = " ▁▂▃▄▅▆▇█"
_RECENT = 72


def top(
    scheduler: Address = DEFAULT_ADDRESS,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one status, and end.")] = False,
    token: Annotated[
        str, typer.Option(envvar="SCHEDULER_TOKEN", help="Bearer token, if the scheduler needs one.")
    ] = "",
) -> None:
    """Watch a running scheduler: rates, the budget's bank, the price, coverage, savings, slow stages."""
    console = Console(markup=False, emoji=False)  # names and reasons are anybody's
    with SchedulerClient(scheduler, timeout=5.0, token=token) as client:
        try:
            if once:
                console.print(view(client.status(_RECENT)))
                return
            with Live(view(client.status(_RECENT)), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(interval)
                    live.update(view(client.status(_RECENT)), refresh=True)
        except grpc.RpcError as error:
            fail(error, scheduler)
        except KeyboardInterrupt:
            return


def view(status: pb.GetStatusResponse) -> RenderableType:
    """Return a status as panels for the terminal."""
    title = f"{status.model} on {status.backend}, policy {status.policy}, up {span(status.uptime_seconds)}"
    figures = Table.grid(padding=(0, 3), expand=True)
    for _ in range(4):
        figures.add_column()
    cells = [_figure(name, value, style) for name, value, style in _figures(status)]
    for at in range(0, len(cells), 4):
        figures.add_row(*cells[at : at + 4])
    parts: list[RenderableType] = [Panel(figures, title=Text(title), subtitle=f"last {status.period_seconds:.0f} s")]
    if status.recent:
        parts.append(Panel(bars(status.recent), title="budgets of the last requests", subtitle="newest at the right"))
    parts.append(_tables(status))
    return Group(*parts)


def _figures(status: pb.GetStatusResponse) -> list[tuple[str, str, str]]:
    """The rows of the upper panel: name, value, style."""
    gain = 100 * (status.mean_expected_accuracy - status.mean_baseline_expected_accuracy)
    budget, benefit = status.budget, status.net_benefit_at_equal_accuracy_seconds
    covered = "red" if status.coverage < 0.95 and status.requests_per_second else ""
    return [
        ("requests a second", f"{status.requests_per_second:.1f}", ""),
        ("coverage", f"{status.coverage:.1%}", covered),
        ("expected gain", f"{gain:+.1f} points", "green" if gain > 0 else ""),
        ("in flight", f"{status.pending_requests} of {status.max_pending_requests}", ""),
        ("mean budget", f"{status.mean_budget_tokens:.0f} (uniform {status.mean_baseline_tokens:.0f})", ""),
        ("mean used", f"{status.mean_used_tokens:.0f} tokens", ""),
        ("bank", f"{budget.bank_tokens:,} of {budget.bank_limit_tokens:,}", "red" if budget.bank_tokens < 0 else ""),
        ("price", f"{status.price:.3g} a token" if status.price else "none (windows)", ""),
        ("saved at equal accuracy", f"{status.tokens_saved_at_equal_accuracy:.1f} tokens", ""),
        ("saved against the cap", f"{status.tokens_saved_vs_cap:.1f} tokens", ""),
        ("net benefit", span(benefit), "green" if benefit >= 0 else "red"),
        ("negative for", f"{status.negative_net_benefit:.1%}", ""),
    ]


def _figure(name: str, value: str, style: str) -> Text:
    return Text.assemble((f"{name}\n", "dim"), (value, f"bold {style}"))


def bars(recent: Sequence[pb.RequestRecord], height: int = 4) -> Text:
    """Draw the budgets of requests as columns, the oldest at the left; green gains over uniform, red gives away."""
    records = list(reversed(recent))
    most = max(1, *(max(r.allocation.reasoning_budget_tokens, r.allocation.baseline_tokens) for r in records))
    lines = []
    for row in range(height - 1, -1, -1):
        line = Text(f"{most * (row + 1) // height:>5} ", style="dim")
        for record in records:
            filled = record.allocation.reasoning_budget_tokens / most * height - row
            line.append(_BLOCKS[max(0, min(8, round(8 * filled)))], _colour(record.allocation))
        lines.append(line)
    return Text("\n").join(lines)


def _colour(given: pb.Allocation) -> str:
    if given.expected_accuracy > given.baseline_expected_accuracy + 1e-6:
        return "green"
    return "red" if given.reasoning_budget_tokens < given.baseline_tokens else "blue"


def _tables(status: pb.GetStatusResponse) -> RenderableType:
    stages = Table("stage", "p50", "p99", title="where the time goes", title_justify="left")
    for stage in status.stages:
        stages.add_row(stage.stage.replace("_", " "), span(stage.p50_seconds), span(stage.p99_seconds))
    predictors = Table("predictor", "outcomes", "expected", "scored", "reliability", title="outcomes")
    for one in status.predictors:
        expected, scored = f"{one.mean_expected_accuracy:.1%}", f"{one.mean_score:.1%}"
        predictors.add_row(one.predictor, str(one.outcomes), expected, scored, f"{one.reliability:.2f}")
    faults = Table("what", "why", "requests", title="since the start")
    for what, reasons in (("refused", status.rejected_requests), ("failed", status.failed_requests)):
        for why, count in sorted(reasons.items()):
            faults.add_row(what, why, str(count))
    side = Table.grid(padding=(0, 2))
    side.add_row(stages, Group(*(table for table in (predictors, faults) if table.row_count)))
    return side


def span(seconds: float) -> str:
    """A duration in the unit that suits it."""
    size = abs(seconds)
    if size >= 3600:
        return f"{seconds / 3600:.1f} h"
    if size >= 120:
        return f"{seconds / 60:.0f} min"
    if size >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.1f} ms" if size >= 1e-3 else f"{1e6 * seconds:.0f} µs"
