"""The questions file of the demo."""

from exporters.demo.questions import main as write_questions
from exporters.demo.tasks import FAMILIES, split_tasks
from exporters.measure.questions import read_questions


def test_the_questions_file_of_a_split_can_be_read(tmp_path):
    write_questions("test", tmp_path / "q.jsonl")
    questions = read_questions(tmp_path / "q.jsonl")
    assert [question.question for question in questions] == [task.question for task in split_tasks().test]
    assert {question.group for question in questions} == set(FAMILIES)
