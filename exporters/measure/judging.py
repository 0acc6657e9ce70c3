"""How right are the answers of a question's traces? By what is expected, or, without labels, by another trace's end.

Without labels the answer that another trace of the same question gives at its full budget stands in for the truth:
accuracy at a point is the share of ordered pairs of traces in which the forced answer of the one at that point is the
final answer of the other. Never the same trace's: that would measure when a trace has made up its mind, not whether
another way of thinking comes to the same end. A model that is wrong in the same way every time is taken to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, Protocol

from exporters.measure.checkers import Checker
from exporters.measure.questions import Question

Answers = Sequence[Sequence[str]]
JudgedBy = Literal["expected", "agreement"]


class Judge(Protocol):
    """Says how right answers are."""

    def judged_by(self, question: Question) -> JudgedBy:
        """Return what answers to ``question`` are held against. Raises ValueError where there is nothing."""
        ...

    def accuracy(self, question: Question, answers: Answers) -> list[float]:
        """Return the accuracy at each point, from 0 to 1. ``answers``: traces × points."""
        ...


class Labelled:
    """Holds answers against what the question expects."""

    def __init__(self, is_right: Checker) -> None:
        """Check by ``is_right``."""
        self._is_right = is_right

    def judged_by(self, question: Question) -> JudgedBy:
        """Return that it is what the question expects. Raises ValueError where it expects nothing."""
        expected_of(question)
        return "expected"

    def accuracy(self, question: Question, answers: Answers) -> list[float]:
        """Return the share of right answers at each point. Raises ValueError where the question expects nothing."""
        expected = expected_of(question)
        right = cache(lambda answer: self._is_right(expected, answer))
        return [sum(right(answer) for answer in at) / len(at) for at in zip(*answers, strict=True)]


def expected_of(question: Question) -> str:
    """Return what the question expects. Raises ValueError where it expects nothing."""
    if question.expected is None:
        raise ValueError(f"question {question.question_id}: no expected; --check agreement needs none")
    return question.expected


class Agreeing:
    """Holds answers against the final answers of other traces; where a question expects something, against that."""

    def __init__(self, is_same: Checker) -> None:
        """Compare two answers, and an answer with an expected one, by ``is_same``."""
        self._is_same, self._labelled = is_same, Labelled(is_same)

    def judged_by(self, question: Question) -> JudgedBy:
        """Return whether the question brings something to hold answers against."""
        return "agreement" if question.expected is None else "expected"

    def accuracy(self, question: Question, answers: Answers) -> list[float]:
        """Return the agreement at each point, or the accuracy where the question expects something."""
        if question.expected is not None:
            return self._labelled.accuracy(question, answers)
        return agreement(answers, self._is_same)


def agreement(answers: Answers, is_same: Checker) -> list[float]:
    """Return, for each point, how often a trace's answer there is the final answer of another trace; 0 to 1.

    ``answers``: traces × points, the last of each being its final one. ``is_same``: (final answer, answer) → bool.
    An empty answer is nobody's. Raises ValueError for fewer than two traces.
    """
    if len(answers) < 2:
        raise ValueError("agreement needs at least two traces of a question")
    same = cache(lambda final, answer: bool(final and answer) and is_same(_said(final), answer))
    finals = [trace[-1] for trace in answers]
    others = len(answers) - 1
    return [
        sum(same(finals[other], at[one]) for one in range(len(at)) for other in range(len(at)) if one != other)
        / (len(at) * others)
        for at in zip(*answers, strict=True)
    ]


def _said(final: str) -> str:
    """What of an answer is the answer: its first line, with the brackets closed that were cut off."""
    line = next((line for line in final.strip().splitlines() if line.strip()), "")
    return line + "}" * max(0, line.count("{") - line.count("}"))


def judge_of(check: str, checker_of: Callable[[str], Checker]) -> Judge:
    """Return the judge that ``--check`` names: a checker, or ``agreement``, ``agreement:CHECKER``.

    ``checker_of``: the checker of a name; raises ValueError for one that does not exist. Agreement alone compares by
    exact match.
    """
    name, _, by = check.partition(":")
    return Agreeing(checker_of(by or "exact")) if name == "agreement" else Labelled(checker_of(check))
