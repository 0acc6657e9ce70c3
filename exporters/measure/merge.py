"""Merge what the shards of ``collect`` and ``features`` wrote into one dataset, no question lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from exporters.faults import CurvesFileError
from exporters.measure.curves import read_curves, write_curves
from exporters.measure.hidden_states import read_npz, write_hidden_states
from exporters.measure.questions import Question


def merge(parts: Sequence[Path], questions: Sequence[Question], out: Path) -> None:
    """Merge parts of one sort: curves files, hidden states files, or folders of hidden states files.

    The result is in the order of ``questions``. Raises CurvesFileError where a question is in two parts, in none, or is
    not among ``questions``, where a part cannot be read, or where the parts do not fit each other.
    """
    if all(part.is_dir() for part in parts):
        names = {path.name for part in parts for path in part.glob("*.npz")}
        if not names:
            raise CurvesFileError(f"{parts[0]}: no .npz file in it")
        for name in sorted(names):
            _merge_states([part / name for part in parts], questions, out / name)
    elif all(part.suffix == ".npz" for part in parts):
        _merge_states(parts, questions, out)
    else:
        _merge_curves(parts, questions, out)


def _merge_curves(parts: Sequence[Path], questions: Sequence[Question], out: Path) -> None:
    tables = []
    for part in parts:
        read_curves(part)
        tables.append(pq.read_table(part).to_pylist())
    places = _places(parts, [[str(row["question_id"]) for row in table] for table in tables], questions)
    rows = [tables[part][row] for part, row in places]
    column = "budget_tokens" if all("budget_tokens" in row for row in rows) else "accuracy_at_window"
    if any(column not in row for row in rows):
        raise CurvesFileError("budget_tokens: some parts have it, others accuracy_at_window")
    if column == "budget_tokens":
        points = sorted({tuple(row[column]) for row in rows})
        if len(points) > 1:
            raise CurvesFileError(f"budget_tokens: the parts have {list(points[0])} and {list(points[1])}")
    for name in ("used_tokens", "samples", "difficulty"):  # what is read where all rows have it
        if len({name in row for row in rows}) > 1:
            raise CurvesFileError(f"{name}: some parts have it, others do not")
    lengths = {len(row[column]) for row in rows}
    if len(lengths) > 1:
        raise CurvesFileError(f"{column}: the parts have {' and '.join(map(str, sorted(lengths)))} windows")
    write_curves(out, {name: [row.get(name) for row in rows] for name in rows[0]})


def _merge_states(parts: Sequence[Path], questions: Sequence[Question], out: Path) -> None:
    files = [read_npz(part) for part in parts]
    places = _places(parts, [ids for ids, _ in files], questions)
    sizes = {states.shape[1] for _, states in files if len(states)}
    if len(sizes) > 1:
        raise CurvesFileError(f"hidden_state: the parts have {' and '.join(map(str, sorted(sizes)))} components")
    states = np.stack([files[part][1][row] for part, row in places])
    write_hidden_states(out, [question.question_id for question in questions], states)


def _places(
    parts: Sequence[Path], ids: Iterable[Sequence[str]], questions: Sequence[Question]
) -> list[tuple[int, int]]:
    """Part and row of every question, in the order of ``questions``."""
    places: dict[str, tuple[int, int]] = {}
    for part, names in enumerate(ids):
        for row, name in enumerate(names):
            if name in places:
                raise CurvesFileError(f"{parts[part]}: question_id: {name} is in {parts[places[name][0]]} too")
            places[name] = (part, row)
    missing = [question.question_id for question in questions if question.question_id not in places]
    if missing:
        raise CurvesFileError(f"{len(missing)} questions are in no part, such as {missing[0]}")
    if strangers := places.keys() - {question.question_id for question in questions}:
        raise CurvesFileError(f"question_id: {min(strangers)} is not in the questions file")
    return [places[question.question_id] for question in questions]
