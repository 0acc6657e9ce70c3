"""The long questions: right by construction, long, and never those that anything was trained on."""

import gzip
import hashlib
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from exporters.demo import data as demo_data
from exporters.demo.long_tasks import LONG_FAMILIES, split_long_tasks
from exporters.demo.questions import main as write_questions
from exporters.demo.tasks import split_tasks
from exporters.measure.curves import read_curves
from exporters.measure.questions import read_questions

DATA = Path(demo_data.__file__).parent


def questions_of(file):
    return set(pq.read_table(DATA / file)["question"].to_pylist())


def test_no_long_question_that_is_asked_was_trained_on():
    splits = split_long_tasks()
    asked = {task.question for task in splits.test}
    adapter = set(gzip.decompress((DATA / "long-adapter-questions.txt.gz").read_bytes()).decode().splitlines())
    curves, test_curves = questions_of("long-curves.parquet"), questions_of("long-test-curves.parquet")
    assert len(asked) == 90
    assert test_curves <= asked
    assert adapter <= {task.question for task in splits.adapter}
    assert curves <= {task.question for task in splits.curves}
    # Its adapter began as that of the short questions.
    adapter |= {task.question for task in split_tasks().adapter}
    assert not asked & adapter
    assert not asked & curves
    assert not adapter & curves


def test_the_long_questions_are_the_same_on_every_python():
    questions = "\n".join(task.question for task in split_long_tasks().test)
    assert (
        hashlib.sha256(questions.encode()).hexdigest()
        == "de33ca33a71a878381bf4f3be8db740349a8b06aa59d7744e4285cc5a758ae9d"
    )


@pytest.mark.parametrize("file", ["long-curves.parquet", "long-test-curves.parquet"])
def test_their_curves_reach_1024_tokens_and_say_what_is_used(file):
    curves = read_curves(DATA / file)
    assert curves.points.tolist() == [32, 64, 128, 256, 384, 512, 768, 1024]
    assert curves.used is not None
    assert (curves.used <= curves.points).all()


SOLVERS = {
    "walk": lambda steps, _: steps[-1],
    "digits": lambda steps, _: steps[-1].split(":")[1],
    "take_away": lambda steps, _: steps[-1],
    "above": lambda steps, _: steps[-1].split(":")[1],
    "parity": lambda steps, _: steps[-1].split(":")[1],
    "largest": lambda _, numbers: str(max(numbers)),
    "collatz": lambda steps, _: str(len(steps) // 2),
    "after": lambda steps, _: steps[-1],
    "product": lambda _, numbers: str(numbers[0] * numbers[1]),
}


@pytest.mark.parametrize("family", LONG_FAMILIES)
def test_the_steps_of_a_long_question_end_in_its_answer(family):
    rng = random.Random(1)
    for _ in range(50):
        task = LONG_FAMILIES[family](rng)
        assert task.family == family
        numbers = [int(word) for word in task.question.rstrip("?").split() if word.isdigit()]
        assert task.answer == SOLVERS[family](task.steps.split(), numbers)
        # A token holds at most some five characters of these steps, mostly one.
        assert family == "after" or 70 < len(task.steps) < 1900


def test_chains_of_one_family_differ_in_length_by_a_factor():
    rng = random.Random(2)
    for family in set(LONG_FAMILIES) - {"after"}:
        lengths = sorted(len(LONG_FAMILIES[family](rng).steps) for _ in range(100))
        assert lengths[-10] > 2.5 * lengths[10], family


def test_the_questions_file_of_a_long_split_can_be_read(tmp_path):
    write_questions("test", tmp_path / "q.jsonl", long=True)
    questions = read_questions(tmp_path / "q.jsonl")
    assert [question.question for question in questions] == [task.question for task in split_long_tasks().test]
    assert {question.group for question in questions} == set(LONG_FAMILIES)
