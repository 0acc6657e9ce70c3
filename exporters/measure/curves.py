"""The curves file: parquet with measured accuracy, and tokens used, of questions at rising budgets.

Columns: ``question_id``, ``question``; ``budget_tokens`` (the points, the same in every row), ``accuracy`` and, where
it was measured, ``used_tokens``; whatever else. Instead of the points a file may have ``accuracy_at_window``, values
after 16, 32, … tokens, as the paper's data; its used tokens then follow from ``reasoning_tokens``, where it has them.
``samples``, where it is there: traces that a row's accuracies average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from exporters.faults import CurvesFileError
from exporters.measure.classes import DIFFICULTY, difficulty_of
from predictive_scheduling.budget_points import CurveError, check_points, evenly_spaced
from scheduler_service.allocation.curve import checked

WINDOW_TOKENS = 16
REQUIRED = ("question_id", "question")
_COLUMNS = {"points": "budget_tokens", "accuracy": "accuracy", "used": "used_tokens"}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Measured curves, in the order of ``ids``.

    ``points``: (K,) budgets in reasoning tokens, rising. ``accuracy``: (n, K) fractions at each. ``used``: (n, K) mean
    reasoning tokens used at each; ``None`` where it was not measured. ``difficulty``: classes (n,), easy 0 to hard 2,
    of the file's column ``difficulty``; without one, by its own curves. ``samples``: (n,) traces that a row averages;
    ``None`` where the file does not say.
    """

    ids: list[str]
    questions: list[str]
    points: Ints
    accuracy: Floats
    difficulty: Ints
    used: Floats | None = None
    samples: Ints | None = None

    @classmethod
    def measured(
        cls, ids: list[str], questions: list[str], points: Ints, accuracy: Floats, used: Floats | None = None
    ) -> Curves:
        """Curves whose difficulty follows from themselves."""
        return cls(ids, questions, points, accuracy, difficulty_of(accuracy), used)

    def chosen(self, rows: Sequence[int] | Ints) -> Curves:
        """The curves of some rows, in their order."""
        at = np.asarray(rows, dtype=np.int64)
        pick = at.tolist()
        return replace(
            self,
            ids=[self.ids[row] for row in pick],
            questions=[self.questions[row] for row in pick],
            accuracy=self.accuracy[at],
            difficulty=self.difficulty[at],
            used=None if self.used is None else self.used[at],
            samples=None if self.samples is None else self.samples[at],
        )


def window_points(count: int) -> Ints:
    """The points of a file with ``accuracy_at_window``: 16, 32, … tokens."""
    return np.array(evenly_spaced(count, WINDOW_TOKENS), dtype=np.int64)


