"""What several commands share: their options, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from predictive_scheduling.service_settings import faults

CurvesOption = Annotated[Path, typer.Option("--curves", help="Measured curves, a parquet file.")]
QuestionsOption = Annotated[
    Path, typer.Option("--questions", help="JSON lines with question_id, question, and expected where it is known.")
]
HiddenOption = Annotated[Path | None, typer.Option("--hidden-states", help="Hidden states of its questions, an .npz.")]
ShardOption = Annotated[str, typer.Option("--shard", help="i/n: part i (from 0) of n; an Indexed Job knows its own.")]
TemplateOption = Annotated[str, typer.Option("--template", help="Prompt template of the model.")]


def failed(error: Exception) -> typer.Exit:
    """Print an error; returns the exception that ends the command with it."""
    said = "\n".join(faults(error)) if isinstance(error, ValidationError) else str(error)
    typer.secho(said, err=True, fg="red")
    return typer.Exit(1)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of ``path``; end the command with an error that names the file, where one cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise failed(error) from None
