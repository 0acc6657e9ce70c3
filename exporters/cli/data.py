"""Commands that make data: ``collect`` curves, read ``features``, and ``merge`` the parts of a sharded run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporters.cli.options import QuestionsOption, ShardOption, TemplateOption, failed
from exporters.faults import CurvesFileError
from predictive_scheduling.budget_points import check_points, evenly_spaced


def budget_points(budgets: str, windows: int) -> tuple[int, ...]:
    """The points that ``--budgets`` names, or ``windows`` of them 16 tokens apart. Raises ValueError for others."""
    if not budgets:
        return evenly_spaced(windows, 16)
    try:
        points = tuple(int(part) for part in budgets.split(","))
        check_points(points)
    except ValueError as error:
        raise ValueError(f"--budgets: {error}") from None
    return points


def collect(
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="The curves file to write, or its part with more shards than one.")],
    backend: Annotated[
        str, typer.Option(help="Any that the scheduler has: tgi, vllm, sglang, openai, llama_cpp, embedded.")
    ] = "tgi",
    backend_url: Annotated[str, typer.Option(help="The server's address; not for the embedded one.")] = "",
    template: TemplateOption = "deepseek-r1",
    check: Annotated[
        str,
        typer.Option(
            help="How answers are checked: exact, maths, module:function; agreement or agreement:maths: without labels."
        ),
    ] = "maths",
    samples: Annotated[int, typer.Option(min=1, help="Traces a question.")] = 4,
    budgets: Annotated[
        str, typer.Option(help="Budget points in reasoning tokens, such as 0,256,1024,8192; empty for windows.")
    ] = "",
    windows: Annotated[int, typer.Option(min=1, help="Without budgets: how many points, 16 tokens apart.")] = 16,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a forced answer.")] = 16,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 for greedy.")] = 0.6,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions measured at once.")] = 8,
    settled: Annotated[
        int, typer.Option(min=0, help="Stop forcing once so many answers in a row are the trace's own; 0 for never.")
    ] = 0,
    pilot: Annotated[
        int, typer.Option(min=0, help="Measure so many questions only, and say what all of them will cost.")
    ] = 0,
    backend_model: Annotated[str, typer.Option(help="Model to ask the server for; empty takes its first.")] = "",
    gguf: Annotated[str, typer.Option(help="The embedded LLM's GGUF file; empty for the demo's.")] = "",
    adapter: Annotated[str, typer.Option(help="The embedded LLM's GGUF adapter; empty for the demo's.")] = "",
    adapter_scale: Annotated[float, typer.Option(help="Strength of the embedded LLM's adapter; 0 for none.")] = 1.0,
    shard: ShardOption = "",
) -> None:
    """Measure curves of a model: force an answer at every budget point. A killed run goes on where it was."""
    import asyncio
    import time

    from exporters.measure import collect as collecting
    from exporters.measure.checkers import checker
    from exporters.measure.judging import judge_of
    from exporters.measure.questions import Shard, read_questions
    from scheduler_service.domain import BackendUnavailableError, Sampling
    from scheduler_service.generation.backends import make_backend
    from scheduler_service.generation.templates import TEMPLATES
    from scheduler_service.settings import SchedulerSettings

    async def measure() -> int:
        server = make_backend(settings.backend_configuration)
        await server.start()
        try:
            limits = await server.limits()  # which also asks the server what its model is called
            room = limits.max_total_tokens
            if room and plan.points[-1] + plan.answer_tokens >= room:
                raise ValueError(
                    f"--budgets: {plan.points[-1]} tokens leave no room for a prompt; the server takes {room}"
                )
            began, new = time.monotonic(), list[collecting.Measured]()
            with typer.progressbar(length=pilot or len(wanted), label="measured") as bar:

                def advance(measured: collecting.Measured, rest: collecting.Estimate) -> None:
                    new.append(measured)
                    bar.label = f"measured; left {rest}"
                    bar.update(1)

                found = await collecting.collect(
                    server, plan, wanted, judge, out,
                    concurrency=concurrency, on_measured=advance, pilot=min(pilot, len(wanted)),
                    known_as={
                        "backend-model": limits.model, "check": check, "adapter": adapter,
                        "adapter-scale": f"{adapter_scale:g}",
                    },
                )  # fmt: skip
            if pilot:
                seconds = time.monotonic() - began if new else None  # an earlier run took the time of the others
                typer.echo(str(collecting.estimate(new or found, seconds, len(wanted))))
            return len(found)
        finally:
            await server.close()

    try:
        wanted = Shard.named(shard).of(read_questions(questions))
        judge = judge_of(check, checker)
        points = budget_points(budgets, windows)
        settings = SchedulerSettings(
            backend=backend, backend_url=backend_url, template=template, embedded_model=gguf,
            embedded_adapter=adapter, embedded_adapter_scale=adapter_scale, backend_model=backend_model,
            answer_tokens=answer_tokens, cap_tokens=max(128, points[-1]),
        )  # fmt: skip
        plan = collecting.Plan(
            TEMPLATES[template], points=points, samples=samples, answer_tokens=answer_tokens,
            sampling=Sampling(temperature=temperature), settled=settled,
        )  # fmt: skip
        count = asyncio.run(measure())
    except (CurvesFileError, ValueError, OSError, BackendUnavailableError) as error:
        raise failed(error) from None
    except ExceptionGroup as errors:  # the workers' faults; what they measured is kept
        raise failed(errors.exceptions[0]) from None
    typer.echo(f"{count} questions measured as a pilot" if pilot else f"{count} questions in {out}")


def merge(
    parts: Annotated[list[Path], typer.Argument(help="What the shards wrote: .parquet files, .npz files, or folders.")],
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="The file to write; for folders of hidden states, the folder.")],
) -> None:
    """Merge the parts of a sharded run of collect or features; no question may be lost or doubled."""
    from exporters.measure import merge as merging
    from exporters.measure.questions import read_questions

    try:
        merging.merge(parts, read_questions(questions), out)
    except (CurvesFileError, OSError) as error:
        raise failed(error) from None
    typer.echo(f"{len(parts)} parts in {out}")


def features(
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="Folder for one .npz per layer.")],
    model: Annotated[Path | None, typer.Option(help="The LLM: a GGUF file or a transformers model folder.")] = None,
    layers: Annotated[
        str, typer.Option(help="Layers, such as 8,16; 0 is the embedding; empty for all, of a model.")
    ] = "",
    template: TemplateOption = "deepseek-r1",
    backend: Annotated[str, typer.Option(help="Instead of a model: vllm, a running engine with our connector.")] = "",
    backend_url: Annotated[str, typer.Option(help="The engine's address.")] = "",
    backend_model: Annotated[str, typer.Option(help="Model to ask the engine for; empty takes its first.")] = "",
    reports_listen: Annotated[
        str, typer.Option(help="Where the engine sends states: unix:/path or tcp://ip:port, a destination it allows.")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Questions that the engine computes at once.")] = 8,
    shard: ShardOption = "",
) -> None:
    """Read hidden states of an LLM at each question's last prompt token, for predictors that take them."""
    from exporters.measure.hidden_states import write_layers
    from exporters.measure.questions import Shard, read_questions
    from scheduler_service.domain import BackendUnavailableError
    from scheduler_service.generation.templates import TEMPLATES

    try:
        if (model is None) == (not backend):
            raise ValueError("--model, --backend: give one of them")
        wanted = Shard.named(shard).of(read_questions(questions))
        if layers and not all(layer.isascii() and layer.isdigit() for layer in layers.split(",")):
            raise ValueError(f"--layers: {layers!r} are no numbers with commas between them")
        chosen = [int(layer) for layer in layers.split(",")] if layers else []
        with typer.progressbar(length=len(wanted), label="read") as bar:
            if model is not None:
                from exporters.measure.features import StateReader, read_features  # the extra "train"

                reader = StateReader(model)
                chosen = chosen or list(range(reader.layers + 1))
                states = read_features(reader, TEMPLATES[template], wanted, chosen, lambda: bar.update(1))
            else:
                if not chosen or not reports_listen:
                    raise ValueError("--backend: needs --layers that the engine keeps, and --reports-listen")
                from exporters.cli.engine import states_of_engine

                settings = {"backend": backend, "backend_url": backend_url, "backend_model": backend_model}
                states = states_of_engine(
                    settings, reports_listen, TEMPLATES[template], wanted, chosen, concurrency, lambda: bar.update(1)
                )
        paths = write_layers(out, [question.question_id for question in wanted], chosen, states)
    except (CurvesFileError, ValueError, OSError, BackendUnavailableError) as error:
        raise failed(error) from None
    typer.echo(f"{len(wanted)} questions, {len(paths)} layers in {out}")


def on_ray(
    context: typer.Context,
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="The file to write; of features, the folder.")],
    shards: Annotated[int, typer.Option(min=1, help="Parts that the questions are cut into.")] = 8,
    address: Annotated[str, typer.Option(help="The Ray cluster; auto for this node's, empty starts one here.")] = "",
    cpus: Annotated[float, typer.Option(min=0, help="CPUs of a node that a shard takes.")] = 1.0,
) -> None:
    """Run collect or features on a Ray cluster: on-ray --questions F --out F --shards 8 collect --backend tgi …"""
    try:
        from exporters.measure.on_ray import run_on_ray

        with typer.progressbar(length=shards, label="shards") as bar:
            run_on_ray(context.args, questions, out, shards, address=address, cpus=cpus, on_done=lambda: bar.update(1))
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise failed(ValueError("on-ray needs the extra: pip install 'predictive-scheduling[train,ray]'")) from None
    except (CurvesFileError, ValueError, RuntimeError) as error:
        raise failed(error) from None
    typer.echo(f"{shards} shards in {out}")
