"""The curves file: parquet with ``question_id, question, accuracy_at_window`` and whatever else was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from exporters.faults import CurvesFileError

WINDOW_TOKENS = 16
REQUIRED = ("question_id", "question", "accuracy_at_window")


@dataclass(frozen=True, eq=False)
class Curves:
    """Measured curves. ``accuracy``: (n, K) fractions after W, 2W, … tokens, in the order of ``ids``."""

    ids: list[str]
    questions: list[str]
    accuracy: NDArray[np.float64]


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
    return Curves(ids, questions, np.array(rows, dtype=np.float64))


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
    """Write a curves file; ``columns`` holds the required columns and any others, all of one length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")
