"""The demo's questions: right by construction, and never those that anything was trained on."""

import gzip
import hashlib
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from exporters.demo import data as demo_data
from exporters.demo.tasks import FAMILIES, fresh_tasks, split_tasks, unique_tasks

DATA = Path(demo_data.__file__).parent


def test_no_question_of_the_demo_was_trained_on():
    splits = split_tasks()
    test = {task.question for task in splits.test}
    adapter = set(gzip.decompress((DATA / "adapter-questions.txt.gz").read_bytes()).decode().splitlines())
    curves = set(pq.read_table(DATA / "curves.parquet")["question"].to_pylist())
    assert len(test) == 108
    assert len(adapter) == 2700
    assert len(curves) == 720
    assert not test & adapter
    assert not test & curves
    assert not adapter & curves


def test_fresh_questions_are_in_none_of_the_splits():
    splits, fresh = split_tasks(), {task.question for task in fresh_tasks(2000)}
    known = {task.question for tasks in (splits.test, splits.curves, splits.adapter) for task in tasks}
    assert len(fresh) == 2000
    assert not fresh & known
    assert len(known) == 3528
    with pytest.raises(ValueError, match="count"):
        fresh_tasks(2001)


def test_the_questions_are_the_same_on_every_python():
    questions = "\n".join(task.question for task in split_tasks().test)
    assert (
        hashlib.sha256(questions.encode()).hexdigest()
        == "affa7497abec0204dd6b5943def2d7f39f66e858c885ccdf5221c68148cfef2d"
    )


def test_no_question_comes_twice():
    stream = unique_tasks(7)
    questions = [next(stream).question for _ in range(2000)]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_end_in_the_answer(family):
    rng = random.Random(1)
    for _ in range(50):
        task = FAMILIES[family](rng)
        assert task.family == family
        if family == "parity":
            assert (int(task.steps.split("=")[-1]) % 2 == 0) is (task.answer == "even")
        else:
            assert task.answer in task.steps
