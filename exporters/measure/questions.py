"""The questions file: a JSON object a line: ``question_id``, ``question``; ``expected`` and ``group`` where known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.faults import CurvesFileError


@dataclass(frozen=True)
class Question:
    """A question to measure: ``expected`` is what its answer is checked against, ``group`` is kept for reports.

    ``expected`` is ``None`` where nobody knows the answer: such questions are measured by agreement.
    """

    question_id: str
    question: str
    expected: str | None
    group: str = ""


def read_questions(path: Path) -> list[Question]:
    """Read a questions file. Raises CurvesFileError with the line of the first fault, or why it cannot be read.

    Whether an ``expected`` is needed depends on what is done with the questions: who needs it says so.
    """
    questions: list[Question] = []
    lines: dict[str, int] = {}
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CurvesFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold U+2028 and the like as they are
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, asked = (str(row[key]) for key in ("question_id", "question"))
            expected = row.get("expected")
            question = Question(name, asked, None if expected is None else str(expected), str(row.get("group", "")))
        except (ValueError, TypeError, AttributeError) as error:
            raise CurvesFileError(f"{path}: line {number}: not a JSON object: {error}") from None
        except KeyError as error:
            raise CurvesFileError(f"{path}: line {number}: no {error.args[0]}") from None
        if name in lines:
            raise CurvesFileError(f"{path}: line {number}: question_id {name} is also in line {lines[name]}")
        lines[name] = number
        questions.append(question)
    return questions


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of the questions; part ``index`` has every count-th question from the index-th on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a part that does not exist; raises ValueError."""
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} of {self.count}: the index must be from 0 to {self.count - 1}")

    def of(self, questions: Sequence[Question]) -> list[Question]:
        """Return this part's questions."""
        return list(questions[self.index :: self.count])

    @classmethod
    def named(cls, text: str) -> Shard:
        """The part that ``i/n`` names; for an empty text, the one that the environment gives."""
        return cls(*map(int, text.split("/"))) if text else cls.from_environment()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Shard:
        """The part that a Kubernetes Indexed Job gives: ``JOB_COMPLETION_INDEX`` of ``SHARD_COUNT``; else the whole."""
        try:
            return cls(int(environ.get("JOB_COMPLETION_INDEX", "0")), int(environ.get("SHARD_COUNT", "1")))
        except ValueError as error:
            raise ValueError(f"JOB_COMPLETION_INDEX, SHARD_COUNT: {error}") from None