def read_curves(path: Path) -> Curves:
    """Read and check a curves file. Raises CurvesFileError with file, row and column of the first fault."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CurvesFileError(f"{path}: not a readable parquet file: {error}") from error
    names = set(table.column_names)
    needed = (*REQUIRED, *(("accuracy_at_window",) if "budget_tokens" not in names else ("budget_tokens", "accuracy")))
    if missing := [name for name in needed if name not in names]:
        raise CurvesFileError(f"{path}: no column {', '.join(missing)}; found {', '.join(table.column_names)}")
    if not table.num_rows:
        raise CurvesFileError(f"{path}: has no rows")
    ids = [str(value) for value in table["question_id"].to_pylist()]
    seen: dict[str, int] = {}
    for row, question_id in enumerate(ids):
        if question_id in seen:
            raise CurvesFileError(f"{path}: row {row}, question_id: {question_id} is also in row {seen[question_id]}")
        seen[question_id] = row
    columns = {name: table[name].to_pylist() for name in names}
    points, accuracy, used = _at_points(path, columns) if "budget_tokens" in names else _at_windows(path, columns)
    questions = [str(value) for value in columns["question"]]
    difficulty = _classes(path, columns["difficulty"]) if "difficulty" in names else difficulty_of(accuracy)
    samples = _samples(path, columns["samples"]) if "samples" in names else None
    return Curves(ids, questions, points, accuracy, difficulty, used, samples)


def _at_points(path: Path, columns: dict[str, list[Any]]) -> tuple[Ints, Floats, Floats | None]:
    """Points, accuracy and use as the file states them."""
    points = columns["budget_tokens"][0]
    used_rows = columns.get("used_tokens")
    used: list[tuple[float, ...]] = []
    for row, (own, accuracy) in enumerate(zip(columns["budget_tokens"], columns["accuracy"], strict=True)):
        place = f"{path}: row {row}"
        if not own or not all(isinstance(point, int) for point in own):
            raise CurvesFileError(f"{place}, budget_tokens: must be whole numbers, not {own}")
        if own != points:
            raise CurvesFileError(f"{place}, budget_tokens: {own} are not those of the first row, {points}")
        spent = () if used_rows is None else used_rows[row]
        if used_rows is not None and not spent:
            raise CurvesFileError(f"{place}, used_tokens: is empty; leave the column out where it was not measured")
        try:
            used.append(checked(own, _numbers(accuracy), _numbers(spent)).used)
        except CurveError as error:
            raise CurvesFileError(f"{place}, {_COLUMNS[error.part]}: {error}") from None
    found = np.array(columns["accuracy"], dtype=np.float64)
    return np.array(points, np.int64), found, None if used_rows is None else np.array(used, dtype=np.float64)


def _numbers(values: Sequence[float | None] | None) -> list[float]:
    """Values with not-a-number for what is missing, which is then refused by its place."""
    return [float("nan") if value is None else float(value) for value in values or ()]


def _at_windows(path: Path, columns: dict[str, list[Any]]) -> tuple[Ints, Floats, Floats | None]:
    """Points at 16, 32, …; use by the mean length of the reasoning, where the file has it.

    Exact for one trace a question; of several, whose lengths differ, the mean is an upper bound.
    """
    rows = columns["accuracy_at_window"]
    for row, curve in enumerate(rows):
        _check_curve(path, row, curve, len(rows[0] or ()))
    points = window_points(len(rows[0]))
    lengths = columns.get("reasoning_tokens")
    if lengths is None:
        return points, np.array(rows, dtype=np.float64), None
    for row, length in enumerate(lengths):
        if length is None or not 0 <= length < float("inf"):
            raise CurvesFileError(f"{path}: row {row}, reasoning_tokens: is {length}, not a number from 0")
    return points, np.array(rows, dtype=np.float64), np.minimum(points[None, :], np.array(lengths, float)[:, None])


def _classes(path: Path, names: list[object]) -> Ints:
    for row, name in enumerate(names):
        if name not in DIFFICULTY:
            raise CurvesFileError(f"{path}: row {row}, difficulty: {name!r} is none of {', '.join(DIFFICULTY)}")
    return np.array([DIFFICULTY.index(str(name)) for name in names], dtype=np.int64)


def _samples(path: Path, counts: list[object]) -> Ints:
    for row, count in enumerate(counts):
        if not isinstance(count, int) or count < 1:
            raise CurvesFileError(f"{path}: row {row}, samples: is {count}, not a whole number from 1")
    return np.array(counts, dtype=np.int64)


def _check_curve(path: Path, row: int, curve: list[float | None] | None, windows: int) -> None:
    place = f"{path}: row {row}, accuracy_at_window"
    if not curve or len(curve) != windows:
        raise CurvesFileError(f"{place}: {len(curve or ())} windows, the first row has {windows}")
    for window, value in enumerate(curve):
        if value is None or not 0 <= value <= 1:
            raise CurvesFileError(f"{place}: window {window} is {value}, not a number from 0 to 1")
    try:
        check_points(evenly_spaced(windows, WINDOW_TOKENS))
    except CurveError as error:
        raise CurvesFileError(f"{place}: {error}") from None


def sampling_variance(accuracy: Floats, samples: Ints | int) -> Floats:
    """The variance (K,) that chance gives to each point of measured curves (n, K): unbiased, mean over questions.

    ``samples``: how many a row averages, two or more. The mean of y (1 - y) / (N - 1): the binomial variance, with
    Bessel's correction; that the points of a trace hang together does not change it.
    """
    found: Floats = (accuracy * (1 - accuracy) / (np.reshape(samples, (-1, 1)) - 1)).mean(axis=0)
    return found


def pearson(predicted: NDArray[np.floating[Any]], measured: NDArray[np.floating[Any]]) -> float:
    """Correlation of predicted and measured accuracy, (n, K) each, over questions × points; 0 where one is constant."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(np.corrcoef(predicted.ravel(), measured.ravel())[0, 1])


def write_curves(path: Path, columns: dict[str, list[object]]) -> None:
    """Write a curves file, whole or not at all; ``columns``: the required ones and any others, all of one length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(pa.table(columns), unfinished, compression="zstd")
    unfinished.replace(path)
