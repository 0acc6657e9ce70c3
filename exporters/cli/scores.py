"""Commands that score a predictor: ``evaluate`` it, and draw the ``report`` of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporters.cli.options import CurvesOption, HiddenOption, failed, writing
from exporters.faults import CurvesFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from exporters.replay.evaluate import Evaluation


def evaluate(
    curves: CurvesOption,
    model: Annotated[Path, typer.Option(help="The model folder.")],
    json_out: Annotated[Path, typer.Option("--json", help="JSON file to write.")],
    hidden_states: HiddenOption = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write, with plots.")] = None,
) -> None:
    """Score a predictor: allocate by its curves, at every mean budget, and compare with uniform and both oracles."""
    from exporters.measure.curves import read_curves
    from exporters.measure.hidden_states import read_hidden_states
    from exporters.replay.evaluate import evaluate_folder

    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        evaluation = evaluate_folder(model, measured, states)
    except (CurvesFileError, ValueError) as error:
        raise failed(error) from None
    with writing(json_out):
        json_out.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n")
    if report is not None:
        _write_report(report, evaluation)
    right = evaluation.difficulty_accuracy
    classes = "" if right is None else f", difficulty right {right:.1%}"
    use = "" if evaluation.used_pearson is None else f", of use {evaluation.used_pearson:.3f}"
    typer.echo(f"{evaluation.queries} questions, Pearson r = {evaluation.pearson:.3f}{use}{classes}")
    typer.echo(f"points over uniform at equal {evaluation.basis} tokens:")
    for at in evaluation.budgets:
        gains = "  ".join(f"{name} {100 * scored.gain:+5.1f}" for name, scored in at.policies.items())
        spent = at.uniform_used_tokens_per_query
        used = "" if spent is None else f" (uses {spent:.1f})"
        typer.echo(f"{at.tokens_per_query:5} tokens{used}: uniform {at.uniform:5.1%}  {gains}")


def report(
    evaluation: Annotated[Path, typer.Argument(help="What evaluate wrote with --json.")],
    out: Annotated[Path, typer.Option(help="The HTML report to write.")],
) -> None:
    """Draw the report of an evaluation: accuracy and gain against budget, the oracle's gap, reliability."""
    from exporters.replay.evaluate import Evaluation

    try:
        found = Evaluation.from_json(json.loads(evaluation.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise failed(ValueError(f"{evaluation}: not an evaluation: {error!r}")) from None
    _write_report(out, found)
    typer.echo(f"report in {out}")


def _write_report(out: Path, evaluation: Evaluation) -> None:
    from exporters.replay.report import write_report  # matplotlib is needed by reports only

    with writing(out):
        write_report(out, evaluation)


def simulate(
    curves: CurvesOption,
    model: Annotated[
        Path | None, typer.Option(help="Predictor of the curves; without one, the measured curves are used.")
    ] = None,
    hidden_states: HiddenOption = None,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 10_000,
    arrivals: Annotated[
        str, typer.Option(help="poisson, bursts, or a file with a time in seconds a line.")
    ] = "poisson",
    rate: Annotated[float, typer.Option(min=0.001, help="Requests a second.")] = 50.0,
    order: Annotated[str, typer.Option(help="shuffled, easy-first or hard-first.")] = "shuffled",
    policy: Annotated[str, typer.Option(help="price, or with windows: uniform, greedy, envelope, exact.")] = "price",
    tokens_per_query: Annotated[int, typer.Option(min=1, help="Mean budget.")] = 64,
    tokens_per_second: Annotated[float, typer.Option(min=0, help="A budget a second instead of a mean budget.")] = 0.0,
    window_size: Annotated[int, typer.Option(min=1, help="Requests that close a window.")] = 32,
    window_ms: Annotated[float, typer.Option(min=0, help="Age of a window, in ms, that closes it.")] = 20.0,
    replicas: Annotated[int, typer.Option(min=1, help="Schedulers that share traffic and budget.")] = 1,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of predictions that fail.")] = 0.0,
    prediction_ms: Annotated[float, typer.Option(min=0, help="Time of a prediction.")] = 5.0,
    seconds_per_token: Annotated[float, typer.Option(min=0, help="The backend's time per token.")] = 0.02,
    json_out: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write, with sweeps and plots.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Replay measured curves through the scheduler's decisions: gain, waits and spend under any traffic."""
    import time

    import numpy as np

    from exporters.measure.curves import read_curves
    from exporters.measure.hidden_states import read_hidden_states
    from exporters.replay import simulation
    from exporters.replay.evaluate import Predicted, predictions
    from predictor_service.model import LoadedModel
    from scheduler_service.allocation import POLICIES

    try:
        if policy not in ("price", *POLICIES):
            raise ValueError(f"--policy: {policy!r} is none of price, {', '.join(POLICIES)}")
        measured = read_curves(curves)
        predicted = Predicted(measured.accuracy, measured.used)
        if model is not None:
            states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
            predicted = predictions(LoadedModel(model), measured, states)
        rng = np.random.default_rng(seed)
        times = _arrivals(arrivals, requests, rate, rng)
        asked = simulation.ask(measured.accuracy, len(times), order, rng)
        scenario = simulation.Scenario(
            policy=policy, tokens_per_query=tokens_per_query, tokens_per_second=tokens_per_second,
            window_size=window_size, window_seconds=window_ms / 1000, replicas=replicas, faults=faults,
            prediction_seconds=prediction_ms / 1000, seconds_per_token=seconds_per_token,
        )  # fmt: skip
        started = time.perf_counter()
        result = simulation.simulate(predicted, measured, simulation.Traffic(times, asked), scenario, seed=seed)
        took = time.perf_counter() - started
    except (CurvesFileError, ValueError, OSError) as error:
        raise failed(error) from None
    if json_out is not None:
        with writing(json_out):
            json_out.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    if report is not None:
        from exporters.replay.simulation_report import write_report

        with writing(report):
            write_report(report, predicted, measured, scenario, result)
    typer.echo(
        f"{result.requests:,} requests in {took:.1f} s: {result.accuracy:.1%} right, uniform {result.uniform:.1%}, "
        f"{100 * result.gain:+.1f} points; {result.used_tokens_per_query:.1f} tokens used a query "
        f"(uniform {result.uniform_used_tokens_per_query:.1f}), "
        f"{result.spend:.1%} of the grant; window {result.mean_window:.1f}, wait {1000 * result.mean_wait:.1f} ms, "
        f"p99 {1000 * result.p99_wait:.1f} ms; "
        f"coverage {result.coverage:.1%}"
    )


def _arrivals(kind: str, count: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    import numpy as np

    from exporters.replay import simulation

    if kind in ("poisson", "bursts"):
        return (simulation.poisson if kind == "poisson" else simulation.bursts)(count, rate, rng)
    try:
        return np.loadtxt(kind, dtype=np.float64, ndmin=1)[:count]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--arrivals: {kind!r} is neither poisson nor bursts nor a file with a time a line: {error}"
        ) from None
