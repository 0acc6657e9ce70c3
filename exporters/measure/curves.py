"""The curves file: parquet with ``question_id, question, accuracy_at_window`` and whatever else was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from exporters.faults import CurvesFileError
from exporters.measure.classes import DIFFICULTY, difficulty_of

WINDOW_TOKENS = 16
REQUIRED = ("question_id", "question", "accuracy_at_window")


@dataclass(frozen=True, eq=False)
class Curves:
    """Measured curves. ``accuracy``: (n, K) fractions after W, 2W, … tokens, in the order of ``ids``.

    ``difficulty``: classes (n,), easy 0 to hard 2, of the file's column ``difficulty``; without one, by its own curves.
    """

    ids: list[str]
    questions: list[str]
    accuracy: NDArray[np.float64]
    difficulty: NDArray[np.int64]

    @classmethod
    def measured(cls, ids: list[str], questions: list[str], accuracy: NDArray[np.float64]) -> Curves:
        """Curves whose difficulty follows from themselves."""
        return cls(ids, questions, accuracy, difficulty_of(accuracy))

    def chosen(self, rows: Sequence[int] | NDArray[np.int64]) -> Curves:
        """The curves of some rows, in their order."""
        at = np.asarray(rows, dtype=np.int64)
        pick = at.tolist()
        return Curves(
            [self.ids[row] for row in pick],
            [self.questions[row] for row in pick],
            self.accuracy[at],
            self.difficulty[at],
        )


def read_curves(path: Path) -> Curves:
    """Read and check a curves file. Raises CurvesFileError with file, row and column of the first fault."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CurvesFileError(f"{path}: not a readable parquet file: {error}") from error
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise CurvesFileError(f"{path}: no column {', '.join(missing)}; found {', '.join(table.column_names)}")
    ids = [str(value) for value in table["question_id"].to_pylist()]
    rows = table["accuracy_at_window"].to_pylist()
    seen: dict[str, int] = {}
    for row, (question_id, curve) in enumerate(zip(ids, rows, strict=True)):
        if question_id in seen:
            raise CurvesFileError(f"{path}: row {row}, question_id: {question_id} is also in row {seen[question_id]}")
        seen[question_id] = row
        _check_curve(path, row, curve, len(rows[0] or ()))
    questions = [str(value) for value in table["question"].to_pylist()]
    accuracy = np.array(rows, dtype=np.float64)
    if "difficulty" not in table.column_names:
        return Curves.measured(ids, questions, accuracy)
    return Curves(ids, questions, accuracy, _classes(path, table["difficulty"].to_pylist()))


def _classes(path: Path, names: list[object]) -> NDArray[np.int64]:
    for row, name in enumerate(names):
        if name not in DIFFICULTY:
            raise CurvesFileError(f"{path}: row {row}, difficulty: {name!r} is none of {', '.join(DIFFICULTY)}")
    return np.array([DIFFICULTY.index(str(name)) for name in names], dtype=np.int64)


def _check_curve(path: Path, row: int, curve: list[float | None] | None, windows: int) -> None:
    place = f"{path}: row {row}, accuracy_at_window"
    if not curve or len(curve) != windows:
        raise CurvesFileError(f"{place}: {len(curve or ())} windows, the first row has {windows}")
    for window, value in enumerate(curve):
        if value is None or not 0 <= value <= 1:
            raise CurvesFileError(f"{place}: window {window} is {value}, not a number from 0 to 1")


def pearson(predicted: NDArray[np.floating[Any]], measured: NDArray[np.floating[Any]]) -> float:
    """Correlation of predicted and measured accuracy, (n, K) each, over questions × windows."""
    return float(np.corrcoef(predicted.ravel(), measured.ravel())[0, 1])


def write_curves(path: Path, columns: dict[str, list[object]]) -> None:
    """Write a curves file, whole or not at all; ``columns``: the required ones and any others, all of one length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(pa.table(columns), unfinished, compression="zstd")
    unfinished.replace(path)
