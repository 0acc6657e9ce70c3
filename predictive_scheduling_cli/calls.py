"""The commands that call a running scheduler."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from predictive_scheduling.client import SchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb

Address = Annotated[
    str, typer.Option("--scheduler", envvar="SCHEDULER_ADDRESS", help="Address of a running scheduler, host:port.")
]
DEFAULT_ADDRESS = "127.0.0.1:50051"
_MOST = 2**32 - 1  # of the proto's numbers


def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    scheduler: Address = DEFAULT_ADDRESS,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, max=_MOST, help="Largest reasoning budget, in tokens.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Deadline, in seconds.")] = 120.0,
) -> None:
    """Generate one answer; show its budget, the tokens that it used, and those that it saved."""
    fields = {} if max_tokens is None else {"max_reasoning_tokens": max_tokens}
    console, text = _console(stderr=True), _console()
    asked = _utf8(lambda: sys.stdin.read() if prompt == "-" else prompt, "prompt")
    with SchedulerClient(scheduler, timeout=timeout) as client:
        try:
            for event in client.generate(asked, **fields):
                _show(event, console, text)
        except grpc.RpcError as error:
            fail(error, scheduler)


def allocate(
    prompts: Annotated[Path, typer.Argument(help="A text file with one prompt a line; - reads standard input.")],
    scheduler: Address = DEFAULT_ADDRESS,
    tokens: Annotated[
        int, typer.Option(min=0, max=_MOST, help="Mean reasoning tokens a query; 0 for the server's setting.")
    ] = 0,
    policy: Annotated[str, typer.Option(help="uniform, greedy, envelope or exact; empty for the server's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show how a window of prompts would share the budget. Nothing is generated or spent."""
    text = _utf8(lambda: sys.stdin.read() if str(prompts) == "-" else prompts.read_text(), str(prompts))
    items = [pb.PlanItem(prompt=line) for line in text.split("\n") if line.strip()]  # U+2028 ends no line of a file
    with SchedulerClient(scheduler, timeout=60.0) as client:
        try:
            request = pb.AllocateRequest(items=items, tokens_per_query=tokens, policy=policy)
            plan = client.stub.Allocate(request, timeout=60.0)
        except grpc.RpcError as error:
            fail(error, scheduler)
    if as_json:
        typer.echo(json.dumps(MessageToDict(plan, preserving_proto_field_name=True), indent=1))
        return
    table = Table("prompt", "budget", "uniform", "expected", "with uniform", "prediction")
    for item, allocation in zip(items, plan.allocations, strict=True):
        table.add_row(
            item.prompt[:60],
            str(allocation.reasoning_budget_tokens),
            str(allocation.baseline_tokens),
            f"{allocation.expected_accuracy:.0%}",
            f"{allocation.baseline_expected_accuracy:.0%}",
            _word(pb.PredictionOutcome.Name(allocation.prediction_outcome), "PREDICTION_OUTCOME_"),
        )
    console = _console()
    console.print(table)
    console.print(
        f"{plan.planned_tokens} of {plan.total_tokens} tokens planned; uniform would need "
        f"{plan.tokens_saved_at_equal_accuracy:.0f} more a query for the same expected accuracy"
    )


def explain(
    request_id: Annotated[str, typer.Argument(help="The request's id, as its allocation gives it.")],
    scheduler: Address = DEFAULT_ADDRESS,
    token: Annotated[
        str, typer.Option(envvar="SCHEDULER_TOKEN", help="Bearer token, if the scheduler needs one.")
    ] = "",
) -> None:
    """Show why one of the last requests got its budget, and how it ended."""
    wanted = _utf8(lambda: request_id, "request_id")
    with SchedulerClient(scheduler, timeout=10.0, token=token) as client:
        try:
            record = client.find(wanted)
        except grpc.RpcError as error:
            fail(error, scheduler)
    given, used = record.allocation, record.usage
    table = Table.grid(padding=(0, 2))
    table.add_row("why", given.explanation)
    table.add_row("state", _word(pb.RequestState.Name(record.state), "REQUEST_STATE_") + f" {record.error}".rstrip())
    table.add_row("policy", f"{given.policy}, window {given.window} of {given.window_size}, price {given.price:.3g}")
    table.add_row("expected", f"{given.expected_accuracy:.1%}, with uniform {given.baseline_expected_accuracy:.1%}")
    table.add_row("open to it", f"{given.floor_tokens} to {given.cap_tokens} tokens")
    outcome = _word(pb.PredictionOutcome.Name(given.prediction_outcome), "PREDICTION_OUTCOME_")
    table.add_row("prediction", f"{outcome} {given.predictor}".rstrip())
    table.add_row("curve", " ".join(f"{accuracy:.2f}" for accuracy in given.curve) or "none")
    if record.HasField("usage"):
        table.add_row("used", f"{used.reasoning_tokens} reasoning, {used.answer_tokens} answer tokens")
        table.add_row("net benefit", f"{used.net_benefit_at_equal_accuracy_seconds * 1000:.1f} ms at equal accuracy")
    if given.trace_id:
        table.add_row("trace", given.trace_id)
    _console().print(table)


def _console(*, stderr: bool = False) -> Console:
    """A console that shows brackets and colons as they are: prompts, answers and reasons are anybody's."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _utf8(read: Callable[[], str], name: str) -> str:
    """Return what ``read`` returns. Raises typer.BadParameter where it cannot be read, or is none that can be sent."""
    try:
        text = read()
        text.encode()
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(f"cannot be read: {error}", param_hint=name) from None
    return text


def _show(event: pb.GenerateResponse, console: Console, text: Console) -> None:
    match event.WhichOneof("event"):
        case "allocation":
            given = event.allocation
            console.print(
                f"{given.reasoning_budget_tokens} reasoning tokens (uniform: {given.baseline_tokens}) by "
                f"{given.policy}, expected accuracy {given.expected_accuracy:.0%}, prediction "
                f"{_word(pb.PredictionOutcome.Name(given.prediction_outcome), 'PREDICTION_OUTCOME_')}\n"
                f"why: {given.explanation}",
                style="dim",
            )
        case "text":
            reasoning = event.text.kind == pb.TEXT_KIND_REASONING
            text.print(event.text.text, end="", style="dim" if reasoning else "bold", soft_wrap=True)
        case "usage":
            used = event.usage
            text.print()
            console.print(
                f"{used.reasoning_tokens} reasoning + {used.answer_tokens} answer tokens, "
                f"{used.tokens_saved_vs_cap} saved against the cap, {used.total_seconds * 1000:.0f} ms, finish: "
                f"{_word(pb.FinishReason.Name(used.finish_reason), 'FINISH_REASON_')}",
                style="dim",
            )


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def fail(error: grpc.RpcError, address: str) -> NoReturn:
    """Print the call's status and details, and end the command with an error."""
    code, details = error.code(), error.details()
    hint = f" (is a scheduler running at {address}?)" if code is grpc.StatusCode.UNAVAILABLE else ""
    typer.secho(f"{code.name}: {details}{hint}", err=True, fg="red")
    raise typer.Exit(1)
