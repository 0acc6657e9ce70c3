"""The exporters' commands; ``predictive-scheduling`` shows them under "Make predictors"."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from exporters.faults import CurvesFileError

CurvesOption = Annotated[Path, typer.Option("--curves", help="Measured curves, a parquet file.")]
QuestionsOption = Annotated[Path, typer.Option("--questions", help="JSON lines with question_id, question, expected.")]
HiddenOption = Annotated[Path | None, typer.Option("--hidden-states", help="Hidden states of its questions, an .npz.")]


def collect(
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="The curves file to write, or its part with more shards than one.")],
    backend: Annotated[str, typer.Option(help="tgi, llama_cpp or embedded.")] = "tgi",
    backend_url: Annotated[str, typer.Option(help="The server's address; not for the embedded one.")] = "",
    template: Annotated[str, typer.Option(help="Prompt template of the model.")] = "deepseek-r1",
    check: Annotated[str, typer.Option(help="How answers are checked: exact, maths, or module:function.")] = "maths",
    samples: Annotated[int, typer.Option(min=1, help="Traces a question.")] = 4,
    windows: Annotated[int, typer.Option(min=1, help="Budget windows of 16 tokens.")] = 16,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a forced answer.")] = 16,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 for greedy.")] = 0.6,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions measured at once.")] = 8,
    shard: Annotated[str, typer.Option(help="i/n: part i (from 0) of n; in an Indexed Job it is known.")] = "",
) -> None:
    """Measure accuracy curves of a model: force an answer at every budget window. A killed run goes on where it was."""
    import asyncio

    from exporters import collect as collecting
    from exporters.checkers import checker
    from exporters.questions import Shard, read_questions
    from scheduler_service.backends import make_backend
    from scheduler_service.domain import BackendUnavailableError, Sampling
    from scheduler_service.settings import SchedulerSettings
    from scheduler_service.templates import TEMPLATES

    async def measure() -> int:
        server = make_backend(settings)
        await server.start()
        try:
            with typer.progressbar(length=len(wanted), label="measured") as bar:

                def advance(_: object) -> None:
                    bar.update(1)

                found = await collecting.collect(
                    server, plan, wanted, check_answer, out, concurrency=concurrency, on_measured=advance
                )
            return len(found)
        finally:
            await server.close()

    try:
        wanted = Shard.named(shard).of(read_questions(questions))
        check_answer = checker(check)
        settings = SchedulerSettings(backend=backend, backend_url=backend_url, template=template)
        plan = collecting.Plan(
            TEMPLATES[template], windows=windows, samples=samples, answer_tokens=answer_tokens,
            sampling=Sampling(temperature=temperature),
        )  # fmt: skip
        count = asyncio.run(measure())
    except (CurvesFileError, ValueError, BackendUnavailableError) as error:
        raise _failed(error) from None
    except ExceptionGroup as errors:  # the workers' faults; what they measured is kept
        raise _failed(errors.exceptions[0]) from None
    typer.echo(f"{count} questions in {out}")


def merge(
    parts: Annotated[list[Path], typer.Argument(help="The parts that the shards measured.")],
    questions: QuestionsOption,
    out: Annotated[Path, typer.Option(help="The curves file to write.")],
) -> None:
    """Merge the parts of a sharded collection; no question may be lost or doubled."""
    from exporters.collect import merge as merge_parts
    from exporters.questions import read_questions

    try:
        merge_parts(parts, read_questions(questions), out)
    except CurvesFileError as error:
        raise _failed(error) from None
    typer.echo(f"{len(parts)} parts in {out}")


def features(
    questions: QuestionsOption,
    model: Annotated[Path, typer.Option(help="The LLM: a GGUF file or a transformers model folder.")],
    out: Annotated[Path, typer.Option(help="Folder for one .npz per layer.")],
    layers: Annotated[str, typer.Option(help="Layers, such as 8,16; 0 is the embedding; empty for all.")] = "",
    template: Annotated[str, typer.Option(help="Prompt template of the model.")] = "deepseek-r1",
    shard: Annotated[str, typer.Option(help="i/n: part i (from 0) of n; in an Indexed Job it is known.")] = "",
) -> None:
    """Read hidden states of an LLM at each question's last prompt token, for predictors that take them."""
    from exporters.features import StateReader, write_features  # transformers comes with the extra "train"
    from exporters.questions import Shard, read_questions
    from scheduler_service.templates import TEMPLATES

    try:
        wanted = Shard.named(shard).of(read_questions(questions))
        reader = StateReader(model)
        chosen = [int(layer) for layer in layers.split(",")] if layers else list(range(reader.layers + 1))
        with typer.progressbar(length=len(wanted), label="read") as bar:
            paths = write_features(reader, TEMPLATES[template], wanted, chosen, out, lambda: bar.update(1))
    except (CurvesFileError, ValueError, OSError) as error:
        raise _failed(error) from None
    typer.echo(f"{len(wanted)} questions, {len(paths)} layers in {out}")


