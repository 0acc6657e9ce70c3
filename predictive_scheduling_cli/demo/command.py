"""``predictive-scheduling demo``: start everything, ask everything, say what came of it."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def demo(
    questions: Annotated[int, typer.Option(min=32, max=108, help="How many questions to ask.")] = 108,
    load: Annotated[
        bool, typer.Option("--load", help="Let the load rise to twice what this machine can do, and fall again.")
    ] = False,
    long: Annotated[bool, typer.Option("--long", help="Ask what takes 100 to 1,000 tokens of reasoning.")] = False,
    tokens: Annotated[
        int | None, typer.Option(min=16, max=1024, help="The tight budget: mean reasoning tokens; 32, long 256.")
    ] = None,
    ample: Annotated[
        int | None, typer.Option(min=0, max=1024, help="A second, ample budget; 96, long none (0).")
    ] = None,
    out: Annotated[
        Path, typer.Option(file_okay=False, writable=True, help="Folder for the summary, the report and the telemetry.")
    ] = Path("out/demo"),
    engine: Annotated[
        str,
        typer.Option(help="The LLM server: embedded, or vllm of the environment that 'make demo ENGINE=vllm' makes."),
    ] = "embedded",
    environment: Annotated[Path, typer.Option(help="That virtual environment.")] = Path(".venv-vllm"),
    learn: Annotated[
        bool, typer.Option("--learn", help="Begin without a predictor, and let one make itself from the traffic.")
    ] = False,
    telemetry: Annotated[bool, typer.Option(help="Serve the status page meanwhile, and keep pictures of it.")] = False,
) -> None:
    """See the gain: real questions to a real LLM on this machine, uniform and scheduled, at the same total budget.

    Starts a predictor, a scheduler and the embedded LLM; needs no GPU and no network. Takes a few minutes. With --load
    questions come at a rate instead of all at once, and budgets follow it so that a latency objective holds.
    """
    console = Console(highlight=False)
    if learn and (load or long or engine != "embedded"):
        raise typer.BadParameter("asks the short questions of the embedded LLM", param_hint="--learn")
    if learn:
        _learn(out, console)
        return
    from predictive_scheduling_cli.demo.engines import EMBEDDED, EngineFailedError, vllm_engine  # the extra "demo"
    from predictive_scheduling_cli.demo.questions import question_set
    from predictive_scheduling_cli.demo.run import run_demo

    if engine not in ("embedded", "vllm"):
        raise typer.BadParameter("must be embedded or vllm", param_hint="--engine")
    if engine == "vllm" and long:
        raise typer.BadParameter("vllm serves the short questions' model", param_hint="--long")
    if load and (engine != "embedded" or long):
        raise typer.BadParameter("asks the short questions of the embedded LLM", param_hint="--load")
    out.mkdir(parents=True, exist_ok=True)
    if load:
        _show_load(out, console, telemetry=telemetry)
        return
    known = question_set(long=long)
    asked = replace(known, tasks=known.tasks[:questions])
    tight, second = (own if given is None else given for own, given in ((known.tight, tokens), (known.ample, ample)))
    for name, wanted in (("tokens", tight), ("ample", second)):
        if wanted > known.cap:
            raise typer.BadParameter(f"at most {known.cap} with these questions", param_hint=f"--{name}")
    budgets = [tight, second] if second else [tight]
    with tempfile.TemporaryDirectory(prefix="predictive-scheduling-") as sockets:

        async def run() -> tuple[dict[str, Any], list[Path]]:
            async with AsyncExitStack() as closing:
                chosen = EMBEDDED
                if engine == "vllm":
                    console.print("[dim]starting vLLM, which takes about a minute[/dim]")
                    log = out / "vllm.log"
                    chosen = await closing.enter_async_context(vllm_engine(environment, Path(sockets), log))
                return await run_demo(asked, budgets, out, Path(sockets), console, telemetry=telemetry, engine=chosen)

        try:
            summary, written = asyncio.run(run())
        except EngineFailedError as error:
            typer.secho(str(error), err=True, fg="red")
            raise typer.Exit(1) from None
    _print(summary, console)
    console.print(f"\nwritten to {out}: {', '.join(path.name for path in written)}", soft_wrap=True)


def _show_load(out: Path, console: Console, *, telemetry: bool) -> None:
    from predictive_scheduling_cli.demo.engines import EngineFailedError
    from predictive_scheduling_cli.demo.load_run import run_load_demo

    with tempfile.TemporaryDirectory(prefix="predictive-scheduling-") as sockets:
        try:
            written = asyncio.run(run_load_demo(out, Path(sockets), console, telemetry=telemetry))
        except EngineFailedError as error:
            typer.secho(str(error), err=True, fg="red")
            raise typer.Exit(1) from None
    console.print(f"\nwritten to {out}: {written.name}", soft_wrap=True)


def _learn(out: Path, console: Console) -> None:
    from predictive_scheduling_cli.demo.learning import run_learning_demo  # the extra "train"

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="predictive-scheduling-") as sockets:
        asyncio.run(run_learning_demo(out, Path(sockets), console))
    console.print(f"\nwritten to {out}: learning.json; models and cards in {out / 'learning/models'}", soft_wrap=True)


def _print(summary: dict[str, Any], console: Console) -> None:
    from predictive_scheduling_cli.demo.summary import POLICY_LABELS

    table = Table(title="same questions, same model, same grant of tokens")
    for name in ("mean", "policy", "right", "budgets", "reserved", "used", "p50", "p99"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for run in [summary, *([summary["ample"]] if "ample" in summary else [])]:
        for policy, figures in run["policies"].items():
            table.add_row(
                str(run["tokens_per_query"]),
                POLICY_LABELS[policy],
                f"{figures['accuracy']:.1%}",
                f"{figures['budget_tokens']:,}",
                f"{figures['reserved_tokens']:,}",
                f"{figures['reasoning_tokens']:,}",
                f"{figures['p50_ms'] / 1000:.0f} s",
                f"{figures['p99_ms'] / 1000:.0f} s",
            )
    console.print(table)
    scheduled = summary["policies"]["envelope"]
    over_used, over_reserved = (
        100 * (scheduled["accuracy"] - summary["policies"][other]["accuracy"])
        for other in ("uniform_at_equal_use", "uniform")
    )
    granted = summary["queries"] * summary["tokens_per_query"]
    saved = f"{summary['tokens_saved_vs_cap']:,} tokens saved against the cap"
    console.print(
        f"[bold]{over_used:+.1f} points at equal tokens[/bold] used ({scheduled['reasoning_tokens'] / granted:.0%} of "
        f"the grant), {over_reserved:+.1f} over the same budget for all; {saved}, "
        f"{summary['tokens_saved_at_equal_accuracy']:,.0f} at equal expected accuracy; prediction "
        f"{summary['prediction_ms_p50']:.1f} ms (median window); coverage {summary['coverage']:.0%}"
    )
    if hidden := summary["policies"].get("hidden"):
        over = 100 * (hidden["accuracy"] - summary["policies"]["uniform_at_equal_use"]["accuracy"])
        wasted = summary.get("wasted_tokens_p50", "not reported")
        console.print(
            f"[bold]{over:+.1f} points[/bold] by the hidden states of {summary['engine']} "
            f"({hidden['reasoning_tokens'] / granted:.0%} of the grant used); tokens generated and not read, at the "
            f"median: {wasted}"
        )
