"""The two sets of questions that the demo can ask, and how its services are set for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporters.demo.long_tasks import split_long_tasks
from exporters.demo.tasks import Task, split_tasks
from scheduler_service.generation.backends.gguf_files import LONG_ADAPTER


@dataclass(frozen=True)
class QuestionSet:
    """Questions with what goes with them.

    ``tight``, ``ample``: mean reasoning tokens a question, 0 for no second run; ``cap``: the most of one question.
    ``predictor_model``: predicts their curves; ``hidden_predictor``: from hidden states, empty where there is none.
    ``scheduler``: settings that they need beside.
    """

    tasks: Sequence[Task]
    tight: int
    ample: int
    cap: int
    predictor_model: str
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    hidden_predictor: str = ""


def question_set(*, long: bool) -> QuestionSet:
    """The short questions, or those whose reasoning takes 100 to 1,000 tokens."""
    if long:
        settings = {"embedded_adapter": LONG_ADAPTER, "answer_tokens": 24, "window_size": 30}
        return QuestionSet(split_long_tasks().test, 256, 0, 1024, "demo-long-text", settings)
    return QuestionSet(split_tasks().test, 32, 96, 256, "demo-text", {"answer_tokens": 12}, "demo-hidden")