def train(
    kind: Annotated[str, typer.Argument(help="text_curve, hidden_state_mlp or hybrid.")],
    curves: CurvesOption,
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    hidden_states: HiddenOption = None,
    layer: Annotated[int, typer.Option(help="Layer of the hidden states, from 1; 0 if it does not matter.")] = 0,
    members: Annotated[int, typer.Option(min=2, help="Networks in the ensemble, and folds.")] = 10,
    hidden: Annotated[int, typer.Option(min=4, help="Width of a network.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the questions.")] = 20,
    batch: Annotated[int, typer.Option(min=2, help="Questions a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate of the one-cycle schedule.")] = 1e-3,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Dropout within a network.")] = 0.5,
    input_dropout: Annotated[float | None, typer.Option(help="Dropout of inputs; by default 0.5 with text.")] = None,
    mixup: Annotated[float, typer.Option(min=0, help="Beta parameter of mixup; 0 for none.")] = 0.4,
    min_texts: Annotated[int, typer.Option(min=1, help="Questions that an n-gram must occur in.")] = 8,
    float32: Annotated[bool, typer.Option("--float32", help="Store all weights in float32.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train a predictor on measured curves and write it as a model folder, ready to be served."""
    from exporters import train as training
    from exporters.curves import read_curves
    from exporters.ensemble import Recipe
    from exporters.hidden_states import read_hidden_states
    from predictor_service.artifact import digest

    with_text = kind != "hidden_state_mlp"
    if input_dropout is None:
        input_dropout = 0.5 if with_text else 0.25
    recipe = Recipe(
        members=members, hidden=hidden, epochs=epochs, batch=batch, learning_rate=learning_rate, dropout=dropout,
        input_dropout=input_dropout, mixup=mixup, seed=seed, scale_power=0.5 if with_text else 1.0,
    )  # fmt: skip
    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        trained = training.train(kind, measured, states, recipe, training.TextRecipe(min_texts=min_texts))
    except (CurvesFileError, ValueError) as error:
        raise _failed(error) from None
    data = {"name": curves.name, "digest": digest(curves)}
    manifest = training.export(trained, out, name=name, version=version, data=data, layer=layer, half=not float32)
    found = {"validation": manifest.validation, "parity": asdict(training.parity(trained, out))}
    typer.echo(json.dumps(found, indent=1))


def train_encoder(
    kind: Annotated[str, typer.Argument(help="layer_mlp or lora_difficulty.")],
    curves: CurvesOption,
    encoder: Annotated[Path, typer.Option(help="The encoder: a model folder, or for layer_mlp a GGUF file.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    layer: Annotated[int, typer.Option(help="layer_mlp: the layer to read, from 1.")] = 16,
    template: Annotated[str, typer.Option(help="layer_mlp: the LLM's prompt template.")] = "deepseek-r1",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the questions.")] = 4,
    members: Annotated[int, typer.Option(min=2, help="layer_mlp: networks in the head.")] = 5,
    int8: Annotated[bool, typer.Option("--int8/--float32", help="Precision of the graph.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train a predictor with an encoder of its own: an LLM's first layers, or a LoRA difficulty classifier."""
    import logging

    from exporters import train_encoder as training  # torch comes with the extra "train"
    from exporters.curves import read_curves
    from exporters.ensemble import Recipe
    from exporters.lora_difficulty import LoraRecipe
    from predictor_service.artifact import digest
    from scheduler_service.templates import TEMPLATES

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = {"name": curves.name, "digest": digest(curves)}
    try:
        measured = read_curves(curves)
        if kind == "layer_mlp":
            recipe = Recipe(members=members, epochs=epochs, batch=64, dropout=0.3, input_dropout=0.2, seed=seed)
            found = training.train_layer_mlp(
                measured, encoder, layer, TEMPLATES[template], recipe, out,
                name=name, version=version, data=data, int8=int8,
            )  # fmt: skip
        elif kind == "lora_difficulty":
            lora = LoraRecipe(epochs=epochs, seed=seed)
            found = training.train_lora_difficulty(
                measured, encoder, lora, out, name=name, version=version, data=data, int8=int8
            )
        else:
            raise ValueError(f"kind: {kind!r} is neither layer_mlp nor lora_difficulty")
    except (CurvesFileError, ValueError, OSError) as error:
        raise _failed(error) from None
    typer.echo(json.dumps(training.as_json(*found), indent=1))


def evaluate(
    curves: CurvesOption,
    model: Annotated[Path, typer.Option(help="The model folder.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where the figures go.")],
    hidden_states: HiddenOption = None,
    report: Annotated[Path | None, typer.Option(help="Where an HTML report with plots goes.")] = None,
) -> None:
    """Score a predictor: allocate by its curves, at every mean budget, and compare with uniform and both oracles."""
    from exporters.curves import read_curves
    from exporters.evaluate import evaluate_folder
    from exporters.hidden_states import read_hidden_states

    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        evaluation, predicted = evaluate_folder(model, measured, states)
    except (CurvesFileError, ValueError) as error:
        raise _failed(error) from None
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n")
    if report is not None:
        from exporters.report import write_report

        report.parent.mkdir(parents=True, exist_ok=True)
        write_report(report, evaluation, predicted, measured.accuracy)
    typer.echo(f"{evaluation.queries} questions, Pearson r = {evaluation.pearson:.3f}")
    for at in evaluation.budgets:
        gains = "  ".join(f"{name} {100 * scored.gain:+5.1f}" for name, scored in at.policies.items())
        typer.echo(f"{at.tokens_per_query:4} tokens: uniform {at.uniform:5.1%}  {gains}")


def _failed(error: Exception) -> typer.Exit:
    typer.secho(str(error), err=True, fg="red")
    return typer.Exit(1)
