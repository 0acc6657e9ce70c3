"""Commands that make predictors: ``train``, ``export`` a checkpoint, and measure the ``parity`` of what is served."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from exporters.cli.options import CurvesOption, HiddenOption, TemplateOption, failed
from exporters.faults import CurvesFileError

if TYPE_CHECKING:
    from exporters.measure.curves import Curves
    from exporters.predictors.trained import Trained

OutOption = Annotated[Path, typer.Option("--out", help="The model folder to write.")]
NameOption = Annotated[str, typer.Option("--name", help="The model's name.")]
VersionOption = Annotated[str, typer.Option("--version", help="The model's version.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="float32, float16 (stored) or int8 (encoders).")]
CheckpointOption = Annotated[Path, typer.Option("--checkpoint", help="A checkpoint folder that train wrote.")]
_PRECISION = "float16"


def train(
    kind: Annotated[
        str,
        typer.Argument(
            help="mean_curve, text_curve, hidden_state_mlp, hybrid, difficulty, size; with an encoder: layer_mlp, "
            "lora_difficulty."
        ),
    ],
    curves: CurvesOption,
    out: OutOption,
    name: NameOption,
    version: VersionOption = "1",
    hidden_states: HiddenOption = None,
    encoder: Annotated[Path | None, typer.Option(help="Encoder: a model folder; for layer_mlp also a GGUF.")] = None,
    layer: Annotated[int, typer.Option(help="Layer of the hidden states, or of layer_mlp; 0 if not known.")] = 0,
    template: TemplateOption = "deepseek-r1",
    precision: PrecisionOption = _PRECISION,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder to write, for export and parity.")] = None,
    members: Annotated[int, typer.Option(min=2, help="Networks in the ensemble, and cross-validation folds.")] = 10,
    hidden: Annotated[int, typer.Option(min=4, help="Width of a network.")] = 64,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the questions; lora_difficulty: 4.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Questions in a batch.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Largest learning rate of the one-cycle schedule.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.9, help="Dropout within a network.")] = None,
    input_dropout: Annotated[float | None, typer.Option(help="Dropout of inputs; by default 0.5 with text.")] = None,
    mixup: Annotated[float, typer.Option(min=0, help="Beta parameter of mixup; 0 for none.")] = 0.4,
    min_texts: Annotated[int, typer.Option(min=1, help="Questions that an n-gram must occur in.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train a predictor on measured curves and write it as a model folder, ready to be served."""
    from exporters.measure.curves import read_curves
    from exporters.measure.hidden_states import read_hidden_states
    from exporters.predictors.kinds import Training, module_of
    from predictor_service.artifact import digest

    logging.basicConfig(format="%(message)s")
    logging.getLogger("exporters").setLevel(logging.INFO)  # the progress of training; torch's exporter talks too
    chosen = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "dropout": dropout}
    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        trained = module_of(kind).fit(
            kind,
            Training(
                measured, states, encoder, layer, template, members, hidden, input_dropout, mixup, min_texts, seed,
                {key: value for key, value in chosen.items() if value is not None},
                {"name": curves.name, "digest": digest(curves)},
            ),
        )  # fmt: skip
        if checkpoint is not None:
            from exporters.predictors.checkpoint import save_checkpoint

            save_checkpoint(trained, checkpoint)
        _export(trained, out, measured, states, name, version, precision)
    except (CurvesFileError, ValueError, OSError) as error:
        raise failed(error) from None


def export(
    checkpoint: CheckpointOption,
    curves: CurvesOption,
    out: OutOption,
    name: NameOption,
    version: VersionOption = "1",
    hidden_states: HiddenOption = None,
    precision: PrecisionOption = _PRECISION,
) -> None:
    """Export a checkpoint as a model folder: ONNX, manifest, calibration, digests. Parity is measured on the curves."""
    try:
        trained, measured, states = _loaded(checkpoint, curves, hidden_states)
        _export(trained, out, measured, states, name, version, precision)
    except (CurvesFileError, ValueError, OSError) as error:
        raise failed(error) from None


def parity(
    checkpoint: CheckpointOption,
    model: Annotated[Path, typer.Option(help="The model folder.")],
    curves: CurvesOption,
    hidden_states: HiddenOption = None,
) -> None:
    """Compare a model folder, as it is served, with the checkpoint it was exported from."""
    from exporters.predictors.export import WORST_PARITY
    from exporters.predictors.export import parity as compare

    try:
        trained, measured, states = _loaded(checkpoint, curves, hidden_states)
        found = compare(trained, model, measured.questions, states)
    except (CurvesFileError, ValueError, OSError) as error:
        raise failed(error) from None
    typer.echo(json.dumps(asdict(found), indent=1))
    if not found.mean <= WORST_PARITY:
        raise failed(ValueError(f"{model}: its curves are off by {found.mean:.3f} on average; export it again"))


def familiarise(
    model: Annotated[Path, typer.Option(help="The model folder, changed in place.")],
    curves: CurvesOption,
    version: Annotated[str, typer.Option(help="Its new version.")],
    hidden_states: HiddenOption = None,
) -> None:
    """Let a model that was trained before know what is unlike its training, so that it abstains; its curves stay."""
    from exporters.measure.curves import read_curves
    from exporters.measure.hidden_states import read_hidden_states
    from exporters.predictors.familiarise import familiarise as teach

    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        manifest = teach(model, version, measured.questions, states)
    except (CurvesFileError, ValueError, OSError) as error:
        raise failed(error) from None
    limits = {"most_unfamiliarity": manifest.most_unfamiliarity, "false_alarm_rate": manifest.false_alarm_rate}
    typer.echo(json.dumps({"version": manifest.version, **limits}, indent=1))


def _loaded(
    checkpoint: Path, curves: Path, hidden_states: Path | None
) -> tuple[Trained, Curves, NDArray[np.float32] | None]:
    from exporters.measure.curves import read_curves
    from exporters.measure.hidden_states import read_hidden_states
    from exporters.predictors.checkpoint import load_checkpoint

    measured = read_curves(curves)
    states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
    return load_checkpoint(checkpoint), measured, states


def _export(
    trained: Trained, out: Path, measured: Curves, states: NDArray[np.float32] | None, name: str, version: str,
    precision: str,
) -> None:  # fmt: skip
    from exporters.predictors.export import export as write

    manifest, found = write(trained, out, measured.questions, states, name=name, version=version, precision=precision)
    typer.echo(
        json.dumps({"validation": manifest.validation, "precision": precision, "parity": asdict(found)}, indent=1)
    )
